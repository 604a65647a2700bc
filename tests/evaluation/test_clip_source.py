import os

import numpy as np
import pytest
from PIL import Image

from lavie.data.media.encode import encode_mp4
from lavie.data.prepare.pack import pack
from lavie.errors import DataError
from lavie.evaluation.clip_source import find_clips, plain_name
from lavie.inference.video_io import write_gif


def levels(*values, size=(16, 16)):
    """A clip whose frames are flat."""
    return np.stack([np.full((*size, 3), value, np.uint8) for value in values])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/00000.mp4").write_bytes(encode_mp4(levels(10, 20, 30), 8, lossless=True))
    write_gif(tmp_path / "b/00000.gif", levels(1, 2), 8)  # the twin that `lavie sample` writes
    Image.new("RGB", (16, 16)).save(tmp_path / "b/00000.sheet.png")
    write_gif(tmp_path / "a.gif", levels(10, 200), 8)
    (tmp_path / "frames").mkdir()
    for number, level in ((10, 90), (9, 50), (2, 7)):
        Image.new("RGB", (16, 16), (level,) * 3).save(tmp_path / f"frames/frame_{number}.png")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/x.mp4").write_bytes(b"junk")
    return tmp_path


def test_videos_gifs_and_folders_of_frames_are_clips_but_a_gif_beside_its_mp4(folder):
    clips = find_clips(folder)
    assert [clip.name for clip in clips] == ["a.gif", "b/00000.mp4", "frames"]
    means = [[round(frame.mean()) for frame in clip.open().read(range(clip.open().frames))] for clip in clips]
    assert means == [[10, 200], [10, 20, 30], [7, 50, 90]]  # frame_2, frame_9, frame_10


def test_folders_behind_links_are_read_once_and_loops_end(folder, tmp_path_factory):
    links = tmp_path_factory.mktemp("links")
    (links / "all").symlink_to(folder)
    (links / "again").symlink_to(folder / "frames")
    (folder / "b/up").symlink_to(links)
    assert [clip.name for clip in find_clips(links)] == ["again", "all/a.gif", "all/b/00000.mp4"]
    assert [clip.name for clip in find_clips(links / "all")] == ["a.gif", "b/00000.mp4", "frames"]


def test_a_link_that_leads_nowhere_is_a_clip_that_cannot_be_read(folder):
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    (folder / "frames/frame_11.png").symlink_to("nowhere.png")
    clips = {clip.name: clip for clip in find_clips(folder)}
    assert clips.keys() == {"a.gif", "b/00000.mp4", "frames", "gone.mp4"}
    for name in ("gone.mp4", "frames"):
        with pytest.raises(FileNotFoundError):
            clips[name].open()


def test_a_folder_under_the_name_of_a_video_holds_frames(folder):
    (folder / "frames").rename(folder / "a.mp4")
    (folder / "b/00000.mp4").unlink()
    (folder / "b/00000.mp4").mkdir()
    clips = {clip.name: clip for clip in find_clips(folder)}
    assert clips.keys() == {"a.gif", "a.mp4", "b/00000.gif"} and clips["a.mp4"].open().frames == 3


def test_a_name_that_is_no_utf8_is_refused(folder):
    (folder / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"")
    with pytest.raises(DataError, match=r"the name of caf\\udce9\.mp4 is no UTF-8: rename it"):
        find_clips(folder)


def test_an_avi_is_a_clip(folder):
    (folder / "v.AVI").write_bytes(b"")
    assert "v.AVI" in [clip.name for clip in find_clips(folder)] and plain_name("v.AVI") == "v"


def test_a_frame_is_read_by_its_number(folder):
    clip = find_clips(folder / "b/00000.mp4")[0].open()
    assert [round(frame.mean()) for frame in clip.read([1, 2])] == [20, 30]


def test_the_rate_of_a_clip_is_that_of_its_file(folder):
    rates = {clip.name: clip.open().fps for clip in find_clips(folder)}
    assert rates["frames"] is None
    assert rates["b/00000.mp4"] == pytest.approx(8) and rates["a.gif"] == pytest.approx(8, rel=0.05)


def test_the_hash_of_a_clip_is_of_its_bytes(folder):
    before = {clip.name: clip.open().sha256 for clip in find_clips(folder)}
    Image.new("RGB", (16, 16), (8,) * 3).save(folder / "frames/frame_2.png")
    after = {clip.name: clip.open().sha256 for clip in find_clips(folder)}
    assert [name for name in before if before[name] != after[name]] == ["frames"]
    assert len(set(before.values())) == 3


def test_the_videos_of_shards_are_clips_and_their_images_are_not(folder, tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("shards")
    (source / "x.mp4").write_bytes(encode_mp4(levels(10, 20, 30, size=(64, 64)), 8, lossless=True))
    Image.new("RGB", (64, 64), "red").save(source / "y.png")
    for name in ("x", "y"):
        (source / f"{name}.txt").write_text("a caption")
    pack(source, out, num_frames=2, frame_stride=1, workers=1)
    [clip] = find_clips(out)
    assert clip.name == "00000/000000000-x"
    assert [round(frame.mean()) for frame in clip.open().read(range(3))] == [10, 20, 30]


@pytest.mark.parametrize("case", ("missing", "empty", "loose", "text", "sizes", "still"))
def test_what_is_no_clip_is_refused_by_name(tmp_path, case):
    place, words = tmp_path / "x", "no clips"
    if case == "missing":
        words = "no such file"
    elif case == "text":
        place, words = tmp_path / "x.txt", "wanted a folder"
        place.write_text("hello")
    else:
        place.mkdir()
    if case == "loose":
        Image.new("RGB", (8, 8)).save(place / "0.png")
        words = "a folder below it"
    elif case == "sizes":
        (place / "c").mkdir()
        Image.new("RGB", (8, 8)).save(place / "c/0.png")
        Image.new("RGB", (8, 16)).save(place / "c/1.png")
        words = "8 x 16 and 8 x 8"
    elif case == "still":
        Image.new("RGB", (8, 8)).save(place / "a.mp4", format="PNG")
        words = "a picture under the name of a video"
    with pytest.raises(DataError, match=words):
        find_clips(place)[0].open().read([0, 1])
