"""The strict reader of tars, the index beside them, and single members by offset."""

import io
import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavie.data.media.encode import encode_mp4
from lavie.data.prepare.captions import MAX_CAPTION, clean_caption
from lavie.data.prepare.scan import index_shard
from lavie.data.shards.index import load_index
from lavie.data.shards.index_file import write_index
from lavie.data.shards.member import MAX_OPEN, read_member
from lavie.errors import DataError

MP4 = encode_mp4(np.zeros((4, 32, 32, 3), np.uint8), 8)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "png")
    return file.getvalue()


def make_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = [("a.mp4", MP4), ("a.txt", b"a clip"), ("a.json", b"{}")]


def test_samples_of_a_tar(tmp_path):
    tar = make_tar(tmp_path / "0.tar", [*GOOD, ("dir/b.png", png()), ("dir/b.txt", "ein Bär\n".encode())])
    (video, image), rejected = index_shard(tar)
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
    samples, rejected = index_shard(tar)
    assert [(s.key, s.caption) for s in samples] == [("v1.0_clip", "one"), ("v1.0_other", "two")]
    assert rejected == []


@pytest.mark.parametrize(
    ("members", "name", "reason"),
    [
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
    ],
)
def test_each_defect_is_named_and_the_rest_stays(tmp_path, members, name, reason):
    samples, rejected = index_shard(make_tar(tmp_path / "0.tar", GOOD + members))
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


def test_index_comes_back_as_written(demo):
    tar = next((demo / "train").glob("*.tar"))
    samples, rejected = index_shard(tar)  # probes anew
    index = load_index((str(demo / "train"),))
    assert list(index) == sorted(samples, key=lambda s: s.kind, reverse=True) == list(load_index((str(tar),)))
    assert rejected == []
    assert (len(index.videos), len(index.images)) == (24, 10)


def test_several_paths_keep_their_order(demo):
    train, validation = str(demo / "train"), str(demo / "validation")
    index = load_index((validation, train))
    for kind in (index.videos, index.images):
        assert [s.shard for s in kind] == sorted((s.shard for s in kind), key=lambda s: train in s)
    assert len(index) == len(load_index((train,))) + len(load_index((validation,)))


def damage_missing_index(tar: Path) -> None:
    tar.with_suffix(".index.jsonl").unlink()


def damage_cut_tar(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[:-1024])


def damage_cut_index(tar: Path) -> None:
    index = tar.with_suffix(".index.jsonl")
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))


def damage_half_line(tar: Path) -> None:
    index = tar.with_suffix(".index.jsonl")
    index.write_text(index.read_text()[:-20])


def damage_foreign_index(tar: Path) -> None:
    index = tar.with_suffix(".index.jsonl")
    header, *lines = map(json.loads, index.read_text().splitlines())
    del lines[3]["sha256"]
    index.write_text("".join(json.dumps(x) + "\n" for x in [header, *lines]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing_index, "no index 00000.index.jsonl beside it"),
        (damage_cut_tar, "cut short or replaced"),
        (damage_cut_index, r"videos and \d+ images, its header says 24 and 10"),
        (damage_half_line, "line 35: "),
        (damage_foreign_index, "line 5: wanted the keys"),
    ],
)
def test_an_index_that_does_not_fit_is_an_error_with_a_remedy(demo, tmp_path, damage, message):
    shutil.copytree(demo / "train", tmp_path / "train")
    damage(tmp_path / "train" / "00000.tar")
    with pytest.raises(DataError, match=message) as error:
        load_index((str(tmp_path / "train"),))
    assert "lavie data index" in str(error.value)


def test_paths_that_are_no_dataset(demo, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        load_index((str(tmp_path / "nowhere"),))
    with pytest.raises(DataError, match="no .tar shards"):
        load_index((str(tmp_path),))
    with pytest.raises(DataError, match="in its folders train, validation"):
        load_index((str(demo),))


def test_one_flipped_bit_is_found_in_every_member(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    tar = tmp_path / "train" / "00000.tar"
    samples = load_index((str(tmp_path / "train"),))
    data = bytearray(tar.read_bytes())
    rng = np.random.default_rng(0)
    for sample in samples:
        data[sample.offset + rng.integers(sample.size)] ^= 1 << rng.integers(8)
    tar.write_bytes(data)
    for sample in samples:
        with pytest.raises(DataError, match=f":{sample.offset}:{sample.key}: the SHA-256 differs"):
            read_member(sample)


def test_unverified_reads_give_the_bytes_as_they_are(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    sample = load_index((str(tmp_path / "train"),))[0]
    good = read_member(sample)
    tar = tmp_path / "train" / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[sample.offset] ^= 1
    tar.write_bytes(data)
    assert read_member(sample, verify=False) == bytes([good[0] ^ 1]) + good[1:]


def test_a_shard_that_is_mended_is_read_again(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    tar = tmp_path / "train" / "00000.tar"
    whole = tar.read_bytes()
    sample = load_index((str(tmp_path / "train"),))[0]
    tar.write_bytes(bytes(len(whole)))
    with pytest.raises(DataError, match="SHA-256 differs"):
        read_member(sample)
    (tmp_path / "copy").write_bytes(whole)
    (tmp_path / "copy").replace(tar)
    assert len(read_member(sample)) == sample.size


def test_few_shards_are_open_at_once(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    sample = load_index((str(tmp_path / "train"),))[0]
    for i in range(2 * MAX_OPEN):
        (tmp_path / f"{i}.tar").hardlink_to(sample.shard)
        read_member(replace(sample, shard=str(tmp_path / f"{i}.tar")))
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and alive(fd)]
    assert sum(link.startswith(str(tmp_path)) for link in links) == MAX_OPEN


def alive(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_short_reads_and_lost_shards_are_named(demo):
    sample = load_index((str(demo / "train"),))[0]
    end = Path(sample.shard).stat().st_size
    with pytest.raises(DataError, match=f"{sample.key}: 10 of {sample.size} bytes"):
        read_member(replace(sample, offset=end - 10))
    with pytest.raises(DataError, match="cannot be read"):
        read_member(replace(sample, shard=sample.shard + ".gone"))


def test_write_index_leaves_no_partial_file(tmp_path):
    tar = make_tar(tmp_path / "0.tar", GOOD)
    write_index(tar, index_shard(tar)[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.index.jsonl", "0.tar"]
    assert [s.key for s in load_index((str(tmp_path),))] == ["a"]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [(b"\xef\xbb\xbfa  dog\r\n", "a dog"), ("ein Bär", "ein Bär"), ("a\x00b\x1b[31m\tc", "a b [31m c")],
)
def test_captions_become_one_clean_line(raw, clean):
    assert clean_caption(raw) == clean


def test_overlong_captions_are_refused():
    with pytest.raises(DataError, match=f"at most {MAX_CAPTION}"):
        clean_caption("x" * (MAX_CAPTION + 1))
