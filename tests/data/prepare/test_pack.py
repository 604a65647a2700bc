"""Every shape of source packs into the same shards, real files included; every reason for leaving out is told."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
import typer.testing
from PIL import Image

from lavie.cli.data import app
from lavie.data.media.decode import decode_frames, decode_image, frame_times
from lavie.data.media.encode import encode_mp4
from lavie.data.prepare.pack import pack, pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.data.shards.index import load_index
from lavie.data.shards.member import read_member
from lavie.errors import DataError
from lavie.testing import SHARED
from tests.markers import requires_shared


def mp4(frames: int = 16) -> bytes:
    pixels = np.zeros((frames, 32, 48, 3), np.uint8)
    pixels += (np.arange(frames, dtype=np.uint8) * 5)[:, None, None, None]
    return encode_mp4(pixels, 8)


def image(format: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "orange").save(file, format)
    return file.getvalue()


def gif(durations_ms: list[int]) -> tuple[bytes, np.ndarray]:
    """A gif and its frames."""
    levels = np.arange(len(durations_ms), dtype=np.uint8)[:, None, None, None] * 10 + 5
    frames = np.broadcast_to(levels, (len(durations_ms), 31, 33, 3)).copy()
    frames[:, 3:9, 3:9] = (250, 10, 40)
    file = io.BytesIO()
    first, *rest = map(Image.fromarray, frames)
    first.save(file, "gif", save_all=True, append_images=rest, duration=durations_ms, loop=0)
    return file.getvalue(), frames


MP4 = mp4()


def packed(src, out, **changes):
    values = {"num_frames": 16, "fps": 8}
    report = pack(src, out, **{**values, **changes})
    return report, load_index((str(out),))


def captions(index):
    return sorted(s.caption for s in index)


def write(folder, files: dict[str, bytes | str]):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def test_a_folder_of_media_with_texts(tmp_path):
    src = write(
        tmp_path / "src",
        {
            "a.mp4": MP4,
            "a.txt": "one",
            "sub/v1.0_clip.MP4": MP4,
            "sub/v1.0_clip.txt": "two\n",
            "b.jpeg": image("jpeg"),
            "b.txt": "three",
            "c.png": image(),
            "c.txt": "four",
        },
    )
    report, index = packed(src, tmp_path / "out")
    assert (report.videos, report.images, report.rejected, report.converted) == (2, 2, (), ())
    assert [(s.caption, s.member) for s in index] == [
        ("one", "000000000-a.mp4"),
        ("two", "000000003-v1_0_clip.mp4"),
        ("three", "000000001-b.jpg"),
        ("four", "000000002-c.png"),
    ]
    assert read_member(index[0]) == MP4
    with tarfile.open(report.shards[0]) as tar:
        notes = json.load(tar.extractfile("000000003-v1_0_clip.json"))
        assert notes == {"original": "sub/v1.0_clip.MP4"}
        assert all(m.mtime == 0 and m.isreg() for m in tar)
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


@pytest.mark.parametrize("media_column", ["path", "file_path", "video_path", "video", "image", "file_name"])
@pytest.mark.parametrize("caption_column", ["text", "caption", "cap"])
def test_tables_by_each_column_name(tmp_path, media_column, caption_column):
    src = write(tmp_path / "src", {"media/a.png": image()})
    row = {media_column: "media/a.png", caption_column: 'a "quoted", café', "other": "1"}
    with open(src / "t.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    (src / "t.jsonl").write_text(json.dumps(row) + "\n\n")
    for name in ("t.csv", "t.jsonl"):
        _, index = packed(src / name, tmp_path / name)
        assert captions(index) == ['a "quoted", café']


@pytest.mark.parametrize("table", ["captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv"])
def test_a_folder_with_a_table(tmp_path, table):
    src = write(tmp_path / "src", {"a.mp4": MP4, "extra.mp4": MP4, "LICENSE": "text"})
    write(src, {table: "path,text\na.mp4,one\n" if table.endswith("csv") else '{"path": "a.mp4", "text": "one"}\n'})
    report, index = packed(src, tmp_path / "out")
    assert captions(index) == ["one"]
    assert [(r.name, r.reason) for r in report.rejected] == [("extra.mp4", "no caption")]


def test_videos_and_prompts_line_to_line(tmp_path):
    lists = {"videos.txt": "v/a.mp4\nv/b.mp4\n", "prompts.txt": "one\ntwo\n"}
    src = write(tmp_path / "src", {"v/a.mp4": MP4, "v/b.mp4": MP4, **lists})
    _, index = packed(src, tmp_path / "out")
    assert [s.caption for s in index] == ["one", "two"]
    write(src, {"prompts.txt": "one\n"})
    with pytest.raises(DataError, match=r"videos\.txt has 2 lines and prompts\.txt 1"):
        packed(src, tmp_path / "out2")


def test_shards_of_another_tool_are_packed_anew(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    with tarfile.open(src / "x-000.tar", "w") as tar:
        for name, data in {"k/1.2.mp4": MP4, "k/1.2.txt": b"one", "k/3.pkl": b"", "k/4.mp4": MP4}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    report, index = packed(src, tmp_path / "out")
    assert [(s.key, s.caption) for s in index] == [("000000002-1_2", "one")]
    assert [(r.name, r.reason) for r in report.rejected] == [
        ("x-000.tar:k/3.pkl", "unknown extension"),
        ("x-000.tar:k/4.mp4", "no caption"),
    ]


REJECTED = {
    "short.mp4": ({"short.mp4": mp4(15), "short.txt": "x"}, "too short", "16 different frames at 8 fps"),
    "broken.mp4": ({"broken.mp4": MP4[:400], "broken.txt": "x"}, "undecodable", "cannot be decoded"),
    "empty.mp4": ({"empty.mp4": b"", "empty.txt": "x"}, "undecodable", "empty"),
    "lfs.mp4": ({"lfs.mp4": "version https://git-lfs", "lfs.txt": "x"}, "undecodable", "starts with"),
    "list.mp4": ({"list.mp4": "#EXTM3U\nfile:///etc/passwd", "list.txt": "x"}, "undecodable", "starts with"),
    "deep.png": ({"deep.png": None, "deep.txt": "x"}, "undecodable", "8 bits per channel"),
    "mute.mp4": ({"mute.mp4": MP4}, "no caption", "mute.txt"),
    "blank.mp4": ({"blank.mp4": MP4, "blank.txt": " \n"}, "unusable caption", "empty"),
    "latin.mp4": ({"latin.mp4": MP4, "latin.txt": b"caf\xe9"}, "unusable caption", "UTF-8"),
    "long.mp4": ({"long.mp4": MP4, "long.txt": "x" * 5000}, "unusable caption", "5000 characters"),
    "lonely.txt": ({"lonely.txt": "x"}, "caption without media", ""),
    "notes.pdf": ({"notes.pdf": "x"}, "unknown extension", ""),
    "good.png": ({"good.png": image()}, "duplicate key", "good.mp4 has the same caption file"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_each_reason_is_told_and_the_rest_is_packed(tmp_path, name):
    files, reason, detail = REJECTED[name]
    if name == "deep.png":
        file = io.BytesIO()
        Image.new("I;16", (8, 8)).save(file, "png")
        files = {**files, "deep.png": file.getvalue()}
    src = write(tmp_path / "src", {"good.mp4": MP4, "good.txt": "good", **files})
    report, index = packed(src, tmp_path / "out")
    assert captions(index) == ["good"]
    assert [(r.name, r.reason) for r in report.rejected] == [(name, reason)]
    assert detail in report.rejected[0].detail
    assert report.reasons == {reason: 1}
    line = json.loads((tmp_path / "out" / "rejected.jsonl").read_text())
    assert (line["name"], line["reason"]) == (name, reason)


@pytest.mark.parametrize(
    ("row", "name", "reason"),
    [
        ({"text": "x"}, "t.jsonl, line 2", "no media path"),
        ({"path": "a.mp4"}, "a.mp4", "no caption"),
        ({"path": "a.mp4", "text": 5}, "a.mp4", "no caption"),
        ({"path": "good.mp4", "text": "x"}, "good.mp4", "duplicate key"),
        ({"path": "gone.mp4", "text": "x"}, "gone.mp4", "missing file"),
        ({"path": "https://example.com/a.mp4", "text": "x"}, "https://example.com/a.mp4", "missing file"),
        ({"path": "a.avi", "text": "x"}, "a.avi", "unknown extension"),
    ],
)
def test_rows_of_a_table_that_cannot_be_used(tmp_path, row, name, reason):
    src = write(tmp_path / "src", {"good.mp4": MP4, "a.mp4": MP4, "a.avi": b""})
    (src / "t.jsonl").write_text(json.dumps({"path": "good.mp4", "text": "good"}) + "\n" + json.dumps(row) + "\n")
    report, index = packed(src / "t.jsonl", tmp_path / "out")
    assert captions(index) == ["good"]
    assert [(r.name, r.reason) for r in report.rejected] == [(name, reason)]


@pytest.mark.parametrize(
    ("name", "text"), [("t.jsonl", '{"path": 1}\n{"pa'), ("t.jsonl", "{}\n[1]"), ("t.csv", 'path,text\n"a,b')]
)
def test_a_broken_table_is_an_error_with_its_line(tmp_path, name, text):
    src = write(tmp_path, {name: text})
    with pytest.raises(DataError, match=rf"{name}, line \d"):
        packed(src / name, tmp_path / "out")


def test_gifs_become_videos_with_the_same_frames_and_times(tmp_path):
    steady, frames = gif([120] * 6)
    uneven, _ = gif([50, 200, 100, 300, 40, 60])
    src = write(tmp_path / "src", {"s.gif": steady, "s.txt": "steady", "u.gif": uneven, "u.txt": "uneven"})
    report, index = packed(src, tmp_path / "out", num_frames=3, fps=5)
    assert report.converted == ("s.gif", "u.gif")
    first, second = index
    assert (first.member[-4:], first.vfr, second.vfr) == (".mp4", False, True)
    assert first.fps == pytest.approx(1 / 0.12)
    np.testing.assert_array_equal(decode_frames(read_member(first), range(6)), frames)
    np.testing.assert_array_equal(decode_frames(read_member(second), range(6)), frames)
    np.testing.assert_allclose(frame_times(read_member(second)), [0, 0.05, 0.25, 0.35, 0.65, 0.69], atol=1e-6)


def test_a_gif_of_one_frame_becomes_an_image(tmp_path):
    still, frames = gif([100])
    report, index = packed(write(tmp_path / "src", {"s.gif": still, "s.txt": "still"}), tmp_path / "out")
    assert (report.videos, report.images) == (0, 1)
    assert index[0].member.endswith(".png")
    np.testing.assert_array_equal(decode_image(read_member(index[0])), frames[0])


def test_nothing_left_is_an_error(tmp_path):
    src = write(tmp_path / "src", {"a.mp4": mp4(3), "a.txt": "x"})
    with pytest.raises(DataError, match=r"no entry can train, 1 rejected; first: a\.mp4: too short"):
        packed(src, tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="SRC is empty; wanted videos and images"):
        packed(tmp_path / "none", tmp_path / "out2")


def test_sources_that_are_none(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        packed(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match=r"a file, but no \.csv"):
        packed(write(tmp_path, {"x.zip": b""}) / "x.zip", tmp_path / "out")


def test_a_folder_with_shards_is_not_written_over(tmp_path):
    src = write(tmp_path / "src", {"a.mp4": MP4, "a.txt": "x"})
    packed(src, tmp_path / "out")
    with pytest.raises(DataError, match="holds shards already"):
        packed(src, tmp_path / "out")


def test_shards_are_closed_at_their_size_and_keep_the_order(tmp_path):
    src = write(tmp_path / "src", {f"{i}{s}": d for i in range(5) for s, d in ((".mp4", MP4), (".txt", f"clip {i}"))})
    report, index = packed(src, tmp_path / "out", shard_bytes=2 * len(MP4) + 4000)
    assert len(report.shards) > 1
    assert [p.name for p in report.shards] == [f"{i:05d}.tar" for i in range(len(report.shards))]
    assert [s.caption for s in index] == [f"clip {i}" for i in range(5)]
    assert [read_member(s) for s in index] == [MP4] * 5


def test_packing_twice_gives_the_same_bytes(tmp_path):
    src = write(tmp_path / "src", {"a.mp4": MP4, "a.txt": "x", "b.gif": gif([100] * 20)[0], "b.txt": "y"})
    packed(src, tmp_path / "1")
    packed(src, tmp_path / "2")
    for name in ("00000.tar", "00000.index.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_an_interrupted_run_leaves_no_half_shard(tmp_path):
    def entries():
        yield CaptionedFile("a", "a", lambda: MP4, "one")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_files(entries(), tmp_path / "out", num_frames=16, fps=8)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("stem", ["../../etc/passwd", "-rf", "$(touch x)", "é" * 300, "a.b c", "CON", ""])
def test_keys_are_harmless_whatever_the_name(tmp_path, stem):
    pack_files([CaptionedFile("n", stem, lambda: MP4, "x")], tmp_path, num_frames=16, fps=8)
    (sample,) = load_index((str(tmp_path),))
    assert sample.key.isascii()
    assert set(sample.key) <= set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-")
    assert len(sample.key) < 80


@requires_shared
@pytest.mark.parametrize(("folder", "videos", "images"), [("videos", 6, 0), ("clips_16f", 11, 0), ("images", 0, 8)])
def test_real_files_pack(tmp_path, folder, videos, images):
    report, index = packed(SHARED / "assets" / folder, tmp_path)
    assert (report.videos, report.images, report.rejected) == (videos, images, ())
    assert len(report.converted) == (11 if folder == "clips_16f" else 0)
    lines = (SHARED / "assets" / folder / "captions.jsonl").read_text().splitlines()
    assert captions(index) == sorted(json.loads(line)["caption"] for line in lines)
    if folder == "clips_16f":
        assert all((s.frames, s.width, s.height) == (16, 512, 320) for s in index)


@requires_shared
def test_a_real_gif_is_stored_bit_for_bit(tmp_path):
    source = next((SHARED / "assets/clips_16f").glob("*teddy*.gif")).read_bytes()
    pack_files([CaptionedFile("t.gif", "t", lambda: source, "x")], tmp_path, num_frames=16, fps=8)
    (sample,) = load_index((str(tmp_path),))
    np.testing.assert_array_equal(decode_frames(read_member(sample), range(16)), decode_frames(source, range(16)))


def run_cli(*args: object):
    return typer.testing.CliRunner().invoke(app, [str(a) for a in args])


def test_cli_packs_and_tells_what_it_left_out(tmp_path):
    src = write(tmp_path / "src", {"a.mp4": MP4, "a.txt": "x", "b.mp4": MP4, "c[red].mp4": MP4})
    result = run_cli("pack", src, tmp_path / "out", "--fps", 8)
    assert result.exit_code == 0, result.output
    assert "rejected: no caption" in result.output
    assert "c[red].mp4: no caption" in result.output
    assert len(load_index((str(tmp_path / "out"),))) == 1


def test_cli_takes_one_rate_at_most(tmp_path):
    src = write(tmp_path / "src", {"a.mp4": MP4, "a.txt": "x"})
    assert isinstance(run_cli("pack", src, tmp_path / "o", "--fps", 8, "--frame-stride", 2).exception, DataError)
    assert run_cli("pack", src, tmp_path / "out").exit_code == 0


def test_cli_draws_the_demo_set(tmp_path):
    result = run_cli("demo", tmp_path, "--clips", 10, "--images", 4, "--size", 32)
    assert result.exit_code == 0, result.output
    assert len(load_index((str(tmp_path / "train"),))) == 14
    assert isinstance(run_cli("demo", tmp_path / "x", "--size", 33).exception, DataError)
