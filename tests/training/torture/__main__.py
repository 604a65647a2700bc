"""Attack checkpoints with real faults, ours and those of DeepSpeed's own saving, and count: `make torture`.

The parts are those of the modules beside this one: calls, flips, power cuts, kills, pairs and resumes.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lavie.data.prepare.synthetic import demo_set
from tests.training.torture import calls, flips, kills, pairs, power, resumes
from tests.training.torture.report import Report, table

PARTS = ("calls", "flips", "power", "kills", "pairs", "resumes")
KILLS_EACH = 6
"""Kills of one run."""


def try_calls(report: Report, folder: Path, options: argparse.Namespace) -> None:
    """Faults at every call."""
    for subject in options.subjects:
        scenarios = calls.SCENARIOS if subject == "ours" else calls.SCENARIOS[:3]
        errors = tuple(name + plus for plus in ("", "+") for name in calls.ERRORS)
        with calls.Bench(subject, folder / f"calls-{subject}") as bench:
            for scenario in scenarios:
                for outcome in calls.every_call(bench, scenario, (calls.KILL, *errors), options.stride):
                    told(report, subject, outcome)
                if scenario.save:
                    for outcome in calls.short_writes(bench, scenario):
                        told(report, subject, outcome)


def told(report: Report, subject: str, outcome: calls.Outcome) -> None:
    """Count a fault at a call, and print a bad one."""
    fault = outcome.fault.removesuffix("+") + (" from there on" if outcome.fault.endswith("+") else "")
    report.add("calls", subject, f"{outcome.scenario}: {fault}", outcome.result, outcome.good)
    if not outcome.good:
        print(f"  {subject}: {outcome}", flush=True)


def try_flips(report: Report, folder: Path, options: argparse.Namespace) -> None:
    """Flipped bits."""
    for subject in options.subjects:
        if subject == "ours":
            config = flips.checkpoints_of_a_run(options.data, folder)
            found = flips.ours(config, options.flips, options.seed)
        else:
            found = flips.stock(folder / "flips-stock", options.flips, options.seed)
        for flip in found:
            report.add("flips", subject, flip.file if subject == "ours" else "every file", flip.result, flip.good)
            if subject == "ours" and not flip.good:
                print(f"  {flip}", flush=True)


def try_power(report: Report, folder: Path, options: argparse.Namespace) -> None:
    """Power cuts."""
    if reason := power.possible():
        print(f"no power cuts: {reason}")
        return
    for subject in options.subjects:
        for cut in power.cuts(subject, folder / f"power-{subject}", options.power_cuts, options.seed):
            report.add("power cuts", subject, "in a save" if cut.during else "between saves", cut.result, cut.good)
            if subject == "ours" and not cut.good:
                print(f"  {cut}", flush=True)


def try_kills(report: Report, folder: Path, options: argparse.Namespace) -> None:
    """Killed training runs, of all stages, on one and two ranks."""
    rng, made, number = random.Random(options.seed), 0, 0
    calm: dict[tuple[str, int], kills.Calm] = {}
    while made < options.kills:
        kind = stage, ranks = list(kills.STAGES)[number % 3], 1 + number // 3 % 2
        if kind not in calm:
            calm[kind] = kills.undisturbed(options.data, folder / f"calm-{number}", stage, ranks)
        wanted = min(KILLS_EACH, options.kills - made)
        done = kills.sequence(calm[kind], folder / f"kills-{number}", wanted, rng.randrange(2**32))
        shutil.rmtree(folder / f"kills-{number}")
        for moment in done.moments:
            if moment != "too late":
                trial = f"stage {stage}, {ranks} rank{'s' * (ranks > 1)}: {moment}"
                report.add("kills", "ours", trial, done.differs or "ends as the undisturbed run", not done.differs)
                made += 1
        print(f"  {done}", flush=True)
        number += 1


def try_pairs(report: Report, folder: Path, options: argparse.Namespace) -> None:
    """Every number of ranks and stage with every other."""
    found, following = pairs.every_pair(options.data, folder, tuple(options.ranks))
    for pair in found:
        report.add(
            "pairs", "ours", f"{pair.loaded}: loads what each saved", pair.differs or "the same bits", not pair.differs
        )
    for step in following:
        good = step.off <= pairs.LOSS
        result = "the same loss" if good else f"a loss that is off by {step.off:g}"
        report.add("pairs", "ours", f"{step.loaded}: the next step", result, good)


def try_resumes(report: Report, folder: Path, options: argparse.Namespace) -> None:
    """Every step of every kind of run."""
    runs = folder / "resumes"
    for case in resumes.cases(options.data, runs):
        for done in resumes.every_step(case, runs):
            report.add(
                "resumes", "ours", f"{case.name}: from each step", done.differs or "the same run", not done.differs
            )
            if done.differs:
                print(f"  {done}", flush=True)


def main() -> None:
    """Parse the options, try all, print the table and leave with 1 if ours has failed anywhere."""
    parser = argparse.ArgumentParser(prog="python -m tests.training.torture", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--subjects", nargs="+", choices=("ours", "stock"), default=("ours", "stock"))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--power-cuts", type=int, default=50)
    parser.add_argument("--ranks", type=int, nargs="+", default=pairs.RANKS, help="of the pairs")
    parser.add_argument("--stride", type=int, default=1, help="try each so many-th call for each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the counts")
    options = parser.parse_args()
    report = Report(options.out, options.parts, options.subjects)
    numbers = ("kills", "flips", "power_cuts", "ranks", "stride", "seed")
    asked = {name: getattr(options, name) for name in numbers}
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        options.data = folder / "data"
        demo_set(options.data, clips=24, images=12, size=32)
        for part in options.parts:
            print(f"{part} ...", flush=True)
            began = time.monotonic()
            TRIES[part](report, folder, options)
            report.end(part, asked, time.monotonic() - began)
            print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
    print(table(report.content()))
    raise SystemExit(1 if report.bad() else 0)


TRIES: dict[str, Callable[[Report, Path, argparse.Namespace], None]] = {
    "calls": try_calls,
    "flips": try_flips,
    "power": try_power,
    "kills": try_kills,
    "pairs": try_pairs,
    "resumes": try_resumes,
}

if __name__ == "__main__":
    main()
