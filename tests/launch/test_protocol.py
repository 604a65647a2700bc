"""The batch scripts on a real SLURM, with a stand-in for the trainer: when a job comes back, and when it must not."""

import json
import random
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lavie.cluster.hang import Cause
from lavie.training import stop
from tests.launch.slurm import ROOT, Job, SlurmCluster, wait_until


@pytest.fixture(scope="module")
def path(cluster: SlurmCluster) -> dict[str, str]:
    """An environment in which `python train.py` is the stand-in."""
    folder = cluster.folder / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/launch/stand_in.py "$@"\n')
    (folder / "python").chmod(0o755)
    return {"PATH": f"{folder}:{cluster.environment['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def submit(cluster: SlurmCluster, path: dict[str, str], output: Path):
    """Submits base.slurm with the stand-in, and cancels the job when the test is over."""
    jobs: list[Job] = []

    def submit(*changes: str, options: tuple[str, ...] = (), **environment: str) -> Job:
        changes = (f"output_dir={output}", *changes)
        jobs.append(cluster.submit("base.slurm", *changes, options=options, environment=path | environment))
        return jobs[-1]

    yield submit
    cluster.call("scancel", *[job.number for job in jobs], check=False)
    wait_until("end of all jobs", lambda: not cluster.call("squeue", "-h"), 60)


def both_ranks(job: Job, what: str, seconds: float = 30) -> None:
    """Wait until both ranks of the job say that: "waits" for what comes, or "saves"."""
    wait_until(lambda: f"both ranks {what}; got\n{job.output}", lambda: job.output.count(f": {what}\n") == 2, seconds)


def starts(job: Job) -> list[int]:
    """The steps from which the first rank started, one for each start of the job."""
    return [int(line.split()[-1]) for line in job.output.splitlines() if line.startswith("0: from step")]


def test_headers_are_valid_as_they_are(cluster):
    for script in ("base.slurm", "interpolation.slurm", "vsr.slurm"):
        assert "to start at" in cluster.call("sbatch", "--test-only", f"launch/{script}")


def test_a_finished_job_does_not_come_back(submit):
    job = submit("steps=3")
    assert "finished" in job.ends("COMPLETED")
    assert starts(job) == [0] and job.field("Restarts") == "0"


def test_ranks_have_the_jobs_environment_whatever_sbatch_exports(submit):
    """`sbatch --export` would otherwise decide what srun exports, too."""
    submit("steps=3", options=("--export=PATH,PYTHONPATH,VIRTUAL_ENV,SLURM_CONF",)).ends("COMPLETED")


def test_from_another_folder(cluster, submit, tmp_path):
    """SLURM runs a copy of the script, which does not know where it was."""
    job = submit("steps=3", options=(f"--chdir={tmp_path}",))
    assert "finished" in job.ends("COMPLETED")  # it is the folder of sbatch that counts
    command = ["sbatch", "--parsable", f"--output={tmp_path}/out", ROOT / "launch/base.slurm"]
    done = subprocess.run(command, cwd=tmp_path, env=cluster.environment, capture_output=True, text=True)
    assert "submit it from the checkout's root" in Job(cluster, int(done.stdout), tmp_path / "out").ends("FAILED")


def test_a_signal_to_the_ranks_saves_and_requeues(cluster, submit):
    job = submit("steps=10", "at=5:wait")
    both_ranks(job, "waits")
    cluster.call("scancel", "--signal=USR2", job.number)
    text = job.ends("COMPLETED")
    assert starts(job) == [0, 5]
    assert "stopped as asked: requeued (1 of at most 100 times)" in text and "finished" in text  # one output for both


def test_a_signal_to_the_script_reaches_ranks_that_are_just_starting(cluster, submit):
    """The first signal comes before any rank listens."""
    job = submit("steps=10", "at=5:wait")
    job.has_started()
    cluster.call("scancel", "--batch", "--signal=USR2", job.number)
    text = job.ends("COMPLETED")
    assert "the ranks will save and leave" in text and len(starts(job)) == 2


@pytest.mark.slow
def test_time_limit(cluster, submit, output):
    """SLURM warns by --signal. Ranks that leave in time have saved; if they do not, the job comes back all the same."""
    options = ("--time=5", "--signal=B:USR2@20", "--gpus-per-node=4")
    quick = submit("steps=10", "at=5:wait", options=options)
    slow = submit("steps=10", "at=5:wait", "save=600", f"output_dir={output.parent}/slow", options=options)
    for job, seconds in ((quick, 45), (slow, 25)):
        both_ranks(job, "waits")
        # SLURM looks at the ends of jobs twice a minute.
        cluster.call("scontrol", "update", f"JobId={job.number}", f"EndTime=now+{seconds}")
    for job, said in ((quick, "stopped as asked: requeued"), (slow, "out of time before the ranks had left: requeued")):
        text = job.ends("COMPLETED", 150)
        assert "asked to stop: the ranks will save and leave" in text and said in text
    assert starts(quick) == [0, 5] and starts(slow) == [0, 0]


def test_a_cancelled_job_does_not_come_back(cluster, submit):
    """Nor does it if it was saving: SLURM would take back a cancelled job."""
    job = submit("steps=10", "at=5:wait", "save=2")
    both_ranks(job, "waits")
    cluster.call("scancel", "--signal=USR2", job.number)
    both_ranks(job, "saves")
    cluster.call("scancel", job.number)
    job.ends("CANCELLED")
    wait_until("the cancelled job leaves its nodes", lambda: not cluster.call("squeue", "-h"), 30)
    assert "ended by SLURM" in job.output and "requeued" not in job.output and job.state == "CANCELLED"


def test_preemption(cluster, submit, output):
    job = submit("steps=10", "at=5:wait")
    both_ranks(job, "waits")
    submit(f"output_dir={output.parent}/urgent", options=("--partition=urgent", "--exclusive")).ends("COMPLETED")
    assert "the ranks will save and leave" in job.ends("COMPLETED")
    assert starts(job) == [0, 5]


def test_preemption_without_a_request_to_stop(cluster, submit, output):
    """The ranks get SIGTERM alone, and SLURM does not requeue what ends within the GraceTime."""
    path = cluster.folder / "slurm.conf"
    text = path.read_text()
    path.write_text(text.replace("SlurmctldParameters=preempt_send_user_signal\n", ""))
    try:
        cluster.call("scontrol", "reconfigure")
        job = submit("steps=10", "at=5:wait")
        both_ranks(job, "waits")
        submit(f"output_dir={output.parent}/urgent", options=("--partition=urgent", "--exclusive")).ends("COMPLETED")
        assert "preempted (exit code 143): requeued" in job.ends("COMPLETED") and len(starts(job)) == 2
    finally:
        path.write_text(text)
        cluster.call("scontrol", "reconfigure")


def test_a_node_that_fails(cluster, submit):
    """SLURM itself requeues; without a save, the job starts where it did before."""
    job = submit("steps=10", "at=5:wait")
    both_ranks(job, "waits")
    cluster.fail_node("n2")
    job.ends("COMPLETED")
    assert starts(job) == [0, 0] and job.field("Restarts") == "1"


def test_a_crash_of_one_rank_ends_all_and_the_job_comes_back_if_it_ran_long_enough(submit, tmp_path):
    job = submit("steps=100", "at=5:die", LAVIE_CRASH_SECONDS="0")
    text = job.ends("COMPLETED")
    assert "crashed (exit code 143): requeued" in text and len(starts(job)) == 2
    job = submit("steps=100", "at=5:die", f"output_dir={tmp_path}/again")
    assert "not requeued, for it did so within 600 s" in job.ends("FAILED")


def test_an_error_that_would_come_again_does_not_requeue(submit):
    """However long the job ran, and though the other rank is ended by a signal."""
    job = submit("steps=100", "at=5:200", LAVIE_CRASH_SECONDS="0")
    assert "failed: not requeued, for the error above would come again" in job.ends("FAILED")
    assert job.field("ExitCode") == "200:0"


def test_a_run_that_hangs_comes_back_however_soon_it_does(submit):
    """In its first start too, where a crash would count as one that comes again."""
    job = submit("steps=8", f"at=5:{Cause.DIVERGED:d}")
    text = job.ends("COMPLETED")
    assert "hung (exit code 192): requeued (1 of" in text and len(starts(job)) == 2


@pytest.mark.parametrize("code", (1, stop.LOST))
def test_a_job_that_ran_before_comes_back_however_soon_it_crashes(submit, code):
    """Its command is right, so it is the node, or one that did not come."""
    job = submit("steps=8", "at=5:stop", f"again={code}")
    text = job.ends("COMPLETED")
    assert re.search(rf"crashed \(exit code {'199' if code == stop.LOST else '1(43)?'}\): requeued \(2 of", text)
    assert job.field("Restarts") == "2" and starts(job) == [0, 6, 6]


def test_requeues_are_limited(submit):
    job = submit("steps=1000", "at=5:stop", LAVIE_MAX_REQUEUES="1")
    text = job.ends("FAILED")
    assert text.count("stopped as asked: requeued") == 1 and starts(job) == [0, 6]
    assert "stopped as asked: not requeued, for it was 1 times before (LAVIE_MAX_REQUEUES)" in text


def test_a_job_that_may_not_be_requeued_says_so(submit):
    text = submit("steps=1000", "at=5:stop", options=("--no-requeue",)).ends("FAILED")
    assert "SLURM does not allow that (--no-requeue?): submit it again to go on" in text


def test_two_jobs_on_the_same_nodes_and_a_port_that_is_taken(cluster, submit, output):
    """Each job has a port of its own; one that somebody else listens on is passed over."""
    half = ("--gpus-per-node=4",)
    first = submit("steps=10", "at=5:wait", options=half)
    both_ranks(first, "waits")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 20000 + first.number + 1))
        taken.listen()
        second = submit("steps=1", options=half)
        second.ends("COMPLETED")
        assert first.state == "RUNNING"
    ports = [int((output / f"meeting-{job.number}").read_text()) for job in (first, second)]
    assert second.number == first.number + 1
    assert ports == [20000 + first.number, 20000 + second.number + 1]


