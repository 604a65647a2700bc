"""Cases of hostile and broken data, and the promises that must hold for each.

A case puts one bad sample, or one fault of the archive, among four good samples, and reads the shard:

1. Nothing crashes or hangs, no code of the data runs, no file is written, and no connection is opened.
2. Whatever is left out is named.
3. The good samples keep their order and their bytes.

`python -m tests.data.prepare.fuzz --cases 2000` counts the outcomes of each class.
"""

import argparse
import hashlib
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lavie.data.prepare.scan import index_shard
from lavie.data.shards.index_file import Sample
from lavie.data.shards.member import read_member
from lavie.errors import DataError
from lavie.seeds import numpy_generator
from tests.data.prepare.hostile import (
    CLASSES,
    EITHER,
    KEPT,
    REFUSED,
    REJECTED,
    WHOLE,
    Rng,
    Traps,
    archive,
    good,
    good_members,
)

SLOWEST = 60.0
"""Seconds that one case may take: many times what the slowest needs, and far less than the sandbox's own limit."""
AFTER = "tar: flipped bits after the index was made"
ALL = (*CLASSES, *WHOLE, AFTER)


@dataclass(frozen=True)
class Outcome:
    """The result of one case."""

    name: str
    """Its class, one of ALL."""
    became: str
    """rejected, kept or refused."""
    faults: tuple[str, ...]
    """The promises that did not hold; empty if all did."""
    seconds: float
    """Time to read the shard."""


