"""What packing stores, bit for bit, and what it leaves out with which reason."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from lavie.data.media.decode import decode_frames, frame_times
from lavie.data.media.image import decode_image
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.data.shards.index import load_index
from lavie.data.shards.member import read_member
from lavie.errors import DataError
from lavie.testing import SHARED
from tests.data.prepare.captioned import MP4, captions, gif, image, mp4, packed, write
from tests.markers import requires_shared

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
    with pytest.raises(DataError, match="is empty; wanted videos and images"):
        packed(tmp_path / "none", tmp_path / "out2")


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
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["packed.jsonl"]


@pytest.mark.parametrize("stem", ("../../etc/passwd", "-rf", "$(touch x)", "é" * 300, "a.b c", "CON", ""))
def test_keys_are_harmless_whatever_the_name(tmp_path, stem):
    pack_files([CaptionedFile("n", stem, lambda: MP4, "x")], tmp_path, num_frames=16, fps=8)
    (sample,) = load_index((str(tmp_path),))
    assert sample.key.isascii()
    assert set(sample.key) <= set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-")
    assert len(sample.key) < 80


@pytest.mark.slow
@requires_shared
@pytest.mark.parametrize("folder, videos, images", (("videos", 6, 0), ("clips_16f", 11, 0), ("images", 0, 8)))
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


def test_packing_does_not_trust_media_either(tmp_path, monkeypatch):
    """The decoders of this process are not asked."""
    for name in ("probe", "read_frames", "read_image", "decode_frames"):
        monkeypatch.setattr(f"lavie.data.media.decode.{name}", lambda *args, n=name: pytest.fail(f"{n} was called"))
    report = pack_files([CaptionedFile("a", "a", lambda: MP4, "one")], tmp_path, num_frames=16, fps=8)
    assert report.videos == 1
