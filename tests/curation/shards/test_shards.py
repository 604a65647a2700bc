"""The shards of a selection: planned by the clips' names and sizes, written once, with everything about each clip."""

import json
import tarfile
from dataclasses import replace

import pytest

from lavie.config.base import Strict
from lavie.config.curate_shards import ShardsConfig
from lavie.curation.partial import partial_folder
from lavie.curation.perform import commit
from lavie.curation.shards.plan import read_plan
from lavie.curation.shards.write import write_shards
from lavie.curation.stage import Done, Stage
from lavie.curation.table import Made, make_table, write_table
from lavie.data.check.check import check
from lavie.data.prepare.scan import index_shard
from lavie.data.shards.index_file import Sample, index_path, read_header, read_index
from lavie.errors import ConfigError, DataError
from tests.curation.here import Here
from tests.curation.made_cut import made_units, make_cut, moving

SCORE = Stage("look", 1, ("cut",), Strict, {"clip": "string", "aesthetic_mean": "float", "overlay": "bool"})
CAPTION = {"clip": "string", "caption_raw": "string", "caption": "string", "words": "int32", "captioner": "string"}
CAPTIONS = Stage("caption", 1, ("cut",), Strict, CAPTION)
SELECTION = {"unit": "string", "clip": "string", "keep": "bool", "caption": "string"}


@pytest.fixture
def out(tmp_path):
    """A curation of eight clips of four films; one is dropped, one has no caption."""
    films = {f"{'cats' if i % 2 else 'dogs'}/{i}.mp4": [moving(2 * i), moving(2 * i + 1)] for i in range(4)}
    out = make_cut(tmp_path, films)
    number = 0
    for unit in made_units(out):
        clips = unit.read("cut", ["clip"])["clip"].to_pylist()
        values = [4.0 + 0.25 * (number + i) for i in range(len(clips))]
        captions = [None if number + i == 5 else f"Clip number {number + i}." for i in range(len(clips))]
        number += len(clips)
        words = [c and len(c.split()) for c in captions]
        with partial_folder(out, "made") as folder:
            unit.folder = folder
            done = Done({"clip": clips, "aesthetic_mean": values, "overlay": [False] * len(clips)})
            commit(SCORE, unit, done, Made("look", 1, {}, {}))
            names = ["sidecar" if c else None for c in captions]
            told = {"clip": clips, "caption_raw": captions, "caption": captions, "words": words, "captioner": names}
            commit(CAPTIONS, unit, Done(told), Made("caption", 1, {}, {}))
    write_selection(out, dropped={2})
    return out


def rows_of(out):
    """Return all rows of cut, in the order of the units."""
    return [row | {"unit": unit.name} for unit in made_units(out) for row in unit.read("cut").to_pylist()]


def write_selection(out, dropped=()):
    """Write the selection of all clips but some, by their numbers."""
    captions = [c for unit in made_units(out) for c in unit.read("caption", ["caption"])["caption"].to_pylist()]
    rows = rows_of(out)
    table = {
        "unit": [row["unit"] for row in rows],
        "clip": [row["clip"] for row in rows],
        "keep": [i not in dropped for i in range(len(rows))],
        "caption": captions,
    }
    (out / "select").mkdir(exist_ok=True)
    write_table(selection(out), make_table(table, SELECTION), {})


def selection(out):
    return out / "select/selection.parquet"


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def samples_of(folder):
    """Return the samples in the indices of all shards below a folder."""
    found = []
    for tar in sorted(folder.rglob("*.tar")):
        index = index_path(tar)
        found += [Sample(shard=str(tar), **line) for line in read_index(index, read_header(index))]
    return found


