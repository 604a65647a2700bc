"""Turn results.csv into the table of kernels/README.md and the plot beside it: python -m lavie.kernels.bench.report"""

import csv
from collections.abc import Iterable
from pathlib import Path

from ...labels import label_text
from .harness import OK, RESULTS, results_file
from .timing import GRAPHS, PARTS

README = Path(__file__).parents[1] / "README.md"
PLOT = RESULTS.with_suffix(".png")
START, END = "<!-- results -->", "<!-- end of results -->"

Row = dict[str, str]
Key = tuple[str, ...]


def newest(rows: Iterable[Row]) -> dict[Key, dict[str, dict[str, Row]]]:
    """Return the newest rows, by (gpu, op, case, dtype), by way and by part: a later row replaces an earlier one."""
    cases: dict[Key, dict[str, dict[str, Row]]] = {}
    for row in rows:
        key = (row["gpu"], row["op"], row["case"], row["dtype"])
        cases.setdefault(key, {}).setdefault(row["way"], {})[row["part"]] = row
    return cases


def table(cases: dict[Key, dict[str, dict[str, Row]]]) -> str:
    """Return Markdown: a section for each GPU, a row for each case, and every rival as a multiple of our time.

    What failed is listed below the table with its reason.
    """
    lines = []
    for gpu in dict.fromkeys(key[0] for key in cases):
        of_gpu = {key: ways for key, ways in cases.items() if key[0] == gpu}
        ours = [next(iter(ways.values()))["both"] for ways in of_gpu.values()]
        versions = sorted({f"torch {row['torch']}, triton {row['triton']}, {row['date']}" for row in ours})
        lines += [f"### {gpu}", "", f"{'; '.join(versions)}.", ""]
        lines += [
            "| op | case | forward | backward | both, rivals as multiples of ours | both, as CUDA graphs |",
            "| --- | --- | --- | --- | --- | --- |",
        ]

        # The first way is ours.
        failed = []
        for (_, op, case, dtype), ways in of_gpu.items():
            (_, ours_by_part), *rivals = ways.items()
            shares = [_share(ours_by_part[part]) for part in PARTS[:2]]
            ratios = ", ".join(f"{name} {_ratio(parts['both'])}" for name, parts in rivals)
            graphs = ", ".join([_graph(ours_by_part), *(f"{name} {_graph(parts, True)}" for name, parts in rivals)])
            lines.append(f"| {op} | {case}, {dtype} | {shares[0]} | {shares[1]} | {ratios} | {graphs} |")
            failed += [
                f"- {op}, {case}, {dtype}, {name}: {parts['both']['status']}"
                for name, parts in ways.items()
                if parts["both"]["status"] != OK
            ]

        lines += ["", f"Failed: {len(failed)}.", "", *failed] if failed else []
        lines.append("")
    return "\n".join(lines)


def _share(row: Row) -> str:
    """Return a cell of our times: milliseconds, share of a copy's rate, TFLOP/s."""
    if row["status"] != OK:
        return "failed"
    return f"{row['ms']} ms, {float(row['share_of_copy']):.0%} of copy, {row['tflop_per_s']} TFLOP/s"


def _ratio(row: Row) -> str:
    """Return how many times our time a rival takes, or its time where ours failed."""
    if row["status"] != OK:
        return "failed"
    return row["ratio"] or f"{row['ms']} ms"


def _graph(parts: dict[str, Row], rival: bool = False) -> str:
    """Return the time of a captured pass of ours, or of a rival as a multiple of it."""
    row = parts.get(GRAPHS[1])
    if row is None or row["status"] != OK:
        return "not captured"
    return (row["ratio"] if rival else "") or f"{row['ms']} ms"


def plot(cases: dict[Key, dict[str, dict[str, Row]]], path: Path) -> None:
    """Draw a dot per rival and case: how many times our time it takes, forward and backward together."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # One row of the plot per case, one colour per rival.
    labels = [label_text(" · ".join((op, case))) for _, op, case, _ in cases]
    names = list(dict.fromkeys(name for ways in cases.values() for name in list(ways)[1:]))
    figure, axes = plt.subplots(figsize=(11, 1.5 + 0.28 * len(labels)), layout="constrained")
    for name in names:
        ratios = [(w[name]["both"]["ratio"], i) for i, w in enumerate(cases.values()) if name in w]
        points = [(float(ratio), i) for ratio, i in ratios if ratio]  # none where one of the two failed
        axes.scatter([x for x, _ in points], [y for _, y in points], label=label_text(name), s=28)

    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("time of the rival / ours, forward and backward (right of the line: ours is faster)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def renew(readme: Path, results: Path, picture: Path) -> None:
    """Put the table of `results` between the marks in `readme`, and draw `picture`."""
    if not results.exists():
        raise SystemExit(f"{results}: no results yet, run a benchmark first")
    with results.open(newline="") as file:
        cases = newest(csv.DictReader(file))
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    image = f"![rivals as multiples of our time]({picture.relative_to(readme.parent).as_posix()})"
    readme.write_text(f"{before}{START}\n{table(cases)}\n{image}\n{END}{after}", encoding="utf-8")
    plot(cases, picture)


if __name__ == "__main__":
    renew(README, results_file(), PLOT)
    print(README, PLOT, sep="\n")
