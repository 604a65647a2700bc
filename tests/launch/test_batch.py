"""The batch scripts on stand-ins for SLURM's commands: what they start, in which environment, when they come back.

`test_protocol.py` tests the same scripts on a real SLURM, where there is one; here every decision is made once.
"""

import os
import socket
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.launch.slurm import ROOT

RECORD = "env -0 > environment; printf '%s\\0' \"$@\" > arguments\n"
COMMANDS = {
    "srun": RECORD + 'if [[ -n ${FAKE_RANKS:-} ]]; then eval "$FAKE_RANKS"; fi; exit "${FAKE_CODE:-0}"\n',
    "scontrol": """case "$*" in
    "show hostnames "*) printf 'node1\\nnode2\\n' ;;
    "show node node1") echo "NodeName=node1 ${FAKE_ADDRESS-NodeAddr=127.0.0.1} NodeHostName=node1" ;;
    "show job 14242") echo "JobId=14242 ${FAKE_JOB:-Reason=None PreemptTime=None}" ;;
    "requeue 14242") touch requeued; exit "${FAKE_REQUEUE:-0}" ;;
    *) exit 9 ;;
esac
""",
    "sbatch": """n=$(($(cat jobs 2>/dev/null || echo 100) + 1)); echo $n > jobs; echo "$n;east"
printf '%s\\0' "$@" > "arguments-$n"; env -0 > "environment-$n"
""",
    "python": RECORD + 'exit "${FAKE_CODE:-0}"\n',
}
FIXED = ["--export=ALL", "--kill-on-bad-exit=1", "--wait=60", "--label", "bash", "launch/rank.sh"]


