import hashlib

import av
import numpy as np
import pytest

from lavie.data.media.decode import decode_frames, probe
from lavie.errors import DataError
from lavie.evaluation.human.key import read_key, write_key
from lavie.evaluation.human.plan import Design
from lavie.evaluation.human.sources import find_sources, named_folders
from lavie.evaluation.human.study import blind, make_study
from lavie.inference.video_io import write_mp4
from tests.evaluation.human.folders import steps, write_models
from tests.evaluation.human.studies import some_sources


def read(path):
    data = path.read_bytes()
    return decode_frames(data, range(probe(data).frames))


@pytest.fixture(params=("noise", "frozen"))
def made(request, tmp_path):
    folders = write_models(tmp_path, frames=4)
    sources = find_sources(named_folders(list(map(str, folders))), tmp_path / "prompts.txt")
    design = Design(raters=2, pairs=2, ratings=4, golden=request.param, golden_share=0.5)
    return tmp_path, make_study(tmp_path / "study", sources, design, seed=1, fps=8)


def test_clips_are_copied_under_blinded_names(made):
    folder, key = made
    files = sorted((folder / "study/page/clips").iterdir())
    assert [file.stem for file in files] == sorted(key.clips)
    for file in files:
        clip = key.clips[file.stem]
        original, copy = read(folder / clip.model / clip.source), read(file)
        assert copy.shape == original.shape
        difference = np.abs(copy.astype(int) - original).mean()
        assert difference > 10 if clip.copied == "noise" else difference < 3 or clip.copied
        if clip.copied == "frozen":
            assert steps(copy).max() < 1 < steps(original).max()
        data = file.read_bytes()
        assert probe(data).fps == 12 and not any(model.encode() in data for model in key.models)
        with av.open(str(file)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
    assert any(clip.copied for clip in key.clips.values())


def test_the_key_says_what_was_compared(made):
    folder, key = made
    own = sorted((folder / "secretA").iterdir())
    hashes = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in own)
    assert key.sources["secretA"] == hashlib.sha256(hashes.encode()).hexdigest()
    write_key(folder / "key.json", key)
    assert read_key(folder) == key
    for trial in key.trials.values():
        left = key.clips[trial.left]
        assert trial.kind == "rating" or left.item == key.clips[trial.right].item
        copied = [bool(key.clips[name].copied) for name in (trial.left, trial.right) if name]
        assert sum(copied) == (trial.kind == "golden")


def test_a_damaged_key_is_named(tmp_path):
    (tmp_path / "key.json").write_text("{}")
    with pytest.raises(DataError, match=r"key\.json: damaged: study"):
        read_key(tmp_path)


def test_a_clip_that_stands_still_is_not_frozen(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_mp4(tmp_path / name / "0.mp4", np.full((3, 64, 64, 3), 90, np.uint8), 8)
    (tmp_path / "prompts.txt").write_text("still\n")
    sources = find_sources(named_folders([str(tmp_path / "a"), str(tmp_path / "b")]), tmp_path / "prompts.txt")
    with pytest.raises(DataError, match=r"0\.mp4: it hardly moves.*--golden noise"):
        make_study(tmp_path / "study", sources, Design(raters=2, golden="frozen"), seed=0, fps=8)


def test_names_and_order_tell_nothing():
    """Over many clips, neither the names nor the order of writing goes with the model."""
    key = blind(some_sources(("a", "b"), prompts=200), Design(raters=2, pairs=200, ratings=400), seed=0)
    models = [clip.model for clip in key.clips.values()]
    by_name = [key.clips[name].model for name in sorted(key.clips)]
    for order in (models, by_name):
        first = order[: len(order) // 2].count("a")
        assert 80 < first < 125
    other = blind(some_sources(("a", "b"), prompts=200), Design(raters=2, pairs=200, ratings=400), seed=1)
    assert not set(other.clips) & set(key.clips) and other.study != key.study


def test_the_protocol_hash_is_of_what_was_asked():
    def hashed(seed=0, prompts=4, **design):
        return blind(some_sources(prompts=prompts), Design(**design), seed).protocol_hash

    assert hashed() == hashed(seed=5)
    assert len({hashed(), hashed(pairs=4), hashed(golden="frozen"), hashed(prompts=5), hashed(raters=8)}) == 5


def test_a_clip_that_cannot_be_read_is_named_with_its_model(tmp_path):
    folders = write_models(tmp_path)
    (folders[1] / "00001.mp4").write_bytes(b"junk")
    sources = find_sources(named_folders([*map(str, folders)]), tmp_path / "prompts.txt")
    with pytest.raises(DataError, match=r"^secretB: 00001\.mp4: no mp4"):
        make_study(tmp_path / "study", sources, Design(raters=2), seed=0, fps=8)
