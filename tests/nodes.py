"""Two nodes on this machine: namespaces with addresses, host names and processes of their own, joined by one cable.

Where namespaces are not permitted, two loopback addresses stand in for the nodes. All that was started ends with
`close`, or with this process: the first process of each node reads a pipe that nobody else holds.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
NAMESPACES = ("--net", "--uts", "--mount", "--pid")
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment for a command of the checkout, without what would make it a rank."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    path = f"{BIN}:{kept['PATH']}:/usr/sbin:/sbin"
    return kept | {"OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": python_path(ROOT)} | changes


def python_path(tree: Path) -> str:
    """Return a PYTHONPATH that finds `lavie` in a checkout, and what this process finds."""
    rest = [p for p in os.environ.get("PYTHONPATH", "").split(":") if p and Path(p) != ROOT]
    return ":".join([str(tree), *rest])


def may_have_namespaces() -> bool:
    """Return whether this process may make network namespaces and cables between them."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    # A bridge would do: what is asked is whether the kernel lets us.
    command = ["unshare", *NAMESPACES, "--fork", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]
    return subprocess.run(command, capture_output=True, env=environment()).returncode == 0


class Node:
    """One node: where it can be reached, and how commands get there."""

    def __init__(self, name: str, address: str, init: subprocess.Popen | None):
        self.name, self.address, self._init = name, address, init
        self.enter: list[str] = []
        self.pid = 0
        if init:
            self.pid = _only_child(init.pid)
            self.enter = ["nsenter", "-t", str(self.pid), *NAMESPACES, f"--wdns={ROOT}"]

    def start(self, *command: object, **changes: str) -> subprocess.Popen:
        """Start a command at the checkout's root; standard output and error come together."""
        return subprocess.Popen(
            [*self.enter, *map(str, command)],
            cwd=ROOT,
            env=environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def listens(self, port: int) -> bool:
        """Return whether a process of this node waits for connections at a TCP port."""
        tables = [Path(f"/proc/{self.pid or 'self'}/net/{family}").read_text() for family in ("tcp", "tcp6")]
        return any(re.search(rf":{port:04X} \S+ 0A ", table) for table in tables)

    def run(self, *command: object, **changes: str) -> None:
        """Run a short command that must succeed."""
        finish(self.start(*command, **changes), timeout=30)


class TwoNodes:
    """Two nodes, with `ssh` between them if `serve_ssh` was called."""

    def __init__(self, folder: Path):
        self.folder, self.separate = folder, may_have_namespaces()
        self.started: list[subprocess.Popen] = []
        self.ssh_port = 22

        # Each in namespaces of its own, joined by a virtual cable; or two addresses of the loopback.
        if self.separate:
            inits = [self._init() for _ in range(2)]
            self.nodes = [Node(f"n{i}", f"10.77.0.{i}", init) for i, init in enumerate(inits, 1)]
            first, second = self.nodes
            cable = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(second.pid)]
            subprocess.run(["nsenter", "-t", str(first.pid), "--net", *cable], check=True, env=environment())
            for node in self.nodes:
                node.run("hostname", node.name)
                node.run("ip", "address", "add", f"{node.address}/24", "dev", "eth0")
                node.run("ip", "link", "set", "eth0", "up")
                node.run("ip", "link", "set", "lo", "up")
                # Shared memory of its own: what killed runs left there carries small process ids, as a node's are.
                node.run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
        else:
            self.ssh_port = free_port()
            self.nodes = [Node(socket.gethostname(), f"127.0.0.{i}", None) for i in (1, 2)]

    def _init(self) -> subprocess.Popen:
        """Start the first process of a node in new namespaces, which lives as long as its standard input is open."""
        command = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "--kill-child", "sh", "-c", "echo up; cat"]
        init = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.started.append(init)
        assert init.stdout and init.stdout.readline() == "up\n"
        return init

    def serve_ssh(self) -> Path:
        """Start a real sshd on each node; return a folder with an `ssh` that finds them, to be put first in PATH."""
        folder = self.folder / "ssh"
        folder.mkdir()
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd wants this folder, and nothing else outside

        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        for i, node in enumerate(self.nodes):
            config = folder / f"sshd{i}.conf"
            config.write_text(
                f"Port {self.ssh_port}\nListenAddress {node.address}\nHostKey {folder}/host\nPidFile none\n"
                f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
                "PasswordAuthentication no\nPrintMotd no\n"
            )
            self.started.append(node.start(SSHD, "-D", "-e", "-f", config))

        # It reads no configuration of this machine's user, and accepts the keys made above.
        ssh = folder / "ssh"
        options = f"-p {self.ssh_port} -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -q -F none {options} "$@"\n')
        ssh.chmod(0o755)
        for node in self.nodes:
            wait_until(lambda node=node: self._answers(ssh, node), f"sshd of {node.address}")
        return folder

    def _answers(self, ssh: Path, node: Node) -> bool:
        """Return whether a command on the first node reaches a node by `ssh`."""
        asked = self.nodes[0].start(ssh, node.address, "true")
        asked.communicate(timeout=30)
        return asked.returncode == 0

    @staticmethod
    def stop(*processes: subprocess.Popen) -> None:
        """Kill commands of any node that still run."""
        for process in processes:
            for child in _tree(process.pid):
                _kill(child)
            end(process)

    def close(self) -> None:
        """End everything: each node's first process takes the others with it."""
        trees = [p for started in self.started for p in _tree(started.pid)]
        for started in self.started:
            if started.stdin:
                started.stdin.close()
            else:
                end(started)
        for process in trees:  # those of a node without a namespace
            _kill(process)
        for started in self.started:
            started.wait(timeout=30)


def finish(process: subprocess.Popen, timeout: float = 240, succeeds: bool = True) -> str:
    """Wait for a command and return what it printed; whatever happens, the command ends."""
    try:
        printed, _ = process.communicate(timeout=timeout)
    finally:
        end(process)
    assert (process.returncode == 0) == succeeds, f"exit code {process.returncode}\n{printed}"
    return printed


def end(process: subprocess.Popen) -> None:
    """Kill what is left of a command and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """Return a port that is free on every address of this machine."""
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def wait_until(true, what: str, seconds: float = 20) -> None:
    """Wait until `true()` is true; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.1)


def _tree(pid: int) -> list[psutil.Process]:
    """Return a process and all that it started; none if it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    """Kill a process, unless it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _only_child(pid: int) -> int:
    """Return the child of a process: of `unshare`, the first process of the new namespaces."""
    return psutil.Process(pid).children()[0].pid
