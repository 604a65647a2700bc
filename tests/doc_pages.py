"""The reader of the commands that README and docs show: fenced blocks of bash, and the mark in front of each."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/finetune.md",
    "docs/data.md",
    "docs/curation.md",
    "docs/training.md",
    "docs/planning.md",
    "docs/reliability.md",
    "docs/cascade.md",
    "docs/applications.md",
    "docs/evaluation.md",
    "docs/pages.md",
    "docs/ablations.md",
    "docs/extending.md",
    "docs/demo.md",
    "docs/performance.md",
    "docs/environment.md",
    "docs/troubleshooting.md",
    "docs/configuration.md",
    "examples/README.md",
    "launch/README.md",
    "kernels/README.md",
    "lavie/data/README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
"""Every page that may show a command."""

MARKS = {
    "needs a GPU": None,
    "not run by a test": None,
    "run by": r"tests/\S+",
}
"""The marks that excuse a block from being run here, each with the pattern of what must follow it."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    """The line of the opening fence, counted from 1."""
    language: str
    text: str
    mark: str
    """The HTML comment on the line before the fence, without its dashes; empty if there is none."""

    @property
    def commands(self) -> list[str]:
        """The commands of a block of shell: its lines without comments, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if shlex.split(line, comments=True)]


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found = []
    number = 0
    while number < len(lines):
        fence = re.fullmatch(r"```(\w*)", lines[number])
        number += 1
        if not fence:
            continue

        # Up to the closing fence; the mark, if any, is the line before the opening one.
        first = number
        while lines[number] != "```":
            number += 1
        comment = re.fullmatch(r"<!-- (.*) -->", lines[first - 2]) if first >= 2 else None
        found.append(
            Block(page, first, fence[1] or "text", "\n".join(lines[first:number]), comment[1] if comment else "")
        )
        number += 1
    return found


def excused(block: Block) -> bool:
    """Return whether a block's mark says that it is not run here; AssertionError for an unknown mark."""
    if not block.mark:
        return False
    for mark, pattern in MARKS.items():
        if not block.mark.startswith(mark):
            continue
        if pattern:
            (test,) = re.findall(pattern, block.mark)
            assert (ROOT / test).exists(), f"{block.page}:{block.line} names {test}, which does not exist"
        return True
    raise AssertionError(f"{block.page}:{block.line}: the mark {block.mark!r} is none of {', '.join(MARKS)}")
