"""Embeddings and ratings of clips, against the network and the head called by hand, and golden ratings."""

import numpy as np
import pytest
import torch

from lavie.config.curate import CurateConfig
from lavie.config.curate_score import ClipConfig
from lavie.curation.pictures import midpoints
from lavie.curation.score import clip as module
from lavie.curation.score.clip import CLIP, work
from lavie.data.media.decode import decode_frames
from lavie.errors import CheckpointError
from lavie.evaluation.clip_network.network import load_clip
from lavie.testing import SHARED
from tests.curation.made_cut import MadeClip, made_units, make_cut, moving
from tests.evaluation.tiny_clip import OUT, write_clip, write_tokenizer
from tests.markers import requires_shared

ASSETS = SHARED / "assets/aesthetic"
GOLDEN = [1.655, 2.359, 3.070, 3.672, 4.238, 4.701, 5.073, 5.365, 5.577, 5.747]
"""What sac+logos+ava1 gives for the embeddings rating0 to rating9."""


def write_head(path, width=OUT):
    weight = torch.randn(1, width, generator=torch.Generator().manual_seed(0))
    torch.save({"weight": weight, "bias": torch.full((1,), 5.0)}, path)
    return weight[0].double().numpy()


def test_embeddings_and_ratings_are_those_of_the_frames_named(tmp_path):
    write_clip(tmp_path / "clip")
    weight = write_head(tmp_path / "head.pth")
    out = make_cut(tmp_path, {"a.mp4": [moving(0, 24), MadeClip(moving(1), data=b"no video"), moving(1, 5)]})
    [unit] = made_units(out)
    found = work(unit, ClipConfig(model=str(tmp_path / "clip"), head=str(tmp_path / "head.pth")))
    [refused] = found.rejected
    assert refused.name == found.columns["clip"][1]
    assert [found.columns[name][1] for name in ("embeddings", "aesthetic_mean", "aesthetic_min")] == [None] * 3

    network = load_clip(tmp_path / "clip", torch.device("cpu"))
    rows = unit.read("cut").to_pylist()
    for i, count in ((0, 24), (2, 5)):
        frames = decode_frames(unit.clip_bytes(rows[i]), range(count))
        wanted = network.embed_frames(frames, network.frame_protocol()).numpy()
        embeddings = np.array(found.columns["embeddings"][i])
        assert embeddings.shape == (8, OUT) and embeddings.dtype == np.float16
        np.testing.assert_allclose(embeddings, wanted[midpoints(count, 8)], atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(embeddings.astype(float), axis=1), 1, atol=1e-3)
        ratings = wanted[[count // 6, count // 2, 5 * count // 6]].astype(float) @ weight + 5
        assert np.ptp(ratings) > 1e-3
        assert found.columns["aesthetic_mean"][i] == pytest.approx(ratings.mean(), abs=1e-5)
        assert found.columns["aesthetic_min"][i] == pytest.approx(ratings.min(), abs=1e-5)


def test_without_a_head_there_are_embeddings_and_no_ratings(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip")
    out = make_cut(tmp_path, {"a.mp4": [moving(0, 24)]})
    [unit] = made_units(out)
    seen = []
    network = module.load_network(str(tmp_path / "clip"))
    embed = network.embed_frames
    monkeypatch.setattr(network, "embed_frames", lambda frames, how: seen.append(len(frames)) or embed(frames, how))
    columns = work(unit, ClipConfig(model=str(tmp_path / "clip"))).columns
    assert columns["aesthetic_mean"] == [None] and np.shape(columns["embeddings"]) == (1, 8, OUT)
    assert seen == [8]  # of no more frames than are kept


@requires_shared
def test_golden_ratings(tmp_path, monkeypatch):
    """The head of the field on embeddings of ten real pictures, by the stage, to 1e-3."""
    golden = np.concatenate([np.load(ASSETS / f"vit_l_14_embeddings/rating{i}.npy") for i in range(10)])

    class Network:
        """Gives, for a clip of three grey frames, the golden embeddings of which their light is the number."""

        width = 768

        def frame_protocol(self):
            return None

        def embed_frames(self, frames, protocol):
            numbers = np.rint(frames.mean((1, 2, 3)) / 25).astype(int)
            return torch.from_numpy(golden[numbers])

    monkeypatch.setattr(module, "load_network", lambda model: Network())
    frames = [[np.full((16, 16, 3), 25 * number, np.uint8) for number in numbers] for numbers in ((0, 4, 9), (7, 7, 2))]
    out = make_cut(tmp_path, {"a.mp4": [np.array(clip) for clip in frames]})
    [unit] = made_units(out)
    head = ASSETS / "improved_sac+logos+ava1-l14-linearMSE.pth"
    columns = work(unit, ClipConfig(model="clip", head=str(head))).columns
    wanted = [[GOLDEN[n] for n in numbers] for numbers in ((0, 4, 9), (7, 7, 2))]
    np.testing.assert_allclose(columns["aesthetic_mean"], [np.mean(numbers) for numbers in wanted], atol=1e-3)
    np.testing.assert_allclose(columns["aesthetic_min"], [min(numbers) for numbers in wanted], atol=1e-3)


def test_what_the_files_hold_decides_and_not_where_they_lie(tmp_path):
    write_clip(tmp_path / "a")
    write_clip(tmp_path / "b")
    write_clip(tmp_path / "c", seed=1)
    for name in "abc":
        write_tokenizer(tmp_path / name / "tokenizer")
    write_head(tmp_path / "head.pth")
    first, same, other = (CLIP.identity(ClipConfig(model=str(tmp_path / name))) for name in "abc")
    assert first == same != other and first["model"]
    rated = CLIP.identity(ClipConfig(model=str(tmp_path / "a"), head=str(tmp_path / "head.pth"), decoders=3))
    assert rated["model"] == first["model"] and rated["head"] and first["head"] is None


def test_a_head_of_another_network_and_a_folder_without_one_are_named_by_their_keys(tmp_path):
    write_clip(tmp_path / "clip")
    write_head(tmp_path / "head.pth", 768)
    out = make_cut(tmp_path, {"a.mp4": [moving(0, 4)]})
    [unit] = made_units(out)
    with pytest.raises(
        CheckpointError, match=rf"clip.head \(--head\) .* takes 768 numbers, .* gives {OUT}: .*ViT-L/14"
    ):
        work(unit, ClipConfig(model=str(tmp_path / "clip"), head=str(tmp_path / "head.pth")))
    with pytest.raises(CheckpointError, match=r"^clip.model \(--clip\) .*no config.json"):
        work(unit, ClipConfig(model=str(tmp_path / "films")))


def test_what_is_compared_must_be_made():
    with pytest.raises(ValueError, match="set model"):
        ClipConfig(head="head.pth")
    with pytest.raises(ValueError, match=r"set clip\.model"):
        CurateConfig.model_validate({"dedup": {"similar": 0.9}})
    with pytest.raises(ValueError, match=r"set clip\.head"):
        CurateConfig.model_validate({"dedup": {"aesthetic": True}, "clip": {"model": "x"}})
