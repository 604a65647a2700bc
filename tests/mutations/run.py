"""Puts faults into a copy of the project one at a time, runs the tests of the touched part, and names what they miss.

`python -m tests.mutations.run --seed 1 --count 60 --workers 2`, or `make mutations`. A fault is named by its seed and
number. Faults that change nothing which a test could see stand in equivalent.toml, each with its reason, and are not
run. The tests that noticed a fault are run once more without any: those that fail there too have noticed nothing.
"""

import argparse
import difflib
import json
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from tests.mutations.choice import ROOT, Tests, sequence
from tests.mutations.faults import Fault
from tests.mutations.trial import Copy

EQUIVALENT = Path(__file__).with_name("equivalent.toml")


def equivalents() -> dict[tuple[str, str, str], str]:
    """Return the reason of each fault that changes nothing, by its path, its lines before and its lines after."""
    entries = tomllib.loads(EQUIVALENT.read_text())["fault"]
    return {(e["path"], e["was"], e["now"]): e["reason"] for e in entries}


def diff(fault: Fault) -> str:
    """Return a fault as a diff without context."""
    text = (ROOT / fault.path).read_text()
    before, after = text.splitlines(), (fault.applied(text) or text).splitlines()
    return "\n".join(difflib.unified_diff(before, after, f"a/{fault.path}", f"b/{fault.path}", lineterm="", n=0))


def try_all(chosen: list[tuple[int, Fault]], workers: int, limit: float) -> list[dict[str, Any]]:
    """Try each fault, print a line for it, and return what became of it."""
    tests, known = Tests(), equivalents()
    copies: Queue[Copy] = Queue()
    diffs = {fault: diff(fault) for _, fault in chosen}  # now: the checkout may change while the copies are tried

    def try_one(item: tuple[int, Fault]) -> dict[str, Any]:
        number, fault = item
        result = {"number": number, "path": fault.path, "line": fault.line, "kind": fault.kind, "diff": diffs[fault]}
        if reason := known.get((fault.path, fault.was, fault.now)):
            result |= {"outcome": "equivalent", "by": [], "seconds": 0, "reason": reason}
        else:
            copy = copies.get()
            result |= copy.judge(fault, tests.of(fault.path), limit)
            copies.put(copy)
        line = f"{number:6} {result['outcome']:13} {result['seconds']:4} s  {f'{fault.path}:{fault.line}':48}"
        print(line, f"{fault.kind:28}", *result["by"], flush=True)
        return result

    with tempfile.TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(workers) as pool:
        started = [Copy(Path(folder) / str(worker)) for worker in range(workers)]
        for copy in started:
            copies.put(copy)
        try:
            results = list(pool.map(try_one, chosen))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

        # A test that fails without a fault has noticed none.
        noticed = sorted({name.split("[")[0] for result in results for name in result["by"]})
        broken = {name.split("[")[0] for name in copies.get().run(noticed, None, 3600)[1]} if noticed else set()
        for copy in started:
            copy.close()
    for result in results:
        if any(name.split("[")[0] in broken for name in result["by"]):
            result["outcome"] = "UNSURE"
    return results


def main() -> None:
    """Try the faults that the command line asks for; leave with 1 if one survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=60, help="faults to put in, equivalent ones among them")
    parser.add_argument("--only", nargs="+", default=[""], metavar="PATH", help="only faults in these files or folders")
    parser.add_argument("--number", type=int, nargs="+", help="only these numbers of the seed")
    parser.add_argument("--workers", type=int, default=1, help="copies of the project in which tests run side by side")
    parser.add_argument("--limit", type=float, default=600, help="seconds of one run of tests; longer counts as caught")
    parser.add_argument("--list", action="store_true", help="print the faults, and run nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/mutations.json")
    options = parser.parse_args()

    # A number means the same fault with --only and without.
    chosen: list[tuple[int, Fault]] = []
    for number, fault in enumerate(sequence(options.seed)):
        wanted = fault.path.startswith(tuple(options.only)) and (not options.number or number in options.number)
        if wanted and len(chosen) < options.count and fault.applied((ROOT / fault.path).read_text()):
            chosen.append((number, fault))
    if options.list:
        for number, fault in chosen:
            print(f"{number} {fault.kind}\n{diff(fault)}\n")
        return

    results = try_all(chosen, options.workers, options.limit)
    survivors = [result for result in results if result["outcome"] in ("SURVIVED", "UNSURE")]
    for result in survivors:
        print(f"\n{result['number']} {result['outcome']}: {result['kind']} {' '.join(result['by'])}\n{result['diff']}")
    counts = dict(Counter(result["outcome"] for result in results))
    print(f"\nseed {options.seed}: {len(results)} faults, {counts}")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    whole = {"seed": options.seed, "commit": commit, "counts": counts, "faults": results}
    options.out.write_text(json.dumps(whole, indent=1) + "\n")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
