"""docs/curation.md says what the code does: its columns, rules, splitters, captioners and settings."""

import csv
import re

import pytest
import yaml

from lavie.config.curate import CurateConfig
from lavie.config.curate_caption import KINDS
from lavie.config.curate_cut import SPLITTER, CutConfig
from lavie.config.curate_select import DEFAULT_RULES, SelectConfig
from lavie.config.data import DataConfig
from lavie.config.load import validate
from lavie.curation.cut.splitters.choice import SPLITTERS
from lavie.curation.cut.splitters.sharp import RATIO, THRESHOLD
from lavie.curation.stage import STAGES, find_stage
from tests.doc_pages import ROOT, blocks

PAGE = "docs/curation.md"
pytest.importorskip("pyarrow")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, its head left out."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    below = re.split(rf"^#+ {heading}$", text, flags=re.MULTILINE)[1]
    table = re.search(r"^(\|.*\n)+", below, re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def code(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def test_all_columns_are_there_in_their_order():
    told: dict[str, list[str]] = {}
    for stage, columns, meaning in rows("Columns"):
        name = code(stage)[0] if stage else list(told)[-1]
        told.setdefault(name, []).extend(code(columns))
        assert meaning
    expected = {name: [column for column in find_stage(name).columns if column != "clip"] for name in STAGES}
    assert {name: sorted(columns) for name, columns in told.items()} == {
        name: sorted(columns) for name, columns in expected.items()
    }
    assert list(told) == list(STAGES)


def test_default_rules_are_those_of_the_code():
    assert [code(rule)[0] for rule, _ in rows("Rules and the funnel")] == [rule.name for rule in DEFAULT_RULES]


def test_every_stage_has_a_row():
    named = {name for stage, *_ in rows("The stages") for name in " ".join(code(stage)).split()}
    assert STAGES.keys() <= named


def test_splitters_and_captioners_are_all_there():
    splitters = [code(row[0])[0] for row in rows("How cuts are found")]
    assert all(SPLITTER.fullmatch(name) for name in splitters)
    assert {name.partition(":")[0] for name in splitters} == SPLITTERS.keys()
    captioners = {code(row[0])[0].partition(":")[0] for row in rows("Captions")}
    assert captioners == KINDS.keys()


def test_numbers_of_the_defaults():
    text = " ".join((ROOT / PAGE).read_text(encoding="utf-8").split())
    config = CutConfig()
    assert f"`--min-frames` ({config.min_frames})" in text and f"`--max-seconds` ({config.max_seconds:g})" in text
    assert f"at least {THRESHOLD:g}, at least {RATIO:g} times" in text
    defaults = CurateConfig()
    assert f"{100 * defaults.dedup.distance:g} % of their bits" in text
    assert f"{defaults.quality.percentile:g}th percentile" in text and f"--count {defaults.quality.count}" in text


def test_rates_are_those_that_were_measured():
    with (ROOT / "lavie/bench/results-curation.csv").open(newline="", encoding="utf-8") as file:
        measured = [float(row["rate"]) for row in csv.DictReader(file)]
    for what, *rates in rows("How fast it is"):
        places = 1 if "." in rates[0] else 0
        assert all(float(rate) in {round(value, places) for value in measured} for rate in rates), what


@pytest.mark.parametrize("block", [b for b in blocks(PAGE) if b.language == "yaml"], ids=lambda b: str(b.line))
def test_settings_that_are_shown_are_valid(block):
    values = yaml.safe_load(block.text)
    if "data" in values:
        validate(DataConfig, values["data"] | {"num_frames": 16, "fps": 8}, block.page)
    else:
        validate(SelectConfig if "rules" in values else CurateConfig, values, block.page)
