"""A shard is scanned strictly: every sample is found, every defect is named, and no damage passes for a sample."""

import tarfile

import numpy as np
import pytest

from lavie.config.data import DataConfig
from lavie.data.check.check import check
from lavie.data.feed.rows import ClipRows
from lavie.data.media.encode import encode_vp9
from lavie.data.order.datasets import load_datasets
from lavie.data.prepare.scan import index_shard
from lavie.data.shards.index_file import read_header, write_index
from lavie.data.shards.member import read_member
from lavie.errors import DataError
from tests.data.prepare.captioned import gif, image, packed, write
from tests.data.tars import GOOD, MP4, make_tar, png, special

WEBM = encode_vp9(np.zeros((4, 32, 32, 3), np.uint8), 8)


def test_samples_of_a_tar(tmp_path):
    tar = make_tar(tmp_path / "0.tar", [*GOOD, ("dir/b.png", png()), ("dir/b.txt", "ein Bär\n".encode())])
    (video, image), rejected, _ = index_shard(tar)
    assert rejected == []
    assert (video.key, video.kind, video.member, video.caption) == ("a", "video", "a.mp4", "a clip")
    assert (video.frames, video.fps, video.vfr, video.width, video.height, video.duration) == (4, 8, False, 32, 32, 0.5)
    assert (image.key, image.kind, image.caption, image.frames, image.fps) == ("dir/b", "image", "ein Bär", 1, None)
    assert tar.read_bytes()[video.offset : video.offset + video.size] == MP4
    assert read_member(image) == png()


def test_dots_in_names_stay_in_the_key(tmp_path):
    tar = make_tar(
        tmp_path / "0.tar",
        [("v1.0_clip.mp4", MP4), ("v1.0_clip.txt", b"one"), ("v1.0_other.mp4", MP4), ("v1.0_other.txt", b"two")],
    )
    samples, rejected, _ = index_shard(tar)
    assert [(s.key, s.caption) for s in samples] == [("v1.0_clip", "one"), ("v1.0_other", "two")]
    assert rejected == []


@pytest.mark.parametrize(
    "members, name, reason",
    (
        ([("x.mp4", MP4)], "x.mp4", "no caption"),
        ([("x.txt", b"text")], "x", "caption without media"),
        ([("x.mp4", MP4), ("x.png", png()), ("x.txt", b"text")], "x", "several media members"),
        ([("x.mp4", MP4), ("x.txt", b" \n")], "x.txt", "unusable caption"),
        ([("x.mp4", MP4), ("x.txt", b"\xff\xfe\xfa")], "x.txt", "unusable caption"),
        ([("x.mp4", b""), ("x.txt", b"text")], "x.mp4", "undecodable"),
        ([("x.mp4", MP4[:300]), ("x.txt", b"text")], "x.mp4", "undecodable"),
        ([("x.jpg", png()), ("x.txt", b"text")], "x.jpg", "name and content differ"),
        ([("x.pkl", b"cos\nsystem\n")], "x.pkl", "unknown extension"),
        ([("x.pyd", b"")], "x.pyd", "unknown extension"),
        ([("README", b"")], "README", "unknown extension"),
        ([("a.mp4", MP4)], "a.mp4", "duplicate key"),
        ([("../x.mp4", MP4)], "../x.mp4", "unsafe name"),
        ([("/etc/x.mp4", MP4)], "/etc/x.mp4", "unsafe name"),
        ([("d/../../x.txt", b"")], "d/../../x.txt", "unsafe name"),
        ([("d\\x.txt", b"")], "d\\x.txt", "unsafe name"),
        ([("x\n.txt", b"")], "x\n.txt", "unsafe name"),
        ([(special("../d", tarfile.DIRTYPE), b"")], "../d", "unsafe name"),
        ([(special("x.mp4", tarfile.SYMTYPE, "/etc/passwd"), b"")], "x.mp4", "link, device or sparse file"),
        ([(special("x.mp4", tarfile.LNKTYPE, "a.mp4"), b"")], "x.mp4", "link, device or sparse file"),
        ([(special("x.mp4", tarfile.CHRTYPE), b"")], "x.mp4", "link, device or sparse file"),
        ([(special("x.mp4", tarfile.FIFOTYPE), b"")], "x.mp4", "link, device or sparse file"),
    ),
)
def test_each_defect_is_named_and_the_rest_stays(tmp_path, members, name, reason):
    samples, rejected, _ = index_shard(make_tar(tmp_path / "0.tar", GOOD + members))
    assert [s.key for s in samples] == ["a"]
    assert [(r.name, r.reason) for r in rejected] == [(name, reason)]


