"""The page of the ablations in Markdown: for each the claims, the command, the hardware, and what came of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from ...errors import DataError
from ...files import replacing
from .analysis import Difference, analyse, by_seed, difference, measures_of
from .plan import LOSS, MS_PER_STEP, Ablation, Arm, is_share
from .plot import plot
from .results import Result, line
from .statistics import Interval
from .tables import ABLATIONS

HEAD = """\
# Ablations

This page is written by `lavie ablate page` and not by hand. It tests what the paper says in its Tables 6 and 7 and its
Figures 10 and 11, in miniature and on rendered clips, where the truth of every sample is known.

- An arm differs from the others in the keys that its row names, and in nothing else. Arms of one seed have the same
  order of data, the same timesteps and noise in training, the same initial weights, and the same noise in sampling. No
  arm is tuned alone.
- **Seen**: the 95 % intervals of the paired difference, by Student's t over seeds and by a bootstrap over seeds and
  then over clips, both lie on the side that the claim says, beyond its margin. **Not seen**: both lie on the other
  side. **Undecidable**: anything else.
- p is the exact sign test's over seeds, one-sided: five seeds of five give .031, and no five seeds give less.
- What holds here for a tiny network on shapes need not hold for the paper's, nor the other way round.
"""
FENCE = "```"


def write_page(results: Mapping[str, list[Result]], page: Path) -> None:
    """Write the page, and beside it a folder of its name with the plots and the results.

    Sections that were written by hand, the .md files in that folder, follow in the order of their names.

    Args:
        results: of each ablation, as `gather` returns them.
        page: a .md file.

    Raises:
        DataError: results are of an ablation or an arm that there is none of, or do not compare; or a section that
            was written by hand cannot be read.
    """
    if unknown := results.keys() - ABLATIONS.keys():
        raise DataError(f"results are of {min(unknown)}: wanted {', '.join(ABLATIONS)}")
    for name, found in results.items():
        if strange := {result.arm for result in found} - ABLATIONS[name].arms.keys():
            raise DataError(f"results are of {name}, arm {min(strange)}: it has {', '.join(ABLATIONS[name].arms)}")
    folder = page.with_suffix("")
    by_hand = [_by_hand(file) for file in sorted(folder.glob("*.md"))]
    sections = [HEAD]
    for name, ablation in ABLATIONS.items():
        found = sorted(results.get(name, []), key=lambda result: (result.seed, list(ablation.arms).index(result.arm)))
        sections.append(section(ablation, found, folder.name))
        if found:
            folder.mkdir(parents=True, exist_ok=True)
            plot(ablation, found, folder / f"{name}.png")
            _write(folder / f"{name}.jsonl", "".join(map(line, found)))
    _write(page, "\n".join([*sections, *by_hand]))


def _by_hand(file: Path) -> str:
    """Return a section that was written by hand. Raises DataError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").strip() + "\n"
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no section of the page that can be read: {error}") from None