@pytest.fixture
def start(tmp_path):
    """A function: start a script of launch/ in a folder whose commands are the stand-ins, and wait for its end."""
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        (tmp_path / "bin" / name).write_text("#!/usr/bin/env bash\n" + text)
        (tmp_path / "bin" / name).chmod(0o755)

    def start(script, *arguments, **variables):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "LAVIE_", "NCCL"))}
        for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "VIRTUAL_ENV", "CONDA_DEFAULT_ENV"):
            clean.pop(name, None)
        job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "14242", "SLURM_JOB_NODELIST": "node[1-2]"}
        places = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
        environment = clean | job | places | variables
        command = ["bash", f"launch/{script}", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return start


def fields(path: Path) -> list[str]:
    return path.read_text().split("\0")[:-1]


def environment(path: Path) -> dict[str, str]:
    return dict(field.split("=", 1) for field in fields(path))


# --- what a job starts


def test_a_job_starts_a_rank_a_task_from_the_newest_checkpoint(start, tmp_path):
    done = start("base.slurm", "other.yaml", "a.b_2=1", "c=d e", SLURM_CPUS_PER_TASK="12")
    assert done.returncode == 0 and "finished" in done.stdout and not (tmp_path / "requeued").exists()
    given = ["--deepspeed", "configs/zero3.json", "other.yaml", "a.b_2=1", "c=d e", "resume_from_checkpoint=auto"]
    assert fields(tmp_path / "arguments") == [*FIXED, *given]
    assert "start 1 on node[1-2], meeting at 127.0.0.1:24242" in done.stdout
    wanted = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT="24242", OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    wanted |= dict(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", NCCL_DEBUG="WARN", SRUN_CPUS_PER_TASK="12")
    assert wanted.items() <= environment(tmp_path / "environment").items()


@pytest.mark.parametrize("stage", ("base", "interpolation", "vsr"))
def test_each_stage_starts_with_its_config_and_the_environment_of_the_submission(start, tmp_path, stage):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text("export OURS=1\n")
    given = dict(OMP_NUM_THREADS="3", NCCL_DEBUG="INFO", LAVIE_DEEPSPEED="z.json", SLURM_RESTART_COUNT="2")
    done = start(f"{stage}.slurm", FAKE_ADDRESS="", **given)
    assert "start 3 on" in done.stdout and "meeting at node1:24242" in done.stdout
    wanted = [*FIXED, "--deepspeed", "z.json", f"configs/{stage}.yaml", "resume_from_checkpoint=auto"]
    assert fields(tmp_path / "arguments") == wanted
    seen = environment(tmp_path / "environment")
    assert (seen["OMP_NUM_THREADS"], seen["NCCL_DEBUG"], seen["MASTER_ADDR"]) == ("3", "INFO", "node1")
    assert seen["OURS"] == "1" and "SRUN_CPUS_PER_TASK" not in seen


@pytest.mark.parametrize("active", (dict(VIRTUAL_ENV="/x"), dict(CONDA_DEFAULT_ENV="mine")))
def test_an_active_environment_stays(start, tmp_path, active):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text("export OURS=1\n")
    assert start("base.slurm", **active).returncode == 0
    assert "OURS" not in environment(tmp_path / "environment")


def test_a_port_that_somebody_listens_on_is_passed_over(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 24242))
        taken.listen()
        assert "meeting at 127.0.0.1:24243" in start("base.slurm").stdout


@pytest.mark.parametrize(
    "change, message",
    (
        ("b c", "got b\\ c, wanted key=value"),
        ("--x=1", "got --x=1, wanted"),
        ("1=2", "wanted key"),
        ("resume_from_checkpoint=x", "is the job's to set"),
    ),
)
def test_wrong_changes_start_nothing(start, tmp_path, change, message):
    done = start("base.slurm", "a=1", change)
    assert done.returncode == 2 and not (tmp_path / "arguments").exists()
    assert message in done.stderr


def test_a_job_without_a_number_starts_nothing(start, tmp_path):
    done = start("base.slurm", SLURM_JOB_ID="x")
    assert done.returncode == 2 and "SLURM_JOB_ID is no number" in done.stderr and not (tmp_path / "arguments").exists()


def test_scripts_start_in_the_checkout_alone(start, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for script in ("base.slurm", "stages.sh"):
        done = start(script, "folder", SLURM_SUBMIT_DIR=str(tmp_path / "elsewhere"))
        assert done.returncode == 2 and "from the checkout's root" in done.stderr
    assert not (tmp_path / "jobs").exists() and not (tmp_path / "elsewhere/arguments").exists()


# --- what becomes of a job

STOP = "trap 'exit $FAKE_CODE' USR2; kill -USR2 $PPID; while true; do sleep 0.05; done"
SLOW = partial(pytest.param, marks=pytest.mark.slow)  # the shell asks the ranks every five seconds, and waits for that
END = "kill -TERM $PPID; sleep 0.3"


@pytest.mark.parametrize(
    "code, variables, back, words",
    (
        (0, {}, False, "finished"),
        (85, {}, True, "stopped as asked: requeued (1 of at most 100 times)"),
        (85, dict(SLURM_RESTART_COUNT="99"), True, "requeued (100 of at most 100 times)"),
        (85, dict(SLURM_RESTART_COUNT="100"), False, "stopped as asked: not requeued, for it was 100 times before"),
        (85, dict(LAVIE_MAX_REQUEUES="0"), False, "not requeued, for it was 0 times before (LAVIE_MAX_REQUEUES)"),
        (85, dict(FAKE_REQUEUE="1"), True, "SLURM does not allow that"),
        (200, dict(SLURM_RESTART_COUNT="3"), False, "failed: not requeued"),
        (1, {}, False, "crashed (exit code 1): not requeued, for it did so within 600 s (LAVIE_CRASH_SECONDS)"),
        (1, dict(SLURM_RESTART_COUNT="1"), True, "crashed (exit code 1): requeued (2 of at most 100 times)"),
        (143, dict(LAVIE_CRASH_SECONDS="0"), True, "crashed (exit code 143): requeued"),
        (143, dict(FAKE_JOB="PreemptTime=2026-01-01T00:00:00"), True, "preempted (exit code 143): requeued"),
        SLOW(85, dict(FAKE_RANKS=STOP), True, "asked to stop: the ranks will save and leave"),
        SLOW(1, dict(FAKE_RANKS=STOP), True, "crashed (exit code 1): requeued"),
        (
            143,
            dict(FAKE_RANKS=END, FAKE_JOB="Reason=TimeLimit"),
            True,
            "out of time before the ranks had left: requeued",
        ),
        (143, dict(FAKE_RANKS=END, SLURM_RESTART_COUNT="1"), False, "ended by SLURM (exit code 143)"),
    ),
)
def test_a_job_comes_back_or_does_not(start, tmp_path, code, variables, back, words):
    done = start("base.slurm", FAKE_CODE=str(code), **variables)
    assert words in done.stdout and done.returncode == code
    assert (tmp_path / "requeued").exists() == back
    if "FAKE_RANKS" in variables and "TERM" in variables["FAKE_RANKS"]:
        assert "ended by SLURM" in done.stdout and "crashed" not in done.stdout


# --- one rank


def test_a_rank_has_its_numbers_and_caches_of_its_own(start, tmp_path):
    given = dict(SLURM_PROCID="5", SLURM_LOCALID="1", SLURM_NTASKS="8", FAKE_CODE="7")
    done = start("rank.sh", "--deepspeed", "a b", **given)
    assert done.returncode == 7
    assert fields(tmp_path / "arguments") == ["train.py", "--deepspeed", "a b"]
    cache = tmp_path / f"lavie-{os.getuid()}"
    wanted = dict(RANK="5", LOCAL_RANK="1", WORLD_SIZE="8")
    wanted |= dict(TRITON_CACHE_DIR=f"{cache}/triton", TORCHINDUCTOR_CACHE_DIR=f"{cache}/inductor")
    assert wanted.items() <= environment(tmp_path / "environment").items()
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
def test_a_cache_of_somebody_else_is_refused(start, tmp_path):
    cache = tmp_path / f"lavie-{os.getuid()}"
    cache.mkdir()
    os.chown(cache, 12345, 12345)
    done = start("rank.sh", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NTASKS="1")
    assert done.returncode == 2 and "belongs to somebody else" in done.stderr and not (tmp_path / "arguments").exists()


# --- the three stages


def test_each_stage_waits_for_the_one_before(start, tmp_path):
    done = start("stages.sh", "out", "--account=me", "k=v", SLURM_CONF="/etc/x", SLURM_NTASKS="3")
    assert done.returncode == 0
    assert done.stdout == "base: job 101\ninterpolation: job 102, afterok:101\nvsr: job 103, afterok:102\n"
    start_of_all = ["--parsable", "--kill-on-invalid-dep=yes"]
    assert fields(tmp_path / "arguments-101") == [
        *[*start_of_all, "--account=me", "launch/base.slurm"],
        *["output_dir=out/base", "k=v"],
    ]
    assert fields(tmp_path / "arguments-102") == [
        *[*start_of_all, "--dependency=afterok:101", "--account=me", "launch/interpolation.slurm"],
        *["output_dir=out/interpolation", "init_weights=out/base", "k=v"],
    ]
    assert fields(tmp_path / "arguments-103") == [
        *[*start_of_all, "--dependency=afterok:102", "--account=me", "launch/vsr.slurm"],
        *["output_dir=out/vsr", "k=v"],
    ]
    for job in (101, 102, 103):
        names = {name for name in environment(tmp_path / f"environment-{job}") if name.startswith("SLURM_")}
        assert names == {"SLURM_CONF"}


@pytest.mark.parametrize("arguments", ((), ("--account=me",), ("k=v",), ("out", "word"), ("out", "-x")))
def test_wrong_arguments_submit_nothing(start, tmp_path, arguments):
    done = start("stages.sh", *arguments)
    assert done.returncode == 2 and "usage: bash launch/stages.sh FOLDER" in done.stderr
    assert not (tmp_path / "jobs").exists()


def test_headers():
    """One task a GPU; the request to stop reaches the batch shell; a job that comes back goes on in the same file."""
    lines = (ROOT / "launch/base.slurm").read_text().splitlines()
    headers = [line.split("#SBATCH --")[1].split()[0] for line in lines if line.startswith("#SBATCH")]
    assert dict(header.partition("=")[::2] for header in headers) == {
        "job-name": "lavie-base",
        "nodes": "1",
        "gpus-per-node": "8",
        "ntasks-per-node": "8",
        "cpus-per-task": "12",
        "time": "24:00:00",
        "signal": "B:USR2@120",
        "requeue": "",
        "open-mode": "append",
        "output": "%x-%j.out",
    }
