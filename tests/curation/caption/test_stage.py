"""The stage `caption`: which clips are captioned, what is kept of before, and what a captioner costs that fails."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from lavie.cli import main as cli
from lavie.config.curate import CurateConfig, rules_before_captions, stage_config
from lavie.config.curate_caption import CaptionConfig, CaptionWork
from lavie.config.curate_select import DEFAULT_RULES, Rule
from lavie.curation.caption.stage import CAPTION, smaller
from lavie.curation.caption.told import told_captions
from lavie.curation.run import run_stage
from lavie.curation.table import read_table
from tests.cli.fixtures import call
from tests.curation.caption.tiny_llava import write_llava
from tests.curation.here import Here
from tests.curation.made_cut import MadeClip, made_units, make_cut, moving

pytest.importorskip("pyarrow")
__all__ = ["call"]
LONG = Rule(column="frames", min=16)


def curated(tmp_path, films_a_unit: int = 1) -> Path:
    """Make three films of clips of 16, 20 and 9 frames each; one clip cannot be decoded."""
    films: dict[str, list] = {
        f"cats/{name}.mp4": [moving(3 * i + j, count) for j, count in enumerate((16, 20, 9))]
        for i, name in enumerate("abc")
    }
    films["cats/b.mp4"][1] = MadeClip(films["cats/b.mp4"][1], data=b"no film at all")
    return make_cut(tmp_path, films, films_a_unit=films_a_unit)


@pytest.fixture
def out(tmp_path):
    """A curation whose films are a unit each."""
    return curated(tmp_path)


def program(tmp_path: Path, trouble: str = "pass") -> str:
    """Return a captioner that names what it sees, and writes the clips that it was asked about to `asked`."""
    script = tmp_path / "program.py"
    script.write_text(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        f"    {trouble}\n"
        f"    open({str(tmp_path / 'asked')!r}, 'a').write(asked['clip'] + '\\n')\n"
        "    told = f\"The video shows {asked['film']} at {asked['t0']} in {len(asked['pictures'])}\"\n"
        "    print(json.dumps({'clip': asked['clip'], 'caption': told}), flush=True)\n"
    )
    return "command:" + shlex.join([sys.executable, str(script)])


def caption(out: Path, captioner: str, *rules: Rule, **settings):
    """Bring the captions up to date."""
    work = CaptionWork(caption=CaptionConfig(captioner=captioner, **settings), rules=rules)
    return run_stage(out, "caption", work, Here())


def rows(out: Path) -> list[dict]:
    paths = sorted((out / "table/caption").glob("*.parquet"))
    return [row for path in paths for row in read_table(path).to_pylist()]


def asked(tmp_path: Path) -> list[str]:
    """Return the clips that a program was asked about since the last call."""
    log = tmp_path / "asked"
    found = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_survivors_alone_are_captioned(out, tmp_path):
    assert caption(out, program(tmp_path), LONG, frames=4).done == 3
    found = rows(out)
    cut = [row for unit in made_units(out) for row in unit.read("cut").to_pylist()]
    assert [row["clip"] for row in found] == [row["clip"] for row in cut]
    told = [i for i, row in enumerate(cut) if row["frames"] >= 16 and i != 4]
    assert [i for i, row in enumerate(found) if row["caption"] is not None] == told == [0, 1, 3, 6, 7]
    assert asked(tmp_path) == [cut[i]["clip"] for i in told]
    assert found[1] == {
        "clip": cut[1]["clip"],
        "caption_raw": "The video shows cats/a.mp4 at 2.0 in 4",
        "caption": "Cats/a.mp4 at 2.0 in 4",
        "words": 5,
        "captioner": "command:program.py",
    }
    assert found[2] == dict.fromkeys(found[2]) | {"clip": cut[2]["clip"]}
    assert found[4] == dict.fromkeys(found[4]) | {"clip": cut[4]["clip"]}
    [refused] = (out / "rejected/caption").iterdir()
    refused = json.loads(refused.read_text())
    assert (refused["name"], refused["reason"]) == (cut[4]["clip"], "cannot be decoded")
    assert refused["detail"].startswith("cats/b.mp4: ") and refused["detail"].count("cats/b.mp4") == 1
    assert caption(out, program(tmp_path), LONG, frames=4).done == 0


def test_other_rules_cost_new_clips_alone_and_end_with_the_same_bytes(tmp_path):
    out = curated(tmp_path, films_a_unit=3)
    tables = lambda: {path: path.read_bytes() for path in (out / "table/caption").iterdir()}  # noqa: E731
    captioner = program(tmp_path)
    caption(out, captioner)
    everything = tables()
    assert len(asked(tmp_path)) == 8
    caption(out, captioner, Rule(column="frames", min=17))
    assert [row["caption"] is not None for row in rows(out)] == [False, True, False] + [False] * 4 + [True, False]
    assert asked(tmp_path) == []
    caption(out, captioner, LONG)
    assert len(asked(tmp_path)) == 3
    caption(out, captioner)
    assert len(asked(tmp_path)) == 3 and tables() == everything
    caption(out, captioner, frames=2)  # another question
    assert len(asked(tmp_path)) == 8


def test_a_captioner_that_dies_costs_its_unit_alone(out, tmp_path):
    dying = program(tmp_path, "os._exit(7) if asked['film'] == 'cats/b.mp4' and not os.path.exists('mended') else None")
    report = caption(out, dying)
    assert report.done == 2 and list(report.failed) == ["000001"]
    assert "command:program.py ended at clip" in report.failed["000001"] and "exit code 7" in report.failed["000001"]
    assert [row["caption"][:10] for row in rows(out) if row["caption"]] == ["Cats/a.mp4"] * 3 + ["Cats/c.mp4"] * 3
    asked(tmp_path)
    mended = program(tmp_path)
    report = caption(out, mended)  # the program's file counts: all are asked again
    assert report.done == 3 and not report.failed and len(asked(tmp_path)) == 8


@pytest.mark.filterwarnings("ignore")
def test_a_tiny_network_captions_clips(out, tmp_path):
    write_llava(tmp_path / "llava")
    settings = dict(max_tokens=5, frames=3, side=64, batch=2, prompt="word1")
    caption(out, f"transformers:{tmp_path / 'llava'}", LONG, **settings)
    found = rows(out)
    words = [row["words"] for row in found if row["words"]]
    assert len(words) == 5 and max(words) == 5 and len({row["caption"] for row in found}) > 2
    assert all(row["caption"] == row["caption_raw"] for row in found)
    before = (out / "table/caption/000000.parquet").read_bytes()
    (out / "table/caption/000000.parquet").unlink()
    caption(out, f"transformers:{tmp_path / 'llava'}", LONG, **settings)
    assert (out / "table/caption/000000.parquet").read_bytes() == before


def test_pictures_are_made_smaller_and_never_larger():
    picture = np.random.default_rng(0).integers(0, 256, (2, 90, 160, 3), np.uint8)
    assert smaller(picture, 90) is picture and smaller(picture, 400) is picture
    assert smaller(picture, 45).shape == (2, 45, 80, 3) and smaller(picture.swapaxes(1, 2), 45).shape == (2, 80, 45, 3)
    flat = np.full((1, 90, 160, 3), 77, np.uint8)
    np.testing.assert_array_equal(smaller(flat, 30), 77)


def test_texts_beside_films_count_among_what_is_read(out, tmp_path):
    films = tmp_path / "films/cats"
    (films / "a.txt").write_text("a cat\nsleeps")
    (films / "c.txt").write_text("I'm sorry, I cannot say")
    report = caption(out, "sidecar")
    assert report.done == 3 and [row["caption"] for row in rows(out)] == ["a cat sleeps"] * 3 + [None] * 6
    assert rows(out)[0]["caption_raw"] == "a cat\nsleeps" and rows(out)[6]["caption_raw"].startswith("I'm sorry")
    told = told_captions(out)
    assert (told.clips, told.captioned, told.dropped) == (9, 3, 0)
    assert told.refused == {"no caption": 3, "refused": 3}
    assert caption(out, "sidecar").done == 0
    (films / "c.txt").write_text("word " * 76)
    assert caption(out, "sidecar").done == 1 and rows(out)[6]["words"] == 76 and told_captions(out).long == 3


def test_a_table_counts_by_what_it_holds(out, tmp_path):
    table = tmp_path / "t.jsonl"
    table.write_text('{"film": "cats/a.mp4", "caption": "one"}\n')
    assert caption(out, f"sidecar:{table}").done == 3
    table.touch()
    assert caption(out, f"sidecar:{table}").done == 0
    table.write_text('{"film": "cats/a.mp4", "caption": "two"}\n')
    assert caption(out, f"sidecar:{table}").done == 3 and rows(out)[0]["caption"] == "two"


def test_captions_wait_for_the_columns_of_their_rules(out):
    work = CaptionWork(caption=CaptionConfig(captioner="sidecar"), rules=(LONG, Rule(column="luma", min=16)))
    assert CAPTION.sources(work) == ("cut", "motion", "texts")
    report = run_stage(out, "caption", work, Here())
    assert len(report.waiting) == 3 and report.done == 0 and report.lacking == ("motion",)


def test_rules_before_captions_are_those_of_what_the_settings_make():
    plain = [rule.column for rule in rules_before_captions(CurateConfig())]
    later = {"words", "clip_score"}
    assert plain == [r.column for r in DEFAULT_RULES if r.column not in later | {"text_area", "aesthetic_mean"}]
    rich = {"clip": {"model": "m", "head": "h"}, "text": {"ocr": True}, "select": {"min_side": 64}}
    config = CurateConfig.model_validate(rich)
    work = stage_config(config, "caption")
    assert [rule.column for rule in work.rules] == [r.column for r in DEFAULT_RULES if r.column not in later]
    assert {rule.column: rule.min for rule in work.rules}["short_side"] == 64
    own = CurateConfig.model_validate(
        {"select": {"rules": [{"column": "text_area", "max": 1}, {"column": "words", "min": 1}]}}
    )
    assert [rule.column for rule in rules_before_captions(own)] == ["text_area"]


@pytest.mark.slow
def test_the_command(out, tmp_path, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "films/cats/a.txt").write_text("a cat sleeps")
    arguments = ("curate", "caption", str(out), "select.rules=[]", "engine.workers=1")
    assert "caption.captioner is not set" in call(cli.main, *arguments)[0]
    code, text = call(cli.main, *arguments[:3], "engine.workers=1", "--captioner", "sidecar")
    assert "3 wait for lavie curate score, lavie curate dedup" in text
    code, text = call(cli.main, *arguments, "--captioner", "sidecar")
    assert code == 0 and "3 units done" in text and "asked for, and none: no caption" in text
    assert [row["caption"] for row in rows(out)] == ["a cat sleeps"] * 3 + [None] * 6
