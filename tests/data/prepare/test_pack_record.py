"""Packing in parallel, after a stop, and again with more files: the same shards as in one go by one worker."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lavie.data.prepare.pack_record import RECORD
from lavie.errors import DataError
from tests.data.prepare.captioned import captions, image, mp4, packed, write

CLIPS = {f"{name}.mp4": mp4(16 + number) for number, name in enumerate("bdfhjlprt")}
"""Nine clips, all different."""

SIZE = 4500
"""Bytes of a shard that holds three of the clips."""


def source(folder: Path, media: dict[str, bytes] = CLIPS) -> Path:
    """Write media, each with a caption that names it, and one file that cannot train, and return the folder."""
    texts = {str(Path(name).with_suffix(".txt")): f"the clip {name}" for name in media}
    return write(folder, {**media, **texts, "e.mp4": mp4(3), "e.txt": "too short"})


def contents(out: Path) -> dict[str, bytes]:
    """Return the shards, indices and lists of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.slow
def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    src = source(tmp_path / "src")
    for workers in (1, 3):
        seen = []
        packed(
            src,
            tmp_path / str(workers),
            workers=workers,
            shard_bytes=SIZE,
            progress=lambda *done, s=seen: s.append(done),
        )
        assert seen == [(number, 10) for number in range(1, 11)]
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    assert "00002.tar" in contents(tmp_path / "1")


@pytest.mark.slow
@pytest.mark.parametrize("place", ("replace", "write_index", "finish"))
def test_a_killed_packing_goes_on_after_its_last_finished_shard(tmp_path, place):
    """Killed as its third shard is renamed, indexed or recorded; finished shards are not done again."""
    src = source(tmp_path / "src")
    whole, _ = packed(src, tmp_path / "whole", shard_bytes=SIZE)
    program = f"""
import os, signal
import lavie.data.prepare.writer as writer, lavie.data.prepare.pack_record as record
from lavie.data.prepare.pack import pack
home = {{"replace": writer.os, "write_index": writer, "finish": record.PackRecord}}[{place!r}]
real, calls = getattr(home, {place!r}), []
def killed(*args, **options):
    # Shards and indices are renamed by the same function: only the names of shards count.
    calls.extend([1] if {place!r} != "replace" or str(args[1]).endswith(".tar") else [])
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
setattr(home, {place!r}, killed)
pack({str(src)!r}, {str(tmp_path / "out")!r}, num_frames=16, fps=8, shard_bytes={SIZE})
"""
    code = subprocess.run([sys.executable, "-c", program]).returncode
    assert code == -signal.SIGKILL
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("0000[01].*")}
    assert len(before) == 4
    report, _ = packed(src, tmp_path / "out", shard_bytes=SIZE)
    assert report.kept > 0
    assert report.kept + report.videos == whole.videos
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("0000[01].*")} == before


def test_new_files_become_new_shards_and_changes_are_told(tmp_path, monkeypatch):
    src, out = source(tmp_path / "src"), tmp_path / "out"
    packed(src, out)
    before = contents(out)

    # Nothing new: nothing is decoded, not even what could not train.
    with monkeypatch.context() as patch:
        patch.setattr("lavie.data.prepare.pack.examine", lambda *args, **options: pytest.fail("was decoded"))
        report, _ = packed(src, out)
    assert (report.videos, report.kept, report.shards, report.changed) == (0, 9, (), ())
    assert report.reasons == {"too short": 1}
    assert contents(out) == before

    # Two new files, one of them before all others; a file that can train now; other captions and media; a file gone.
    source(src, {"a.mp4": mp4(30), "n.png": image()})
    write(src, {"e.mp4": mp4(31), "b.txt": "another caption", "d.mp4": mp4(29)})
    (src / "f.mp4").touch()
    (src / "h.mp4").unlink()
    (src / "h.txt").unlink()
    report, index = packed(src, out)
    assert (report.videos, report.images, report.kept, report.rejected) == (2, 1, 6, ())
    assert [(c.name, c.reason) for c in report.changed] == [
        ("b.mp4", "caption changed"),
        ("d.mp4", "media changed"),
        ("h.mp4", "gone from the source"),
    ]
    assert "00000.tar holds it as it was" in report.changed[0].detail
    assert [path.name for path in report.shards] == ["00001.tar"]
    assert {name: contents(out)[name] for name in ("00000.tar", "00000.index.jsonl")} == {
        name: before[name] for name in ("00000.tar", "00000.index.jsonl")
    }
    keys = [sample.key for sample in index]
    assert len(set(keys)) == len(keys) == 12
    assert captions(index)[0] == "the clip a.mp4"


def test_another_source_adds_to_the_same_folder(tmp_path):
    out = tmp_path / "out"
    packed(source(tmp_path / "one"), out)
    report, index = packed(source(tmp_path / "two", {"b.mp4": mp4(40), "d.mp4": CLIPS["d.mp4"]}), out)
    assert (report.videos, report.kept, report.changed) == (1, 1, ())
    assert len(index) == 10


def test_folders_that_cannot_be_added_to_are_refused(tmp_path):
    src = source(tmp_path / "src")
    write(tmp_path / "foreign", {"x.tar": b""})
    with pytest.raises(DataError, match=r"holds x\.tar, of which no packed\.jsonl tells"):
        packed(src, tmp_path / "foreign")
    packed(src, tmp_path / "out")
    with pytest.raises(DataError, match="was packed with num_frames 16, now 4"):
        packed(src, tmp_path / "out", num_frames=4)
    (tmp_path / "out" / "00000.tar").unlink()
    with pytest.raises(DataError, match=r"00000\.tar is gone"):
        packed(src, tmp_path / "out")


def test_options_that_left_nothing_bind_nobody(tmp_path):
    src = write(tmp_path / "src", {"a.mp4": mp4(8), "a.txt": "x"})
    with pytest.raises(DataError, match="no entry can train"):
        packed(src, tmp_path / "out")
    assert packed(src, tmp_path / "out", num_frames=4)[0].videos == 1
    (tmp_path / "out" / RECORD).write_text("{")
    with pytest.raises(DataError, match="of which no"):
        packed(src, tmp_path / "out", num_frames=4)


def test_a_file_of_another_name_is_packed_once(tmp_path):
    src, out = source(tmp_path / "src"), tmp_path / "out"
    packed(src, out)
    for suffix in (".mp4", ".txt"):
        (src / f"b{suffix}").rename(src / f"zz{suffix}")
    report, index = packed(src, out)
    assert report.kept == 9 and not report.shards
    assert [(item.name, item.reason, item.detail) for item in report.changed] == [
        ("zz.mp4", "renamed", "00000.tar holds it as b.mp4")
    ]
    # A copy beside the file is a sample of its own, as in one packing.
    for suffix in (".mp4", ".txt"):
        (src / f"copy{suffix}").write_bytes((src / f"d{suffix}").read_bytes())
    report, index = packed(src, out)
    assert report.videos == 1 and len(index) == 10


def test_the_source_is_not_the_target(tmp_path):
    src = source(tmp_path / "src")
    before = contents(src)
    with pytest.raises(DataError, match="SRC and OUT are both"):
        packed(src, src)
    assert contents(src) == before


def test_shards_below_the_source_are_none_of_its_files(tmp_path):
    src = source(tmp_path / "src")
    first, _ = packed(src, src / "shards")
    again, index = packed(src, src / "shards")
    assert [item.name for item in again.rejected] == [item.name for item in first.rejected] == ["e.mp4"]
    assert again.kept == 9 == len(index) and not again.shards
