"""Training on a real SLURM, interrupted in every way: the losses and weights are those of a run without interruption.

LAVIE_SLURM_CYCLES=20 (make test-slurm) interrupts it so often; without it, twice.
"""

import hashlib
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch

from lavie.config.load import load_config
from lavie.config.train import TrainConfig
from lavie.data.prepare.synthetic import demo_set
from lavie.testing import run_distributed
from tests.launch.slurm import Job, SlurmCluster, wait_until

CYCLES = int(os.environ.get("LAVIE_SLURM_CYCLES", 2))
STEPS = 10 + 10 * CYCLES
CONFIG = "configs/smoke/base.yaml"
TINY = [
    *("data.height=8", "data.width=8", "data.num_frames=2", "data.num_images=1", "data.num_workers=0"),
    *("model.block_out_channels=[32]", "model.cross_attention=[true]", "model.num_attention_heads=1"),
    *("model.norm_num_groups=4", "train_batch_size=1", "data.validation=[]", "validation_prompts=[]"),
    *(f"max_train_steps={STEPS}", "checkpointing_steps=5"),
]
PATIENCE = 300

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="its two nodes would share one GPU"),
    pytest.mark.slow,
]


def uninterrupted(config: TrainConfig) -> None:
    """Train without SLURM. Runs inside each rank."""
    from lavie.training.trainer import Trainer

    Trainer(config, "configs/zero3.json").fit()


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The overrides that make the smoke run tiny."""
    data = tmp_path_factory.mktemp("data")
    demo_set(data, clips=8, images=4, size=16)
    return [*TINY, f"data.train={data}/train"]


@pytest.fixture(scope="module")
def expected(changes, tmp_path_factory) -> tuple[list[tuple[int, float]], str]:
    """Provide the result of a run on two ranks that no SLURM started and nothing interrupted."""
    output = tmp_path_factory.mktemp("expected")
    run_distributed(uninterrupted, 2, load_config(CONFIG, [*changes, f"output_dir={output}"]))
    return result(output)


def losses(output: Path) -> list[tuple[int, float]]:
    """Step and loss of every whole line that is there."""
    path = output / "metrics.jsonl"
    lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [(record["step"], record["loss"]) for record in map(json.loads, lines)]


def result(output: Path) -> tuple[list[tuple[int, float]], str]:
    """The losses, and a hash of the last checkpoint's averaged weights."""
    weights = output / f"checkpoint-{STEPS}" / "unet" / "diffusion_pytorch_model.safetensors"
    return losses(output), hashlib.sha256(weights.read_bytes()).hexdigest()


def test_two_jobs_on_two_nodes_train_as_two_ranks_do_without_slurm(cluster, changes, expected, output):
    """Both jobs have a rank on each node, at the same time."""
    half, outputs = ("--gpus-per-node=4",), [output / name for name in ("first", "second")]
    jobs = [cluster.submit("base.slurm", CONFIG, *changes, f"output_dir={o}", options=half) for o in outputs]
    wait_until("the ranks of both", lambda: all(len(job.ranks()) == 2 for job in jobs), PATIENCE)
    for job, folder in zip(jobs, outputs, strict=True):
        text = job.ends("COMPLETED", PATIENCE)
        assert "resume_from_checkpoint is auto" in text and "starts at step 0" in text
        assert result(folder) == expected
        assert json.loads((folder / f"checkpoint-{STEPS}" / "checkpoint.json").read_text())["world_size"] == 2


class Interruption:
    """One way to interrupt a job whose ranks run, at the `cycle`-th time."""

    def __init__(self, cluster: SlurmCluster, job: Job, output: Path, cycle: int):
        self.cluster, self.job, self.output, self.cycle = cluster, job, output, cycle

    def _some_steps(self) -> None:
        pattern = re.compile(rf": start {self.cycle} on.*?: [-0-9]+ [:0-9]+ step (\d+)/", re.DOTALL)
        wait_until(lambda: f"a first step:\n{self.job.output}", lambda: pattern.search(self.job.output), PATIENCE)
        goal = int(pattern.search(self.job.output)[1]) + 2
        wait_until(lambda: f"step {goal}:\n{self.job.output}", lambda: last_step(self.output) >= goal, PATIENCE)

    def signal_to_one_rank(self) -> None:
        """All ranks leave after the same step all the same."""
        self._some_steps()
        os.kill(self.job.ranks()[self.cycle % 2], signal.SIGUSR2)

    def killed_rank(self) -> None:
        self._some_steps()
        os.kill(self.job.ranks()[self.cycle % 2], signal.SIGKILL)

    def signal_to_the_ranks(self) -> None:
        self._some_steps()
        self.cluster.call("scancel", "--signal=USR2", self.job.number)

    def signal_during_the_start(self) -> None:
        wait_until("both ranks", lambda: len(self.job.ranks()) == 2, PATIENCE)
        self.cluster.call("scancel", "--batch", "--signal=USR2", self.job.number)

    def node_down(self) -> None:
        self._some_steps()
        self.cluster.fail_node("n2")

    def signal_during_a_save(self) -> None:
        self._some_steps()
        wait_until("a save", lambda: list(self.output.glob(".checkpoint-*.partial")), PATIENCE, every=0.01)
        self.cluster.call("scancel", "--batch", "--signal=USR2", self.job.number)

    def time_limit(self) -> None:
        """Ranks in the middle of a long step, which ends before their time is up."""
        self._some_steps()
        ranks = self.job.ranks().values()
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        try:
            self.cluster.call("scontrol", "update", f"JobId={self.job.number}", "EndTime=now+60")
            asked = re.compile(rf": start {self.cycle} on.*?: asked to stop: the ranks", re.DOTALL)
            wait_until(lambda: f"a warning:\n{self.job.output}", lambda: asked.search(self.job.output), 90)
        finally:
            for pid in ranks:
                os.kill(pid, signal.SIGCONT)
        self.job.has_started(self.cycle + 1, PATIENCE)
        self.cluster.call("scontrol", "update", f"JobId={self.job.number}", "TimeLimit=60")


WAYS = [way for name, way in vars(Interruption).items() if not name.startswith("_")]


def last_step(output: Path) -> int:
    return max((step for step, _ in losses(output)), default=0)


def test_an_interrupted_job_resumes_at_the_right_step_bit_for_bit(cluster, changes, expected, output):
    job = cluster.submit(
        "base.slurm", CONFIG, *changes, f"output_dir={output}", environment={"LAVIE_CRASH_SECONDS": "0"}
    )
    for cycle in range(1, CYCLES + 1):
        job.has_started(cycle, PATIENCE)
        WAYS[(cycle - 1) % len(WAYS)](Interruption(cluster, job, output, cycle))
        job.has_started(cycle + 1, PATIENCE)
    text = job.ends("COMPLETED", PATIENCE)
    print(text)
    assert result(output) == expected
    assert job.field("Restarts") == str(CYCLES)
    # The step after which the ranks said they leave is the one that the next start resumed from.
    pairs = re.findall(r"ends after step (\d+) of(?:.|\n)*?start \d+ on(?:.|\n)*?resumed from \S+-(\d+)", text)
    assert pairs and all(left == resumed for left, resumed in pairs)
