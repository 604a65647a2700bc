"""docs/extending.md: its scorer and its captioner work as they stand."""

import importlib
import shlex
import sys
import tomllib

import numpy as np
import pytest
import yaml

from lavie.config.curate import CurateConfig, stage_config
from lavie.config.curate_caption import CaptionConfig
from lavie.config.load import validate
from lavie.curation import stage as stages
from lavie.curation.caption.base import Asked
from lavie.curation.caption.command import TOLD, CommandCaptioner
from lavie.curation.run import run_stage
from lavie.curation.select.rules import survivors
from tests.curation.made_cut import made_units, make_cut
from tests.doc_pages import blocks

pytest.importorskip("pyarrow")


class Here:
    """An engine that does everything in this process."""

    def map(self, work, items, *, gpu=False):
        for item in items:
            yield item, work(item), ""


def shown(word: str) -> str:
    """Return the block of the page that a word stands in."""
    [block] = [block for block in blocks("docs/extending.md") if word in block.text]
    return block.text


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install the scorer of the page, as pip lays down a package."""
    folder = tmp_path / "site"
    (folder / "my_scorers-1.dist-info").mkdir(parents=True)
    (folder / "my_scorers.py").write_text(shown("class Colour"))
    (folder / "my_scorers-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: my-scorers\nVersion: 1\n")
    points = tomllib.loads(shown("entry-points"))["project"]["entry-points"]["lavie.scorers"]
    lines = [f"{name} = {value}\n" for name, value in points.items()]
    (folder / "my_scorers-1.dist-info/entry_points.txt").write_text("".join(["[lavie.scorers]\n", *lines]))
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    stages.find_stage.cache_clear()
    yield
    sys.modules.pop("my_scorers", None)
    stages.find_stage.cache_clear()


def test_the_scorer_makes_a_column_that_a_rule_uses(tmp_path, package):
    config = validate(CurateConfig, yaml.safe_load(shown("colour: {options")), "docs/extending.md")
    clips = [np.full((16, 32, 48, 3), colour, np.uint8) for colour in ((120, 120, 120), (220, 40, 40))]
    out = make_cut(tmp_path / "made", {"a.mp4": clips})
    report = run_stage(out, "score-colour", stage_config(config, "score-colour"), Here())
    assert not report.failed, report.failed
    [unit] = made_units(out)
    grey, red = unit.read("score-colour")["colour"].to_pylist()
    assert grey < 4 and red == pytest.approx(2 * np.std([220, 40, 40]), rel=0.1)  # the options of the page double it
    table = unit.read("cut").append_column("colour", unit.read("score-colour")["colour"])
    assert survivors(table, config.select.rules).to_pylist() == ["colour >= 4", ""]


def test_the_captioner_looks_at_its_pictures(tmp_path):
    script = tmp_path / "my_captioner.py"
    script.write_text(shown("for line in sys.stdin"))
    captioner = CommandCaptioner(shlex.join([sys.executable, str(script)]), CaptionConfig())
    rows = [dict.fromkeys(TOLD) | {"clip": name, "category": "cats"} for name in ("a", "b")]
    pictures = [np.full((3, 24, 32, 3), light, np.uint8) for light in (200, 20)]
    try:
        found = captioner([Asked(row, picture) for row, picture in zip(rows, pictures, strict=True)])
    finally:
        captioner.close()
    assert found == ["cats on a bright day", "cats on a dark day"]
