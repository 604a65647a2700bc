"""A real SLURM of two nodes on this machine: munged, slurmctld and a slurmd for each node, under one folder.

Each node claims 8 GPUs and 96 cores, so that the headers of launch/*.slurm are valid as they are. Ports, keys and state
are the cluster's own: several can run at a time, beside one that the machine may really belong to.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lavie.testing import free_port

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "setpriv")

CONFIGURATION = """
ClusterName=lavie
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
FirstJobId={first_job}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits for its old credential to expire, 120 s by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=5
ReturnToService=2
JobRequeue=1
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={n1} CPUs=96 CoresPerSocket=96 Gres=gpu:8 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={n2} CPUs=96 CoresPerSocket=96 Gres=gpu:8 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=n1,n2 PriorityTier=2
"""


def lacking() -> str:
    """Return why no cluster can run on this machine, or nothing if one can."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if missing:
        return f"no {', '.join(missing)} here: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root"


def wait_until(
    what: str | Callable[[], str], condition: Callable[[], object], seconds: float, every: float = 0.2
) -> None:
    """Return when `condition()`, asked `every` so often, is true; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(every)


class SlurmCluster:
    """A cluster of two nodes: call `start` before its other methods, and `stop` whatever happens."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lavie-slurm-"))  # short, for sockets; open to the user munge
        self.folder.chmod(0o711)
        self._daemons: list[subprocess.Popen] = []
        self.first_job = 1 + secrets.randbelow(9_000)  # the ports of jobs follow from their numbers
        self.environment = os.environ | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "VIRTUAL_ENV": str(Path(sys.executable).parents[1]),
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        """Start the daemons, and return when both nodes are idle."""
        ports = dict(zip(("port", "n1", "n2"), _free_ports(3), strict=True))
        host = socket.gethostname().split(".")[0]
        text = CONFIGURATION.format(folder=self.folder, host=host, first_job=self.first_job, **ports)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={self.folder}/gpu[0-7]\n")
        for number in range(8):
            (self.folder / f"gpu{number}").symlink_to("/dev/null")  # a GPU must be a device

        # munged runs as its own user and wants its files to be that user's.
        munge = self.folder / "munge"
        for name in ("state", "n1", "n2", "munge"):
            (self.folder / name).mkdir(mode=0o755)
        (munge / "key").write_bytes(secrets.token_bytes(128))
        (munge / "key").chmod(0o400)
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
        files = [f"--{key}={munge}/{key.split('-')[0]}" for key in ("socket", "key-file", "pid-file", "seed-file")]
        user = ("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups")
        self._daemon(*user, "munged", "--foreground", *files, f"--log-file={munge}/log")
        wait_until("munged's socket", (munge / "socket").exists, 20)

        self._daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._daemon("slurmd", "-D", "-N", node)
        wait_until(self._logs, lambda: self._dead() or self.nodes() == {"n1": "idle", "n2": "idle"}, 20)
        assert not self._dead(), self._logs()

    def stop(self) -> None:
        """Kill every process of the cluster and its jobs, known by the configuration in their environment."""
        marker = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        while found := [pid for pid in _processes() if marker in _environment(pid)]:
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in found:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        shutil.rmtree(self.folder, ignore_errors=True)

        # DeepSpeed leaves 66 MB for each rank on a CPU, by port.
        for port in range(20_000 + self.first_job, 20_000 + self.first_job + 200):
            for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
                buffer.unlink()

    def call(self, *command: object, check: bool = True) -> str:
        """Run a command of SLURM's in the checkout's root and return what it printed."""
        done = subprocess.run(
            [str(c) for c in command], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def fail_node(self, name: str) -> None:
        """Let a node fail, and come back.

        By ReturnToService=2 it comes back of itself when its daemon next speaks; if that was at once, there is nothing
        to resume, and SLURM says so.
        """
        self.call("scontrol", "update", f"NodeName={name}", "State=down", "Reason=test")
        self.call("scontrol", "update", f"NodeName={name}", "State=resume", check=False)

    def nodes(self) -> dict[str, str]:
        """Return the state of each node, by its name."""
        lines = self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t", check=False).splitlines()
        return dict(line.split() for line in lines if re.fullmatch(r"n\d \S+", line))

    def submit(
        self, script: str, *changes: str, options: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
    ) -> "Job":
        """Run `sbatch options launch/<script> changes`, on two nodes with one rank each unless the options differ."""
        output = self.folder / f"{time.monotonic_ns()}.out"
        command = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", f"--output={output}", *options]
        done = subprocess.run(
            [*command, f"launch/{script}", *changes],
            cwd=ROOT,
            env=self.environment | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return Job(self, int(done.stdout), output)

    def _daemon(self, *command: str) -> None:
        """Start a daemon, with its output in a file of the cluster's folder."""
        with (self.folder / f"daemon{len(self._daemons)}.log").open("w") as log:
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            )

    def _dead(self) -> bool:
        """Return whether a daemon has ended."""
        return any(daemon.poll() is not None for daemon in self._daemons)

    def _logs(self) -> str:
        """Return the end of every log of the cluster."""
        logs = sorted(self.folder.glob("*.log"))
        return "".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}\n" for path in logs)


@dataclass(frozen=True)
class Job:
    """A job of a cluster, with the file that its output goes to."""

    cluster: SlurmCluster
    number: int
    path: Path

    @property
    def output(self) -> str:
        """What the job has printed so far."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def field(self, name: str) -> str:
        """Return what `scontrol show job` says of the job under this name."""
        return re.search(rf"\b{name}=(\S*)", self.cluster.call("scontrol", "show", "job", self.number))[1]

    def has_started(self, times: int = 1, seconds: float = 60) -> None:
        """Wait until the job's script has started so many times."""
        text = f": start {times} on"
        wait_until(lambda: f"{text}; got:\n{self.output}", lambda: text in self.output, seconds)

    def ends(self, state: str, seconds: float = 90) -> str:
        """Wait until the job has ended for good, which must be in this state, and return its output."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        wait_until(lambda: f"job's end; {self.field('JobState')}:\n{self.output}", lambda: self.state in over, seconds)
        assert self.state == state, f"{self.state}\n{self.output}"
        return self.output

    @property
    def state(self) -> str:
        """What SLURM calls the job's state, such as RUNNING."""
        return self.field("JobState")

    def ranks(self) -> dict[int, int]:
        """Return the process of each rank that runs now, by rank."""
        mark = f"SLURM_JOB_ID={self.number}".encode()
        conf = f"SLURM_CONF={self.cluster.folder}/slurm.conf".encode()
        found = {}
        for pid in _processes():
            variables = _environment(pid)
            if mark in variables and conf in variables and _is_rank(pid):
                [rank] = [int(v[5:]) for v in variables if v.startswith(b"RANK=")] or [-1]
                found[rank] = pid
        return found


def _free_ports(count: int) -> list[int]:
    """Return different TCP ports that nobody listens on."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)


def _processes() -> list[int]:
    """Return the processes of this machine but for this one."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and int(path.name) != os.getpid()]


def _environment(pid: int) -> list[bytes]:
    """Return the environment that a process started with, as NAME=VALUE; none if it has ended."""
    try:
        return (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _is_rank(pid: int) -> bool:
    """Return whether the process is `python train.py`, and not what that started."""
    with suppress(OSError):
        return b"train.py" in (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")[:3]
    return False
