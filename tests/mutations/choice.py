"""Which faults of a seed come in which order, and which tests should notice a fault."""

import ast
import hashlib
from collections import defaultdict
from pathlib import Path

from tests.mutations.faults import Fault, faults_of

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ("tests/launch/test_scripts.py", "tests/launch/test_batch.py", "tests/launch/test_protocol.py")
"""The tests of the scripts of launch/, nearest first."""
MOST_FILES = 8
"""Test files that are run for one fault."""


def mutated_files() -> list[str]:
    """Return the files that get faults: lavie/, kernels/, the scripts of launch/, and train.py."""
    python = [*(ROOT / "lavie").rglob("*.py"), *(ROOT / "kernels").rglob("*.py"), ROOT / "train.py"]
    files = [path for path in python if not path.is_relative_to(ROOT / "lavie/kernels")]  # the link to kernels/
    return sorted(path.relative_to(ROOT).as_posix() for path in [*files, *(ROOT / "launch").glob("*.s*")])


def sequence(seed: int, files: list[str] | None = None) -> list[Fault]:
    """Return every fault in the order of a seed: one of each package in turn, and within it one of each kind in turn.

    The order within a package is by a hash of the fault itself, so that it stays when other code changes.
    """

    def place(*words: object) -> str:
        return hashlib.blake2b("/".join(map(str, (seed, *words))).encode()).hexdigest()

    waiting: dict[str, dict[str, list[Fault]]] = defaultdict(lambda: defaultdict(list))
    for path in files or mutated_files():
        for fault in faults_of(path, (ROOT / path).read_text()):
            waiting[str(Path(path).parent)][fault.kind.split(" ")[0]].append(fault)
    queues = []
    for package, kinds in waiting.items():
        ordered = []  # (turn of its kind, place of the kind, fault)
        for kind, faults in kinds.items():
            faults.sort(key=lambda fault: place(fault.path, fault.was, fault.now))
            ordered += [(turn, place(package, kind), fault) for turn, fault in enumerate(faults)]
        queues.append((place(package), [fault for *_, fault in sorted(ordered, key=lambda o: o[:2])]))
    turns = [(turn, order, fault) for order, queue in queues for turn, fault in enumerate(queue)]
    return [fault for *_, fault in sorted(turns, key=lambda t: t[:2])]


def imported(path: str) -> set[str]:
    """Return the files of the project that a file imports anywhere, and for a test the conftest.py above it."""
    package, found = path.split("/")[:-1], set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = ["lavie", *package] if path.startswith("kernels/") else package
            base = here[: len(here) - node.level + 1] if node.level else []
            names = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
        for name in names:
            parts = name.removeprefix("lavie.kernels.").split(".")
            parts = ["kernels", *parts] if name.startswith("lavie.kernels.") else parts
            candidates = ("/".join(parts[:n]) + ".py" for n in range(len(parts), 0, -1))
            found.update([c for c in candidates if (ROOT / c).is_file()][:1])
    if path.startswith("tests/"):
        above = (f"{'/'.join(package[:n])}/conftest.py" for n in range(1, len(package) + 1))
        found.update(c for c in above if (ROOT / c).is_file() and c != path)
    return found


class Tests:
    """The import graph of tests and product, and the way from each test file to a module."""

    def __init__(self) -> None:
        tests = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")]
        self.imports = {path: imported(path) for path in [*tests, *mutated_files()] if path.endswith(".py")}
        self.files = sorted(path for path in tests if path.split("/")[-1].startswith("test_"))

    def distance(self, test: str, module: str) -> int:
        """Return over how many imports of the product a test reaches a module; helpers of tests cost none."""
        seen, ring, steps = {test}, {test}, 0
        while ring:
            grown = True
            while grown:  # helpers belong to the test
                helpers = {b for a in ring if a in self.imports for b in self.imports[a] if b.startswith("tests/")}
                grown, ring, seen = bool(helpers - seen), ring | (helpers - seen), seen | helpers
            ring = {b for a in ring if a in self.imports for b in self.imports[a]} - seen
            steps, seen = steps + 1, seen | ring
            if module in ring:
                return steps
        return 1000

    def of(self, path: str) -> list[str]:
        """Return the test files for a fault in `path`: that of its name, then the nearest, of few imports first."""
        if path.startswith("launch/"):
            return [test for test in LAUNCH if (ROOT / test).is_file()]
        *folder, name = path.removeprefix("lavie/").split("/")
        own = "/".join(["tests", *folder, f"test_{name}"])
        distances = {test: self.distance(test, path) for test in self.files}
        near = "/".join(own.split("/")[:-1]) + "/"
        limit = max(1, min(distances.values()))
        others = [t for t in self.files if distances[t] <= limit + (limit > 1 and t.startswith(near)) and t != own]
        others.sort(key=lambda t: (path not in self.imports[t], not t.startswith(near), len(self.imports[t]), t))
        return ([own] if own in self.files else []) + others[:MOST_FILES]
