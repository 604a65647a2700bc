"""One run by every launcher: the same losses, bit for bit on two ranks, whoever starts them and wherever they are."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from lavie.data.prepare.synthetic import demo_set
from lavie.run_folder import checkpoints, step_of
from lavie.testing import LOSS_RTOL, free_port
from tests.launch.slurm import SlurmCluster, lacking
from tests.nodes import BIN, SSHD, end, environment, finish, wait_until

pytestmark = pytest.mark.slow

STEPS = 10
PYTHON = str(BIN / "python")


def tiny_run(folder: Path, data: Path) -> Path:
    """A run small enough to start five times."""
    config = dict(
        output_dir="set on the command line",
        model=dict(
            in_channels=3,
            out_channels=3,
            block_out_channels=[16, 32],
            cross_attention=[True, False],
            layers_per_block=1,
            num_attention_heads=1,
            cross_attention_dim=16,
            norm_num_groups=4,
            rotary_dim=8,
        ),
        autoencoder=dict(type="patch", patch_size=4, coefficients=1, scaling_factor=0.25),
        text_encoder=dict(type="hash", max_length=6),
        data=dict(
            train=str(data / "train"), num_frames=4, num_images=2, height=32, width=32, frame_stride=1, num_workers=0
        ),
        max_train_steps=STEPS,
        train_batch_size=2,
        learning_rate=1e-3,
    )
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launchers")
    demo_set(folder, clips=24, images=12, size=32)
    return tiny_run(folder, folder)


@pytest.fixture(scope="module")
def trained(config: Path) -> Iterator[Callable[[str, Callable], list[float]]]:
    """The losses of the run as a launcher trains it; each launcher runs once."""
    done: dict[str, list[float]] = {}
    port = free_port()

    def trained(name: str, launch: Callable) -> list[float]:
        if name not in done:
            output = config.parent / name
            arguments = ["train.py", "--deepspeed", "configs/zero3.json", config, f"output_dir={output}"]
            launch(port, arguments)
            lines = (output / "metrics.jsonl").read_text().splitlines()
            done[name] = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
        return done[name]

    yield trained
    for left in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
        left.unlink()


def here(*command: object) -> None:
    """Run a command of one machine; it must succeed."""
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=Path(__file__).parents[1],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    finish(process)


def deepspeed(port: int, arguments: list) -> None:
    here(BIN / "deepspeed", "--num_gpus", 2, "--master_port", port, *arguments)


def test_the_death_of_the_front_end_ends_its_ranks_after_a_save(config, tmp_path):
    """By the one signal that `deepspeed` cannot pass on. No process is left, and all that was trained is saved."""
    output, log = tmp_path / "run", tmp_path / "log"
    command = [BIN / "deepspeed", "--num_gpus", 2, "--master_port", free_port(), "train.py"]
    command += ["--deepspeed", "configs/zero3.json", config, f"output_dir={output}", "max_train_steps=100000"]
    with log.open("w") as file:
        front_end = subprocess.Popen(
            list(map(str, command)),
            cwd=Path(__file__).parents[1],
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        records = output / "metrics.jsonl"
        wait_until(lambda: records.exists() and len(records.read_text().splitlines()) > 2, "training", 240)
        started = psutil.Process(front_end.pid).children(recursive=True)
        assert len(started) >= 3  # launch.py and two ranks
        front_end.kill()
        killed = time.monotonic()
        _, alive = psutil.wait_procs(started, timeout=30)
        assert not alive, log.read_text()
        assert time.monotonic() - killed < 15
    finally:
        end(front_end)
    assert log.read_text().count("the launcher has ended: the run saves after this step and stops") == 1
    [saved] = checkpoints(output)
    assert step_of(saved) == json.loads(records.read_text().splitlines()[-1])["step"]


def test_one_rank(trained):
    """No launcher, twice the batch: what two ranks compute, but for the order of sums."""
    alone = trained("python", lambda port, arguments: here(PYTHON, *arguments, "train_batch_size=4"))
    assert len(alone) == STEPS and len(set(alone)) == STEPS
    assert alone == pytest.approx(trained("deepspeed", deepspeed), rel=LOSS_RTOL)


def test_mpirun(trained):
    pytest.importorskip("mpi4py", reason="mpirun tells ranks their place through mpi4py", exc_type=ImportError)
    if not shutil.which("mpirun"):
        pytest.skip("no mpirun: openmpi-bin has it")
    mpirun = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", 2, PYTHON)
    losses = trained("mpirun", lambda port, arguments: here(*mpirun, *arguments))
    assert losses == trained("deepspeed", deepspeed)


def test_srun(trained):
    """On two nodes of a SLURM, as launch/base.slurm starts the ranks."""
    if reason := lacking():
        pytest.skip(reason)
    slurm = SlurmCluster()

    def sbatch(_: int, arguments: list) -> None:
        slurm.submit("base.slurm", *map(str, arguments[3:])).ends("COMPLETED", 240)

    try:
        slurm.start()
        assert trained("srun", sbatch) == trained("deepspeed", deepspeed)
    finally:
        slurm.stop()


def test_torchrun_on_two_nodes(trained, cluster):
    first, _second = cluster.nodes

    def torchrun(port: int, arguments: list) -> None:
        meeting = ("--nnodes", 2, "--nproc-per-node", 1, "--master-addr", first.address, "--master-port", port)
        agents = [
            node.start(BIN / "torchrun", *meeting, "--node-rank", i, *arguments) for i, node in enumerate(cluster.nodes)
        ]
        try:
            for agent in agents:
                finish(agent)
        finally:
            cluster.stop(*agents)

    assert trained("torchrun", torchrun) == trained("deepspeed", deepspeed)


def test_deepspeed_over_ssh(trained, cluster):
    if missing := [name for name in ("pdsh", "ssh", "ssh-keygen", SSHD) if not shutil.which(name)]:
        pytest.skip(f"no {', '.join(missing)}: pdsh and openssh-server have them")
    if os.geteuid():
        pytest.skip("sshd lets others in only as root")
    ssh = cluster.serve_ssh()
    hosts, exported = ssh / "hosts", ssh / "environment"
    hosts.write_text("".join(f"{node.address} slots=1\n" for node in cluster.nodes))
    kept = {k: v for k, v in environment().items() if k in ("OMP_NUM_THREADS", "TORCH_EXTENSIONS_DIR")}
    exported.write_text("".join(f"{k}={v}\n" for k, v in kept.items()))  # ssh takes nothing along by itself

    def launch(port: int, arguments: list) -> None:
        command = (BIN / "deepspeed", "--hostfile", hosts, "--master_port", port, *arguments)
        path = f"{ssh}:{environment()['PATH']}"
        finish(cluster.nodes[0].start(*command, PATH=path, DS_ENV_FILE=str(exported)))

    assert trained("ssh", launch) == trained("deepspeed", deepspeed)
