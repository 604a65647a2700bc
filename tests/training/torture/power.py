"""A power cut: the image of a disk at a random moment, mounted again as after a start of the machine.

1. An ext4 file system in a file is mounted, and a worker saves one step after another in it.
2. At a random moment the worker is stopped, and the image copied. What the system still holds in memory is lost in the
   copy, as at a power cut. Where the disk was written to meanwhile, the copy is no moment's image, and another is made.
3. The copy is mounted, which replays the journal, and looked at: the newest step that the worker had told as saved must
   be there, or a later one.

What a disk reorders in its own cache is not tried.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.training.torture.worker import Worker

SIZE = 16
"""MiB of the disk."""
STEPS = 9
"""Saves in a row; VERSIONS holds no more."""


class Cut(NamedTuple):
    """What became of a power cut."""

    told: int
    """The newest step that was told as saved."""
    during: bool
    """Whether a save was going on."""
    result: str
    good: bool


def possible() -> str | None:
    """Return why no power can be cut here; None if it can."""
    if os.geteuid() != 0:
        return "only root may mount"
    missing = [tool for tool in ("mkfs.ext4", "losetup", "mount") if not shutil.which(tool)]
    if missing:
        return f"no {missing[0]}"
    loop = subprocess.run(["losetup", "-f"], capture_output=True, text=True)
    return None if loop.returncode == 0 and Path(loop.stdout.strip()).exists() else "no loop devices"


@contextmanager
def mounted(image: Path, where: Path) -> Iterator[str]:
    """Mount an image for the while, and yield the name of its loop device, such as loop0."""
    where.mkdir(exist_ok=True)
    device = subprocess.check_output(["losetup", "-f", "--show", str(image)], text=True).strip()
    try:
        subprocess.run(["mount", "-t", "ext4", device, str(where)], check=True)
        try:
            yield Path(device).name
        finally:
            subprocess.run(["umount", str(where)], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def cuts(subject: str, folder: Path, count: int, seed: int) -> Iterator[Cut]:
    """Yield what becomes of power cuts at random moments, in and after saves of a subject."""
    rng = random.Random(seed)
    folder.mkdir()
    disk, copy = folder / "disk.img", folder / "copy.img"
    with Worker(subject, folder / "looks") as looks:
        for _ in range(count):
            disk.unlink(missing_ok=True)
            with disk.open("wb") as file:
                file.truncate(SIZE << 20)
            subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
            with mounted(disk, folder / "mount") as device:
                told, during = _cut(subject, folder / "mount", disk, copy, device, rng)
            with mounted(copy, folder / "again"):
                found = looks.ask("look", folder / "again" / "run")
            if told == 0 and not found.loaded:
                yield Cut(told, during, "nothing was told as saved", True)
            elif found.problem:
                yield Cut(told, during, "the run stops with an error", False)
            elif not found.loaded:
                yield Cut(told, during, "starts at step 0", False)
            elif found.version is None:
                yield Cut(told, during, "other values loaded without a word", False)
            elif found.version < told:
                yield Cut(told, during, "an older one than was told", False)
            else:
                yield Cut(told, during, "the newest told, or a later one", True)


def _cut(subject: str, mount: Path, disk: Path, copy: Path, device: str, rng: random.Random) -> tuple[int, bool]:
    """Let a worker save, and copy the image at a random moment; return the newest step told, and whether in a save."""
    with Worker(subject, mount / "run") as worker:
        worker.begin("saves", 1, STEPS, rng.choice((0.0, 0.05, 0.5)))
        moment = time.monotonic() + rng.uniform(0, 1.5)
        heard = {"begins": 0, "saved": 0}
        while True:
            _hear(worker, heard, moment)
            _stop(worker.pid)
            _hear(worker, heard, 0.0)
            before = _written(device)
            shutil.copyfile(disk, copy)
            if _written(device) == before:
                return heard["saved"], heard["begins"] > heard["saved"]
            os.kill(worker.pid, signal.SIGCONT)
            moment = time.monotonic() + rng.uniform(0, 0.05)


def _hear(worker: Worker, heard: dict[str, int], until: float) -> None:
    """Note what a worker says up to a moment: the newest step that begins, and that is saved."""
    while (said := worker.heard(max(0.0, until - time.monotonic()))) is not None:
        assert said[0] in heard, said
        heard[said[0]] = said[1]


def _stop(pid: int) -> None:
    """Stop a process, and return when no thread of it is in a call any more."""
    os.kill(pid, signal.SIGSTOP)
    while any(_state(task) not in "TZ" for task in Path(f"/proc/{pid}/task").iterdir()):
        time.sleep(0.0005)


def _state(task: Path) -> str:
    """Return the letter of a thread's state."""
    return (task / "stat").read_text().rsplit(")", 1)[1].split()[0]


def _written(device: str) -> tuple[str, ...]:
    """Return the counts of a disk's writes that are done, and of those under way."""
    fields = Path(f"/sys/block/{device}/stat").read_text().split()
    return fields[4], fields[6], fields[8]