class Field:
    """A folder with traps in which cases are run; it must not exist before, and must be alone in its parent folder."""

    def __init__(self, folder: Path) -> None:
        """Set the traps, and read a shard of the good samples alone, with which every case is compared."""
        self.folder = folder
        folder.mkdir()
        (folder / "secret.mp4").write_bytes(good("mp4"))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        port = self.listener.getsockname()[1]
        self.traps = Traps(folder / "canary", str(folder / "secret.mp4"), f"http://127.0.0.1:{port}/x.mp4", port)
        before, after = good_members()
        self.before, self.after = before, after
        (folder / "good.tar").write_bytes(archive(before + after))
        self.good, rejected, _ = index_shard(folder / "good.tar")
        assert not rejected
        assert len(self.good) == 4
        self.contents = {s.key: (s.sha256, s.caption) for s in self.good}

    def close(self) -> None:
        """Stop listening for connections."""
        self.listener.close()

    def run(self, number: int) -> Outcome:
        """Run case `number`, whose class is ALL[number % len(ALL)]."""
        name = ALL[number % len(ALL)]
        rng = numpy_generator(0, "fuzz", number)
        tar = self.folder / f"{number}.tar"
        if name in CLASSES:
            expected, build = CLASSES[name]
            content = archive(self.before + build(rng, self.traps) + self.after)
        elif name in WHOLE:
            expected, damage = WHOLE[name]
            content = damage(archive(self.before + self.after), rng, self.traps)
        else:
            return self._after_the_index(tar, rng)
        tar.write_bytes(content)
        listing = self._listing()
        start = time.monotonic()
        try:
            samples, rejected, _ = index_shard(tar)
        except DataError as error:
            became, faults = REFUSED, [] if str(tar) in str(error) else [f"the shard is not named: {error}"]
        else:
            names = [r.name for r in rejected]
            became = REJECTED if rejected else KEPT
            faults = self._kept(samples, names) if name in CLASSES else self._whole(content, samples, names)
        seconds = time.monotonic() - start
        if became != expected and (expected != EITHER or (became == REFUSED and name in CLASSES)):
            faults.append(f"{became}, must be {expected}")
        faults += self._quiet(listing, seconds)
        tar.unlink()
        return Outcome(name, became, tuple(faults), seconds)

    def _kept(self, samples: list[Sample], names: list[str]) -> list[str]:
        """Return the faults of a shard with a bad sample, which must be kept or named, the good ones unchanged."""
        faults = []
        others = [s for s in samples if s.key not in self.contents]
        if [s.key for s in samples if s.key in self.contents] != [s.key for s in self.good]:
            faults.append(f"the good samples became {[s.key for s in samples]}")
        for sample in samples:
            if sample.key in self.contents and (sample.sha256, sample.caption) != self.contents[sample.key]:
                faults.append(f"{sample.key} changed")
            if hashlib.sha256(read_member(sample)).hexdigest() != sample.sha256 or not sample.caption.isprintable():
                faults.append(f"{sample.key} is not as its index says")
        if not others and not names:
            faults.append("the bad sample vanished without a word")
        return faults

    def _whole(self, content: bytes, samples: list[Sample], names: list[str]) -> list[str]:
        """Return the faults of a damaged archive: samples must be found or named, and lie where the index says."""
        faults = []
        found = {s.key for s in samples}
        lost = [k for k in self.contents if k not in found and not any(k in name for name in names)]
        # A name may change with its checksum still right: then as many names are told as samples were lost.
        if lost and len(names) + len(samples) < len(self.contents):
            faults.append(f"{lost} vanished without a word")
        for sample in samples:
            data = content[sample.offset : sample.offset + sample.size]
            if read_member(sample) != data or hashlib.sha256(data).hexdigest() != sample.sha256:
                faults.append(f"{sample.key} is not as its index says")
        return faults

    def _after_the_index(self, tar: Path, rng: Rng) -> Outcome:
        """Run a case where a bit of one sample turns after the index was made: that sample alone must be refused."""
        content = bytearray(archive(self.before + self.after))
        tar.write_bytes(content)
        samples, _, _ = index_shard(tar)
        listing = self._listing()
        hit = samples[rng.integers(len(samples))]
        content[hit.offset + rng.integers(hit.size)] ^= 1 << rng.integers(8)
        tar.write_bytes(content)
        faults, start = [], time.monotonic()
        for sample in samples:
            try:
                if hashlib.sha256(read_member(sample)).hexdigest() != self.contents[sample.key][0]:
                    faults.append(f"{sample.key}: other bytes than were indexed")
                if sample is hit:
                    faults.append("the flipped bit was not found")
            except DataError as error:
                if sample is not hit or f"{sample.offset}:{sample.key}" not in str(error):
                    faults.append(f"{sample.key}: {error}")
        seconds = time.monotonic() - start
        faults += self._quiet(listing, seconds)
        tar.unlink()
        return Outcome(AFTER, REJECTED, tuple(faults), seconds)

    def _listing(self) -> list[str]:
        """Return the paths of everything in and beside the folder."""
        return sorted(str(p) for p in [*self.folder.parent.iterdir(), *self.folder.rglob("*")])

    def _quiet(self, listing: list[str], seconds: float) -> list[str]:
        """Return the faults that any case may have: code ran, files were written, time passed, a socket was opened."""
        faults = []
        if self.traps.canary.exists():
            faults.append("code ran: the canary exists")
        if self._listing() != listing:
            faults.append("files were written")
        if seconds > SLOWEST:
            faults.append(f"took {seconds:.0f} s")
        try:
            self.listener.accept()[0].close()
            faults.append("a socket was opened")
        except BlockingIOError:
            pass
        return faults


def main() -> None:
    """Run the cases that the command line asks for, print every fault and the counts, and exit with 1 at any fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    count = parser.parse_args().cases
    counts: dict[str, Counter[str]] = {name: Counter() for name in ALL}
    faults, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as parent:
        field = Field(Path(parent) / "field")
        for number in range(count):
            outcome = field.run(number)
            counts[outcome.name][outcome.became] += 1
            for fault in outcome.faults:
                faults += 1
                print(f"case {number}, {outcome.name}: {fault}", flush=True)
        field.close()
    print(f"{'class':45} cases rejected kept refused")
    for name, counter in counts.items():
        print(f"{name:45} {counter.total():5} {counter[REJECTED]:8} {counter[KEPT]:4} {counter[REFUSED]:7}")
    print(f"{count} cases of {len(ALL)} classes in {time.monotonic() - start:.0f} s: {faults} faults")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