def _write(path: Path, text: str) -> None:
    """Write a file whole."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def section(ablation: Ablation, results: Sequence[Result], folder: str) -> str:
    """Return the section of an ablation; without results it says that it was not run yet."""
    parts = [
        f"## {ablation.title}",
        f"**The paper.** {ablation.paper}",
        f"**Here.** {ablation.here}",
        _arms(ablation, results),
        _command(ablation),
    ]
    if not results:
        claims = "\n".join(f"- {claim.text}" for claim in ablation.claims)
        return "\n\n".join([*parts, f"**Not run yet.** The claims that it will decide:\n\n{claims}"]) + "\n"
    parts += [
        _how(results, f"{folder}/{ablation.name}.jsonl"),
        _claims(ablation, results),
        f"![Every seed and the means of {ablation.title}]({folder}/{ablation.name}.png)",
        _means(ablation, results),
        _differences(ablation, results),
        _meanings(ablation),
    ]
    return "\n\n".join(parts) + "\n"


def _arms(ablation: Ablation, results: Sequence[Result]) -> str:
    """Return the table of the arms: what each changes, and what it starts from."""
    rows = []
    for name, arm in ablation.arms.items():
        steps = {result.steps for result in results if result.arm == name} or {round(ablation.steps * arm.steps)}
        keys = " ".join(f"`{override}`" for override in arm.overrides) or "as the config"
        start = f"the arm {ablation.arms[arm.start].label}" if arm.start else "fresh weights"
        rows.append([arm.label, keys, _data(ablation, arm), start, ", ".join(f"{n:,}" for n in sorted(steps))])
    common = " ".join(f"`{key}`" for key in ablation.common)
    table = _table(["arm", "its keys", "rendered set", "starts from", "steps"], rows)
    return f"{table}\n\nAll arms change the same config, by default `smoke/base.yaml`, and all of them set {common}."


def _data(ablation: Ablation, arm: Arm) -> str:
    """Return what a rendered set holds, in words."""
    rendered = ablation.sets[arm.data]
    words = [f"{rendered.clips} clips"] * bool(rendered.clips) + [f"{rendered.images} images"] * bool(rendered.images)
    if "video_colours" in rendered.options:
        words[0] += f" of {', '.join(rendered.options['video_colours'])}"
    if rendered.size is not None and rendered.size != 1:
        words[-1] += f", at {rendered.size:.2g} of the size and enlarged"
    if "travel" in rendered.options:
        words[-1] += ", moving by {:g} to {:g} of the frame".format(*rendered.options["travel"])
    return " and ".join(words)


def _command(ablation: Ablation) -> str:
    """Return the command of an ablation."""
    mark = "<!-- not run by a test: it trains for hours; tests/evaluation/ablation/test_run.py runs forty steps -->"
    return f"{mark}\n{FENCE}bash\nlavie ablate {ablation.name} runs/{ablation.name} --seeds 0-4\n{FENCE}"


def _how(results: Sequence[Result], file: str) -> str:
    """Return by which commands, on what, and when results were made, how long that took, and in which file they are."""
    seconds = sum(result.seconds["training"] + result.seconds["drawing"] for result in results)
    dates = sorted(result.date[:10] for result in results)
    loads = [result.load for result in results]
    versions = sorted({f"{name} {result.versions[name]}" for result in results for name in ("lavie", "torch")})
    lines = [
        f"- commands: {', '.join(sorted({f'`{result.command}`' for result in results}))}",
        f"- hardware: {'; '.join(sorted({result.hardware for result in results}))}; load average {min(loads):g} to "
        f"{max(loads):g}, which moves times and nothing else",
        f"- dates: {dates[0]} to {dates[-1]}; {len(results)} trainings, {seconds / 3600:.1f} hours in all",
        f"- versions: {', '.join(versions)}; every result, sample by sample: [{file}]({file})",
    ]
    return "\n".join(lines)


def _claims(ablation: Ablation, results: Sequence[Result]) -> str:
    """Return the table of the claims with their verdicts."""
    rows = []
    for finding in analyse(ablation, results):
        claim, found = finding.claim, finding.difference
        margin = f" (above {_number(claim.margin, claim.measure)})" if claim.margin else ""
        numbers = ["", "", "", ""] if found is None else _numbers(found, claim.measure)
        rows.append([claim.text + margin, f"**{finding.verdict}**: {finding.why}", *numbers])
    return _table(["claim", "verdict", "effect", "95 % by t", "95 % by bootstrap", "seeds for it; p"], rows)


def _numbers(found: Difference, measure: str) -> list[str]:
    """Return a difference, its intervals and its sign test, as they stand in a table."""
    return [
        _number(found.mean, measure, sign=True),
        _interval(found.student, measure),
        _interval(found.resampled, measure),
        f"{found.above} of {len(found.by_seed)}; {found.p:.3g}",
    ]


def _means(ablation: Ablation, results: Sequence[Result]) -> str:
    """Return the table of means over seeds, with standard deviations."""
    rows = []
    for measure in measures_of(results):
        row = [f"`{measure}`"]
        for name in ablation.arms:
            values = list(by_seed(results, name, measure).values())
            spread = f" ± {_number(stdev(values), measure)}" if len(values) > 1 else ""
            row.append(_number(fmean(values), measure) + spread if values else "")
        rows.append(row)
    heads = [f"{arm.label} ({len({r.seed for r in results if r.arm == name})})" for name, arm in ablation.arms.items()]
    note = "Means over seeds ± their standard deviation; in brackets the number of seeds."
    return f"{note}\n\n{_table(['measure', *heads], rows)}"


def _differences(ablation: Ablation, results: Sequence[Result]) -> str:
    """Return the table of all measures' differences from the first arm that has no arm before it in training."""
    reference = next(name for name in ablation.arms if name not in {arm.start for arm in ablation.arms.values()})
    rows = []
    for name, arm in ablation.arms.items():
        for measure in measures_of(results) if name != reference else ():
            if found := difference(results, measure, name, reference):
                rows.append([f"{arm.label}", f"`{measure}`", *_numbers(found, measure)])
    note = f"Paired differences from the arm {ablation.arms[reference].label}, whichever way is better."
    head = ["arm", "measure", "difference", "95 % by t", "95 % by bootstrap", "seeds above 0; p"]
    return f"{note}\n\n{_table(head, rows)}"


def _meanings(ablation: Ablation) -> str:
    """Return what the measures mean."""
    lines = [f"- `{name}`: {meaning}" for name, meaning in ablation.measures.items()]
    lines.append(f"- `{LOSS}`: at four fixed timesteps of held-out clips and images, and their mean")
    lines.append(f"- `{MS_PER_STEP}`: median milliseconds of a training step")
    draws = [f"{len(draw.cases) * draw.times} for `{name}`" for name, draw in ablation.draws.items()]
    return f"Samples by default: {', '.join(draws)}.\n\n" + "\n".join(lines)


def _interval(interval: Interval | None, measure: str) -> str:
    """Return an interval as it stands in a table."""
    return "" if interval is None else " to ".join(_number(end, measure, sign=True) for end in interval)


def _number(value: float, measure: str, *, sign: bool = False) -> str:
    """Return a number: shares of samples as percentages, others with three digits."""
    plus = "+" if sign else ""
    if is_share(measure):
        return f"{100 * value:{plus}.1f} %"
    return f"{value:{plus}.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
