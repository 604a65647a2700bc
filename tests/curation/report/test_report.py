"""The report of a small curation: what it says is what the selection holds, and its page needs no other file."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from lavie.config.curate_select import Rule, SelectConfig
from lavie.curation.report.report import make_report
from lavie.curation.run import run_stage
from lavie.curation.select.select import read_selection
from lavie.data.shards.index_file import Rejected, write_rejected
from tests.curation.here import Here
from tests.curation.made_cut import MadeClip, make_cut, moving

RULES = (Rule(column="frames", min=16), Rule(column="flow_mean", min=0.004), Rule(column="luma", min=16, max=235))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A curation of twelve clips: some stand still, one is short, one cannot be decoded, and a film was refused."""
    pytest.importorskip("cv2")
    clips = [moving(i, step=i % 4) for i in range(10)]
    films = {f"{'cats' if i % 2 else 'dogs'}/{i}.mp4": [clips[2 * i], clips[2 * i + 1]] for i in range(5)}
    films["cats/<b>.mp4"] = [moving(20, count=8, step=3), MadeClip(moving(21, step=3), data=b"no film")]
    out = make_cut(tmp_path_factory.mktemp("report"), films, measured=True)
    from lavie.config.curate import CurateConfig, stage_config

    assert not run_stage(out, "motion", stage_config(CurateConfig(), "motion"), Here()).failed
    write_rejected_into(out)
    return out


def write_rejected_into(out):
    path = out / "rejected/scan/000000.jsonl"
    path.parent.mkdir(parents=True)
    write_rejected(path, [Rejected("<script>.mp4", "cannot be read", "no header")])


@pytest.fixture(scope="module")
def report(out):
    return make_report(out, SelectConfig(rules=RULES))


def test_it_says_what_the_selection_holds(out, report):
    rows = read_selection(out)
    kept = rows.filter(rows["keep"])
    assert 0 < kept.num_rows < rows.num_rows == 12
    told = json.loads((out / "report/report.json").read_text())
    assert told["all"]["clips"] == 12 and told["kept"]["clips"] == kept.num_rows
    assert told["funnel"]["kept"]["clips"] == told["funnel"]["steps"][-1]["left"]["clips"] == kept.num_rows
    assert sum(told["all"]["categories"].values()) == sum(told["all"]["durations"]) == sum(told["all"]["sides"]) == 12
    assert told["cut"] == {"ways": {"encode": 12}, "why_encoded": {"made by a test": 12}}
    assert told["refused"] == {"scan": {"cannot be read": 1}}


def test_the_sheets_show_the_clips_nearest_each_threshold(out, report):
    sheets = {path.name for path in (out / "report").glob("nearest-*.png")}
    assert sheets == {f"nearest-{name}.png" for name in ("frames-min", "flow_mean-min", "luma-min", "luma-max")}
    with Image.open(out / "report/nearest-flow_mean-min.png") as sheet:
        pixels = np.asarray(sheet)
    # The left picture of the first row is that of a clip which the rule drops.
    tile = pixels[22 + 6 : 22 + 90, 6 : 6 + 128]
    assert tile.std() > 10


def test_the_page_needs_no_other_file_and_runs_nothing(out, report):
    text = report.page.read_text()
    assert "default-src 'none'" in text and "<script" not in text and "&lt;script&gt;.mp4: no header" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert text.count("data:image/png;base64,") == 8


def test_sheets_of_rules_that_hold_no_more_are_gone(out, report):
    make_report(out, SelectConfig(rules=RULES[:2]))
    assert {path.name for path in (out / "report").glob("nearest-*.png")} == {
        "nearest-frames-min.png",
        "nearest-flow_mean-min.png",
    }