def hostile(number: int) -> list[str]:
    """Values of overrides that would run or write something if a shell read them. They make `canary` if they can."""
    draw = random.Random(0)
    touch = "touch canary"
    forms = [
        *("$({})", "`{}`", "; {} ;", "| {}", "&& {}", "|| {}", "& {} &", "\n{}\n", "'; {}; '", '"; {}; "', "$(({}))"),
        *("${{x:=$({})}}", "<({})", ">canary", ">>canary", "a[$({})]", "\\$({})", "\r\n{}\r\n", "!{}", "{{{},}}"),
        *("\n#SBATCH --wrap='{}'\n", "%x;{}", "eval {}", "$'\\x60{}\\x60'", "~/$({})", "*", "?", "--help", "-c {}"),
        *("\x1b]0;{}\x07", "é`{}`é", "\t$({})\t", "}}; {}; {{", "#{}", "#\n{}", "'$({})'", '"$({})"', "\\\n{}"),
    ]
    values = [form.format(touch) if "{" in form else form for form in forms]
    while len(values) < number:
        values.append("".join(draw.choices(values[: len(forms)], k=draw.randint(2, 4))))
    return values


def test_hostile_overrides_arrive_as_they_are_and_run_nothing(submit, output):
    cases = [f"data.key{i}={value}" for i, value in enumerate(hostile(300))]
    assert len(set(cases)) == 300
    jobs = [(submit(*part), part) for part in (cases[i : i + 30] for i in range(0, 300, 30))]
    for job, part in jobs:
        job.ends("COMPLETED")
        for rank in range(2):
            arguments = json.loads((output / f"arguments-{job.number}-{rank}.json").read_text())
            assert arguments[6:-1] == part and arguments[-1] == "resume_from_checkpoint=auto"
    places = [ROOT, ROOT / "launch", output, Path.home(), Path.cwd(), Path("/tmp")]
    assert not [place for place in places if (place / "canary").exists()]


