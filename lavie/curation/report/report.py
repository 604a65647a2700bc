"""The report of a curation, OUT/report: numbers as JSON, figures and contact sheets as PNG, and one page of all."""

from dataclasses import asdict, dataclass
from pathlib import Path

from ...config.curate_select import SelectConfig
from ...files import replacing
from ..films import read_films
from ..select.funnel import Funnel
from ..select.select import read_selection, select
from ..unit import units_of
from .figures import draw_funnel, draw_general, draw_quality, draw_scores, figure_files
from .nearest import draw_nearest
from .numbers import Statistics, as_json, cutting, refused, statistics_of
from .page import page

FOLDER = "report"
"""The folder of the report in OUT."""
PAGE = "index.html"


@dataclass(frozen=True)
class Report:
    """What a report says, and where it lies."""

    page: Path
    everything: Statistics
    """The statistics of all clips."""
    kept: Statistics
    """The statistics of the clips that the rules keep."""
    funnel: Funnel


def make_report(out: Path, config: SelectConfig) -> Report:
    """Choose clips by the rules, and draw what came of the curation so far. Decodes a few clips near thresholds alone.

    Args:
        out: the folder of the curation.
        config: the rules.

    Raises:
        ConfigError: a rule's column does not exist.
        DataError: no unit is cut, or a file is damaged.
    """
    out = out.resolve()
    funnel = select(out, config)
    films = read_films(out)
    units = units_of(out, films)
    table = read_selection(out)
    rules = [rule for rule in config.chosen if rule.name not in funnel.not_measured]
    everything, kept = statistics_of(table), statistics_of(table.filter(table["keep"]))
    ways, named = cutting(out, units), refused(out)

    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    for old in folder.glob("nearest-*.png"):  # of rules that hold no more
        old.unlink()
    figures = figure_files(folder)
    general, quality, left, scores = figures.values()
    draw_general(everything, kept, general)
    draw_quality(everything, kept, quality)
    draw_funnel(funnel, left)
    draw_scores(table, rules, scores)
    sheets = draw_nearest(table, rules, units, folder)

    told = {
        "src": str(films.src),
        "films": len(films.films),
        "all": asdict(everything) | {"aesthetic_shares": everything.aesthetic_shares},
        "kept": asdict(kept) | {"aesthetic_shares": kept.aesthetic_shares},
        "funnel": asdict(funnel),
        "cut": {"ways": ways[0], "why_encoded": ways[1]},
        "refused": {
            stage: {reason: len(names) for reason, names in reasons.items()} for stage, reasons in named.items()
        },
    }
    with replacing(folder / "report.json") as partial:
        partial.write_text(as_json(told), encoding="utf-8")
    title = f"Curation of {films.src.name or films.src}: {len(films.films)} films"
    with replacing(folder / PAGE) as partial:
        partial.write_text(page(title, everything, kept, funnel, ways, named, figures, sheets), encoding="utf-8")
    return Report(folder / PAGE, everything, kept, funnel)
