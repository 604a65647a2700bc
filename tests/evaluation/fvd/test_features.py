import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lavie.cli.ranks import ranks
from lavie.data.media.encode import encode_mp4
from lavie.distributed import rank
from lavie.errors import CheckpointError, DataError
from lavie.evaluation.clip_source import find_clips
from lavie.evaluation.fvd import features as module
from lavie.evaluation.fvd import rows as rows_module
from lavie.evaluation.fvd.features import extract
from lavie.evaluation.fvd.protocol import Protocol, Reading, Resize
from lavie.evaluation.fvd.rows import Rows, forget_parts, read_rows, write_rows
from lavie.testing import run_distributed

STEPS = (Resize(stretch=(4, 4)),)


class Levels:
    """An extractor whose features are the mean level of every frame, in 0 .. 255."""

    name, sha256 = "levels", "0" * 64

    def __init__(self):
        self.calls = 0

    def check(self, num_frames):
        pass

    def __call__(self, clips):
        self.calls += len(clips)
        return (clips.mean(dim=(1, 3, 4)) + 1) * 127.5


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Ten clips of 3 to 12 frames; frame i of clip n has the level 10 n + i."""
    folder = tmp_path_factory.mktemp("clips")
    for n in range(10):
        frames = np.stack([np.full((16, 16, 3), 10 * n + i, np.uint8) for i in range(n + 3)])
        (folder / f"{n}.mp4").write_bytes(encode_mp4(frames, 8, lossless=True))
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40))
    return folder


def protocol(**reading):
    side = Reading(steps=STEPS, **reading)
    return Protocol(num_frames=3, real=side, fake=side)


def rows_of(clips, protocol, **options):
    return extract(find_clips(clips), protocol, protocol.real, options.pop("extractor", Levels()), **options)


def test_the_first_frames_at_a_stride_and_what_is_left_out_by_name(clips):
    rows = rows_of(clips, protocol(stride=3))
    assert rows.names == [f"{n}.mp4" for n in range(4, 10)]  # 7 frames and more
    np.testing.assert_allclose(rows.matrix, [[10 * n, 10 * n + 3, 10 * n + 6] for n in range(4, 10)], atol=1e-3)
    assert rows.dropped["3.mp4"] == "6 frames: 3 at stride 3 span 7"
    assert sorted(rows.dropped) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "broken.mp4"]
    assert rows.digests[0].endswith("@0")


def test_random_starts_are_the_seeds_and_stay_inside(clips):
    rows = rows_of(clips, protocol(start="random"))
    starts = {name: round(row[0] - 10 * int(name[0])) for name, row in zip(rows.names, rows.matrix, strict=True)}
    assert all(0 <= start <= int(name[0]) for name, start in starts.items())
    assert len(set(starts.values())) > 3
    assert rows.digests == rows_of(clips, protocol(start="random")).digests
    other = rows_of(clips, protocol(start="random").model_copy(update={"seed": 1}))
    assert other.digests != rows.digests


def test_windows_are_drawn_from_all_of_them_so_that_long_clips_weigh_more(clips):
    # Clip n has n + 1 windows, 55 in all.
    everything = rows_of(clips, protocol(draw="windows", limit=55))
    assert len(everything.names) == 55 == len(set(everything.names))
    assert sum(name.startswith("9.mp4") for name in everything.names) == 10
    some = rows_of(clips, protocol(draw="windows", limit=20))
    assert len(some.names) == 20 and set(some.names) < set(everything.names)


def test_a_limit_is_filled_up_where_clips_are_left_out(clips):
    rows = rows_of(clips, protocol(stride=3, limit=5))
    assert len(rows.names) == 5 and set(rows.names) < {f"{n}.mp4" for n in range(4, 10)}
    assert len(rows_of(clips, protocol(stride=3, limit=50)).names) == 6


def test_a_clip_of_another_size_than_the_protocol_wants_is_left_out(clips):
    with pytest.raises(DataError, match=r"0 clips can be used.*16 x 16 pixels: the protocol wants 512 x 320"):
        rows_of(clips, protocol(source_size=(320, 512)))


def test_shuffled_frames_are_the_same_frames_in_another_order(clips):
    plain, shuffled = rows_of(clips, protocol()), rows_of(clips, protocol(), shuffled=True)
    assert (plain.matrix != shuffled.matrix).any(axis=1).sum() >= 5
    np.testing.assert_allclose(np.sort(shuffled.matrix, axis=1), plain.matrix, atol=1e-3)


def test_a_call_that_was_cut_goes_on(clips, tmp_path, monkeypatch):
    whole = rows_of(clips, protocol())
    monkeypatch.setattr("lavie.evaluation.fvd.rows.SAVE_SECONDS", 0.0)

    class Stops(Levels):
        def __call__(self, x):
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().__call__(x)

    keep = tmp_path / "f.safetensors"
    with pytest.raises(KeyboardInterrupt):
        rows_of(clips, protocol(), keep=keep, extractor=Stops())
    again = Levels()
    rows = rows_of(clips, protocol(), keep=keep, extractor=again)
    assert again.calls == 10 - 4
    assert rows.names == whole.names and np.array_equal(rows.matrix, whole.matrix)
    # Rows of another protocol do not count.
    other = Levels()
    rows_of(clips, protocol(stride=2), keep=keep, extractor=other)
    assert other.calls == 8
    # The parts of each protocol are its own.
    keys = {key: [part.name for part in tmp_path.iterdir() if f".{key}-" in part.name] for key in keys_of(tmp_path)}
    assert len(keys) == 2
    for key, names in keys.items():
        forget_parts(keep, [key])
        assert not any((tmp_path / name).exists() for name in names)
    assert list(tmp_path.iterdir()) == []


def keys_of(folder):
    """The keys of the part files in a folder."""
    return {key for part in folder.glob("*.part") for key, _ in read_rows(part).values()}


def test_a_part_that_another_call_puts_away_is_no_fault(clips, tmp_path, monkeypatch):
    """Two calls at once on one file of features: the one that ends first deletes the parts of both."""
    keep = tmp_path / "f.safetensors"
    rows_of(clips, protocol(), keep=keep)
    [part] = tmp_path.glob("*.part")
    read = rows_module.read_rows

    def deleted_first(path):
        part.unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(rows_module, "read_rows", deleted_first)
    extractor = Levels()
    assert len(rows_of(clips, protocol(), keep=keep, extractor=extractor).names) == 10 == extractor.calls


def test_a_clip_that_changed_is_measured_again(clips, tmp_path):
    keep = tmp_path / "f.safetensors"
    rows_of(clips, protocol(), keep=keep)
    copy = tmp_path / "clips"
    copy.mkdir()
    for path in clips.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "0.mp4").write_bytes((clips / "5.mp4").read_bytes())
    again = Levels()
    rows = rows_of(copy, protocol(), keep=keep, extractor=again)
    assert again.calls == 1
    np.testing.assert_allclose(rows.matrix[0], [50, 51, 52], atol=1e-3)


def _share(clips, out):
    with ranks():
        rows = rows_of(clips, protocol(stride=3, limit=5))
        if rank() == 1:
            write_rows(out, {"real": ("key", rows)})


@pytest.mark.slow
def test_three_ranks_find_what_one_does(clips, tmp_path):
    run_distributed(_share, 3, clips, tmp_path / "f.safetensors")
    [(key, rows)] = read_rows(tmp_path / "f.safetensors").values()
    alone = rows_of(clips, protocol(stride=3, limit=5))
    assert key == "key" and rows.names == alone.names and rows.dropped == alone.dropped
    assert np.array_equal(rows.matrix, alone.matrix)


def test_the_hash_of_the_data_is_of_what_was_measured_whatever_it_is_called(clips, tmp_path):
    for path in clips.iterdir():
        (tmp_path / f"x{path.name}").write_bytes(path.read_bytes())
    assert rows_of(tmp_path, protocol()).data_hash == rows_of(clips, protocol()).data_hash
    assert rows_of(clips, protocol(stride=2)).data_hash != rows_of(clips, protocol()).data_hash


def test_sets_of_rows_join_unless_a_clip_stands_in_both(clips, tmp_path):
    a, b = Rows(), Rows()
    rows = rows_of(clips, protocol())
    for i, part in ((0, a), (1, b)):
        part.add(rows.names[i], module.Row(rows.digests[i], rows.features[i]))
    a.join(b)
    assert a.names == rows.names[:2]
    with pytest.raises(DataError, match=r"1 clips stand in two sets, as 1.mp4"):
        a.join(b)


def test_what_is_no_file_of_features_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"x.safetensors: no file of features"):
        read_rows(tmp_path / "x.safetensors")
    save_file({"weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="it holds no set of rows"):
        read_rows(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "changes, words",
    (
        ({"names": ["a", 3]}, r"names\.1: Input should be a valid string"),
        ({"names": ["a", "a"]}, "a stands there twice"),
        ({"names": ["a"]}, "1 names and 2 rows"),
        ({"dropped": []}, "dropped: Input should be"),
        ({"more": 1}, "more: Extra inputs"),
    ),
)
def test_a_file_of_features_that_was_edited_is_refused(tmp_path, changes, words):
    notes = {"key": "k", "names": ["a", "b"], "digests": ["0@0", "1@0"], "dropped": {}}
    path = tmp_path / "x.safetensors"
    save_file({"real": torch.zeros(2, 3)}, path, metadata={"real": json.dumps(notes)})
    assert read_rows(path)["real"][1].names == ["a", "b"]
    save_file({"real": torch.zeros(2, 3)}, path, metadata={"real": json.dumps(notes | changes)})
    with pytest.raises(DataError, match=rf"x\.safetensors: no file of features: {words}"):
        read_rows(path)


@pytest.mark.parametrize(
    "tensor, words",
    (
        (torch.tensor([[0, 1.0], [torch.nan, 0]]), "the features of b hold NaN or infinity"),
        (torch.tensor([[[0, torch.inf]], [[0, 0]]]), "the features of a hold NaN or infinity"),
        (torch.zeros(2), r"a tensor \(2,\) of float32"),
        (torch.zeros(2, 3, dtype=torch.long), r"a tensor \(2, 3\) of int64"),
    ),
)
def test_features_that_are_no_numbers_are_refused(tmp_path, tensor, words):
    notes = {"key": "k", "names": ["a", "b"], "digests": ["0@0", "1@0"], "dropped": {}}
    save_file({"real": tensor}, tmp_path / "x.safetensors", metadata={"real": json.dumps(notes)})
    with pytest.raises(DataError, match=words):
        read_rows(tmp_path / "x.safetensors")


def test_an_extractor_that_gives_clips_other_numbers_of_features_is_refused(clips):
    class Grows(Levels):
        def __call__(self, x):
            return super().__call__(x)[:, : 1 + self.calls]

    with pytest.raises(CheckpointError, match=r"features \(3,\) of one clip and \(2,\) of another"):
        rows_of(clips, protocol(), extractor=Grows())


def test_a_call_that_fails_keeps_what_it_has_made(clips, tmp_path):
    class Fails(Levels):
        def __call__(self, x):
            if self.calls == 4:
                raise CheckpointError("no number")
            return super().__call__(x)

    keep = tmp_path / "f.safetensors"
    with pytest.raises(CheckpointError, match="no number"):
        rows_of(clips, protocol(), keep=keep, extractor=Fails())
    again = Levels()
    rows_of(clips, protocol(), keep=keep, extractor=again)
    assert again.calls == 10 - 4
