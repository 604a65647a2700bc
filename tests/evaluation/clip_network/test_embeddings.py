import numpy as np
import pytest
import torch

from lavie.cli.ranks import ranks
from lavie.distributed import rank
from lavie.errors import DataError
from lavie.evaluation.clip_network.embeddings import embed_clips
from lavie.evaluation.clip_network.protocol import FrameProtocol, prepare
from lavie.evaluation.clip_source import find_clips
from lavie.evaluation.fvd.rows import Row, Rows, read_rows, write_rows
from lavie.testing import run_distributed
from tests.evaluation.tiny_clip import write_clips

PROTOCOL = FrameProtocol(side=4)


class Levels:
    """A network that gives each frame the mean of its red, green and blue, at length 1."""

    sha256 = "0" * 64

    def __init__(self):
        self.calls = 0

    def embed_frames(self, frames, protocol):
        self.calls += 1
        return torch.nn.functional.normalize(prepare(frames, protocol).mean(dim=(2, 3)), dim=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    frames = write_clips(folder)
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40))
    return folder, frames


def test_a_row_is_the_mean_of_the_frames_and_what_is_left_out_is_named(clips):
    folder, frames = clips
    seen = []
    rows = embed_clips(find_clips(folder), PROTOCOL, Levels(), moved=lambda *done: seen.append(done))
    assert rows.names == sorted(frames) and list(rows.dropped) == ["broken.mp4"]
    for name, row in zip(rows.names, rows.features, strict=True):
        np.testing.assert_allclose(row, Levels().embed_frames(frames[name], PROTOCOL).mean(dim=0), atol=1e-6)
    assert seen[-1] == (6, 6)
    with pytest.raises(DataError, match=r"no clip can be used; 1 left out, as broken.mp4"):
        embed_clips(find_clips(folder / "broken.mp4"), PROTOCOL, Levels())


def test_a_call_that_was_cut_goes_on_and_a_later_one_takes_what_is_kept(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("lavie.evaluation.fvd.rows.SAVE_SECONDS", 0.0)

    class Stops(Levels):
        def embed_frames(self, frames, protocol):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().embed_frames(frames, protocol)

    found, keep = find_clips(clips[0]), tmp_path / "f.safetensors"
    with pytest.raises(KeyboardInterrupt):
        embed_clips(found, PROTOCOL, Stops(), keep=keep)
    for calls in (3, 0):
        network = Levels()
        rows = embed_clips(found, PROTOCOL, network, keep=keep)
        assert network.calls == calls
        assert np.array_equal(rows.matrix, embed_clips(found, PROTOCOL, Levels()).matrix)
        assert list(tmp_path.iterdir()) == [keep]


def test_features_of_another_kind_are_not_replaced(clips, tmp_path):
    keep = tmp_path / "f.safetensors"
    fvd = Rows()
    fvd.add("a.mp4", Row("0", np.zeros(400, np.float32)))
    write_rows(keep, {"real": ("other", fvd)})
    before = keep.read_bytes()
    with pytest.raises(DataError, match="holds features of another protocol or of other weights"):
        embed_clips(find_clips(clips[0]), PROTOCOL, Levels(), keep=keep)
    assert keep.read_bytes() == before
    keep.unlink()
    embed_clips(find_clips(clips[0]), PROTOCOL, Levels(), keep=keep)
    write_rows(keep, {**read_rows(keep), "real": ("other", fvd)})
    with pytest.raises(DataError, match="holds features of another protocol"):
        embed_clips(find_clips(clips[0]), PROTOCOL, Levels(), keep=keep)


def _share(folder, out):
    with ranks():
        rows = embed_clips(find_clips(folder), PROTOCOL, Levels(), keep=out / "kept.safetensors")
        write_rows(out / f"{rank()}.safetensors", {"clips": ("", rows)})


@pytest.mark.slow
def test_two_ranks_find_what_one_does(clips, tmp_path):
    run_distributed(_share, 2, clips[0], tmp_path)
    alone = embed_clips(find_clips(clips[0]), PROTOCOL, Levels())
    for name in ("0", "1", "kept"):
        [(_, rows)] = read_rows(tmp_path / f"{name}.safetensors").values()
        assert rows.names == alone.names and rows.dropped == alone.dropped
        assert np.array_equal(rows.matrix, alone.matrix)