def test_every_selected_clip_is_in_a_shard_with_all_that_is_known_of_it(out, tmp_path):
    dest = tmp_path / "shards"
    report = write_shards(out, selection(out), dest, ShardsConfig(), Here())
    assert (report.written, report.without_caption, report.failed) == (1, 1, {})

    rows = rows_of(out)
    wanted = {row["clip"]: (i, row) for i, row in enumerate(rows) if i not in (2, 5)}
    with tarfile.open(dest / "00000.tar") as tar:
        names = tar.getnames()
        assert names == [f"{clip}.{kind}" for clip in sorted(wanted) for kind in ("json", "mp4", "txt")]
        for clip, (i, row) in wanted.items():
            unit = next(unit for unit in made_units(out) if unit.name == row["unit"])
            assert tar.extractfile(f"{clip}.mp4").read() == unit.clip_bytes(row)
            assert tar.extractfile(f"{clip}.txt").read().decode() == f"Clip number {i}."
            notes = json.load(tar.extractfile(f"{clip}.json"))
            assert notes == {
                **{name: row[name] for name in ("clip", "film", "category", "stream", "start", "end", "t0", "t1")},
                "method": "encode",
                "caption_raw": f"Clip number {i}.",
                "captioner": "sidecar",
                "scores": {"aesthetic_mean": 4.0 + 0.25 * i},
                "aesthetic_score": 4.0 + 0.25 * i,
            }


def test_the_index_is_the_one_that_reading_the_shard_gives(out, tmp_path):
    dest = tmp_path / "shards"
    write_shards(out, selection(out), dest, ShardsConfig(), Here())
    found, rejected, _ = index_shard(dest / "00000.tar")
    assert not rejected
    # These made columns leave the remarks of a file out.
    assert [replace(sample, notes=()) for sample in found] == samples_of(dest)


def test_the_projects_check_finds_nothing_and_knows_categories_and_scores(out, tmp_path):
    dest = tmp_path / "shards"
    write_shards(out, selection(out), dest, ShardsConfig(), Here())
    report = check([dest / "00000.tar"], num_frames=16, frame_stride=1, decode=8)
    assert dict(report.categories) == {"dogs": 3, "cats": 3}
    assert sorted(report.aesthetic) == [4.0 + 0.25 * i for i in (0, 1, 3, 4, 6, 7)]


def test_shards_are_filled_by_size_and_none_is_written_twice(out, tmp_path):
    dest, size = tmp_path / "shards", 1 << 16
    report = write_shards(out, selection(out), dest, ShardsConfig(shard_bytes=size), Here())
    sizes = [row["bytes"] + 4096 for row in sorted(rows_of(out), key=lambda row: row["clip"])]
    assert report.written == len(report.shards) > 1 or sum(sizes) <= size
    assert [shard.number for shard in report.shards] == list(range(len(report.shards)))
    before = contents(dest)
    engine = Here()
    assert write_shards(out, selection(out), dest, ShardsConfig(shard_bytes=size), engine).written == 0
    assert not engine.items

    # A shard without an index was not finished: it alone is written again.
    index_path(dest / "00000.tar").unlink()
    (dest / "00000.tar").write_bytes(b"half a shard")
    assert write_shards(out, selection(out), dest, ShardsConfig(shard_bytes=size), Here()).written == 1
    assert contents(dest) == before


def test_grades_go_to_folders_of_their_own(out, tmp_path):
    dest = tmp_path / "shards"
    config = ShardsConfig(grade_by="aesthetic_mean", grade_edges=(4.5, 5.5))
    write_shards(out, selection(out), dest, config, Here())
    grades = {grade: len(samples_of(dest / grade)) for grade in ("grade-0", "grade-1", "grade-2")}
    assert grades == {"grade-0": 2, "grade-1": 2, "grade-2": 2}
    assert [(shard.grade, shard.clips) for shard in read_plan(dest)] == list(grades.items())
    with pytest.raises(ConfigError, match=r"grade_by sharpness: clip \w+ has no such number; it has .*aesthetic_mean"):
        write_shards(out, selection(out), tmp_path / "b", ShardsConfig(grade_by="sharpness", grade_edges=(1,)), Here())


def test_another_selection_does_not_mix_with_the_shards_of_the_first(out, tmp_path):
    dest = tmp_path / "shards"
    write_shards(out, selection(out), dest, ShardsConfig(grade_by="aesthetic_mean", grade_edges=(4.5,)), Here())
    before = contents(dest)
    write_selection(out, dropped={0, 2})
    with pytest.raises(ConfigError, match=r"another selection.*--overwrite"):
        write_shards(out, selection(out), dest, ShardsConfig(), Here())
    assert contents(dest) == before
    write_shards(out, selection(out), dest, ShardsConfig(), Here(), overwrite=True)
    write_shards(out, selection(out), tmp_path / "anew", ShardsConfig(), Here())
    assert contents(dest) == contents(tmp_path / "anew")