@pytest.mark.parametrize(
    "argument", ("--deepspeed=x", "-h", "$(touch canary)", "a b=1", "", "=1", "a[$(touch canary)]=1")
)
def test_what_is_no_override_is_refused(submit, argument):
    assert "wanted key=value" in submit(argument).ends("FAILED") and not (ROOT / "canary").exists()


def test_where_to_resume_is_the_jobs_to_decide(submit):
    assert "newest checkpoint" in submit("resume_from_checkpoint=latest").ends("FAILED")


def test_another_config_may_be_named(submit, cluster, path, output):
    job = cluster.submit("base.slurm", "configs/base_quality.yaml", f"output_dir={output}", environment=path)
    job.ends("COMPLETED")
    assert "configs/base_quality.yaml" in json.loads((output / f"arguments-{job.number}-0.json").read_text())


def chain(cluster: SlurmCluster, path: dict[str, str], folder: Path, *changes: str) -> list[Job]:
    """The jobs of the three stages that stages.sh submits."""
    environment = cluster.environment
    cluster.environment = environment | path
    try:
        options = ("--nodes=2", "--ntasks-per-node=1", f"--output={folder}/%x.out")
        printed = cluster.call("bash", "launch/stages.sh", folder, *options, *changes)
    finally:
        cluster.environment = environment
    stages = [line.split() for line in printed.splitlines()]
    assert [words[0] for words in stages] == ["base:", "interpolation:", "vsr:"], printed
    return [Job(cluster, int(w[2].rstrip(",")), folder / f"lavie-{w[0].rstrip(':')}.out") for w in stages]


@pytest.mark.slow
def test_array_runs_the_stages_in_turn(cluster, path, tmp_path):
    """A stage that is asked to stop and comes back does not let the next one begin."""
    base, interpolation, vsr = chain(cluster, path, tmp_path, "steps=10", "at=5:stop")
    for job in (base, interpolation, vsr):
        assert "finished" in job.ends("COMPLETED") and starts(job) == [0, 6]
    ends = [job.field(name) for job in (base, interpolation, vsr) for name in ("StartTime", "EndTime")]
    assert ends == sorted(ends)
    [given] = (tmp_path / "interpolation").glob("arguments-*-0.json")
    assert f"init_weights={tmp_path}/base" in json.loads(given.read_text())
    assert "configs/vsr.yaml" in next((tmp_path / "vsr").glob("arguments-*-0.json")).read_text()


def test_array_ends_with_the_first_stage_that_fails(cluster, path, tmp_path):
    base, interpolation, vsr = chain(cluster, path, tmp_path, "steps=9", "at=2:200")
    base.ends("FAILED")
    for job in (interpolation, vsr):
        job.ends("CANCELLED")
        assert not job.path.exists()