def test_safe_folders_are_no_defect(tmp_path):
    tar = make_tar(tmp_path / "0.tar", [(special("d", tarfile.DIRTYPE), b""), *GOOD])
    assert len(index_shard(tar)[0]) == 1
    assert index_shard(tar)[1] == []


def test_every_truncated_tar_is_an_error(tmp_path):
    whole = make_tar(tmp_path / "0.tar", GOOD).read_bytes()
    content = whole.rstrip(b"\0")
    cut = tmp_path / "cut.tar"
    for end in range(0, len(content) + 512, 256):
        cut.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cut\.tar"):
            index_shard(cut)


def test_compressed_tars_are_an_error(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(DataError, match="cannot be read"):
        index_shard(path)


def test_shards_are_read_as_folders_are(tmp_path):
    """Every suffix of media, in any case, is found by index, pack and check, and read by training."""
    moving, still = gif([100] * 16)[0], gif([100])[0]
    names = {
        "a.mp4": MP4,
        "b.MOV": MP4,
        "c.mkv": WEBM,
        "d.gif": moving,
        "e.jpeg": image("jpeg"),
        "f.JPG": image("jpeg"),
    }
    names |= {"g.PNG": png(), "h.GIF": still}
    members = [(name, data) for name, data in names.items()]
    members += [(f"{name[0]}.{'TXT' if name[0] == 'a' else 'txt'}", f"text {name[0]}".encode()) for name in names]
    shards = tmp_path / "shards"
    shards.mkdir()
    tar = make_tar(shards / "0.tar", members)
    scan = index_shard(tar)
    assert (scan.rejected, [s.member for s in scan.samples]) == ([], list(names))
    assert [s.kind for s in scan.samples] == ["video"] * 4 + ["image"] * 4

    folder = write(tmp_path / "folder", dict(members))
    from_shards, from_folder = (packed(src, tmp_path / f"{src.name}.out", num_frames=4)[0] for src in (shards, folder))
    assert (from_shards.videos, from_shards.images, from_shards.rejected) == (4, 4, ())
    assert (from_folder.videos, from_folder.images, from_folder.rejected) == (4, 4, ())

    write_index(tar, *scan)
    report = check([tar], decode=8, num_frames=4)
    assert (report.usable, len(report.decoded)) == (True, 8)
    config = DataConfig(train=(str(shards),), num_frames=4, num_images=4, height=16, width=16, frame_stride=1)
    datasets = load_datasets(config, config.train)
    rows = ClipRows(datasets, config, seed=0)
    for position in range(4):
        row = rows.row(position)
        assert (row["dropped"], row["pixels"].shape) == ([], (8, 16, 16, 3))


def test_files_of_the_system_are_counted_in_header_and_check(tmp_path):
    junk = ("._a.mp4", "._a.txt", "__MACOSX/._b.mp4", "d/.DS_Store", "Thumbs.db")
    tar = make_tar(tmp_path / "0.tar", [*((name, b"\0\5\x16\7") for name in junk), *GOOD])
    scan = index_shard(tar)
    assert (len(scan.samples), scan.rejected, scan.system_files) == (1, [], 5)
    assert read_header(write_index(tar, *scan)).system_files == 5
    report = check([tar], num_frames=4)
    assert (report.usable, report.counts, report.system_files) == (True, {"short caption": 1}, 5)