def test_a_call_that_is_killed_while_it_replaces_shards_leaves_none_of_the_old_ones(out, tmp_path, monkeypatch):
    dest = tmp_path / "shards"
    write_shards(out, selection(out), dest, ShardsConfig(), Here())
    write_selection(out, dropped={0, 2})

    def killed(*_):
        raise KeyboardInterrupt

    for at in ("_clear", "write_plan", "read_plan"):  # wherever it is, the next call ends with the new shards alone
        with monkeypatch.context() as patch:
            patch.setattr(f"lavie.curation.shards.write.{at}", killed)
            with pytest.raises(KeyboardInterrupt):
                write_shards(out, selection(out), dest, ShardsConfig(), Here(), overwrite=True)
    write_shards(out, selection(out), dest, ShardsConfig(), Here(), overwrite=True)
    write_shards(out, selection(out), tmp_path / "anew", ShardsConfig(), Here())
    assert contents(dest) == contents(tmp_path / "anew")


def test_columns_of_an_earlier_cut_tell_nothing_of_a_clip(out, tmp_path):
    unit = made_units(out)[0]
    path = out / f"table/look/{unit.name}.parquet"
    table = unit.read("look")
    write_table(path, table.set_column(0, "clip", [["f" * 16, *table["clip"].to_pylist()[1:]]]), {})
    write_shards(out, selection(out), tmp_path / "shards", ShardsConfig(), Here())
    of_unit = set(unit.read("cut", ["clip"])["clip"].to_pylist())
    with tarfile.open(tmp_path / "shards/00000.tar") as tar:
        notes = [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]
    assert {bool(note["scores"]) for note in notes if note["clip"] in of_unit} == {False}
    assert {bool(note["scores"]) for note in notes if note["clip"] not in of_unit} == {True}


def test_a_folder_of_other_shards_is_refused(out, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/00007.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"00007\.tar, which no plan"):
        write_shards(out, selection(out), tmp_path / "shards", ShardsConfig(), Here())


def test_a_clip_that_changed_after_it_was_cut_costs_its_shard_only(out, tmp_path):
    size = ShardsConfig(shard_bytes=1 << 16)
    write_shards(out, selection(out), tmp_path / "whole", size, Here())
    row = min((row for i, row in enumerate(rows_of(out)) if i not in (2, 5)), key=lambda row: row["clip"])
    with open(out / f"clips/{row['unit']}.tar", "r+b") as tar:
        tar.seek(row["offset"] + 100)
        tar.write(b"\0\1\2\3")
    report = write_shards(out, selection(out), tmp_path / "shards", size, Here())
    assert list(report.failed) == ["00000"]
    assert f"clip {row['clip']} of unit {row['unit']} is not as it was cut" in report.failed["00000"]
    others = {name: data for name, data in contents(tmp_path / "whole").items() if not name.startswith("00000.")}
    assert contents(tmp_path / "shards") == others


def test_a_selection_of_clips_that_are_gone_is_refused(out, tmp_path):
    table = make_table({"unit": ["000000"], "clip": ["f" * 16], "keep": [True], "caption": ["a cat"]}, SELECTION)
    write_table(selection(out), table, {})
    with pytest.raises(DataError, match=r"keeps clip f+ of unit 000000, which is not cut any more"):
        write_shards(out, selection(out), tmp_path / "shards", ShardsConfig(), Here())


def test_without_a_selection_the_command_that_makes_it_is_named(out, tmp_path):
    selection(out).unlink()
    with pytest.raises(ConfigError, match="lavie curate select"):
        write_shards(out, selection(out), tmp_path / "shards", ShardsConfig(), Here())


def test_a_shard_that_was_lost_is_written_again(out, tmp_path):
    chosen, dest = selection(out), tmp_path / "shards"
    write_shards(out, chosen, dest, ShardsConfig(), Here())
    whole = (dest / "00000.tar").read_bytes()
    for damage in (lambda tar: tar.unlink(), lambda tar: tar.write_bytes(whole[:1000])):
        damage(dest / "00000.tar")
        assert write_shards(out, chosen, dest, ShardsConfig(), Here()).written == 1
        assert (dest / "00000.tar").read_bytes() == whole
