import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lavie.errors import DataError
from lavie.evaluation.captions import Captions
from lavie.evaluation.clip_network.network import ClipTokens, load_clip
from lavie.evaluation.clip_source import find_clips
from lavie.evaluation.clipsim import clipsim
from lavie.evaluation.measured import compare
from lavie.testing import ORACLE_ATOL
from tests.evaluation.tiny_clip import CONTEXT, SIDE, write_clip, write_clips

CPU = torch.device("cpu")
TEXTS = {"clip0": "a fox", "clip1": "snow", "clip2": "red cat", "clip3": "sea", "clip4": "The end."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    return folder, write_clips(folder)


def measured(folder, samples, texts=TEXTS, frames=None, fit="crop", clips=None, **options):
    network = load_clip(folder, CPU)
    captions = Captions(texts, {"source": "t.csv"})
    clips = clips or find_clips(samples)
    protocol = network.frame_protocol(frames, fit)
    return clipsim(clips, captions, protocol, network, ClipTokens(folder, network), source="x", **options)


def test_the_cosine_is_that_of_transformers(folder, samples):
    """Against the logits of CLIPModel on the inputs of its own processor and tokenizer."""
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    process = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    wanted = {}
    with torch.inference_mode():
        for name, frames in samples[1].items():
            pixels = process([Image.fromarray(frame) for frame in frames], return_tensors="pt").pixel_values
            found = model(pixel_values=pixels, **tokenizer([TEXTS[name]], return_tensors="pt"))
            wanted[name] = float((found.logits_per_image / model.logit_scale.exp()).mean())
    result = measured(folder, samples[0])
    assert result["scores"] == pytest.approx(wanted, abs=ORACLE_ATOL)
    assert result["value"] == pytest.approx(np.mean(list(wanted.values())), abs=ORACLE_ATOL)
    assert np.std(list(wanted.values())) > 100 * ORACLE_ATOL
    assert min(wanted.values()) < 0  # not clamped


def test_the_result_says_all_that_a_reader_needs(folder, samples):
    result = measured(folder, samples[0], TEXTS | {"clip9": "nothing"}, frames=2)
    scores = list(result["scores"].values())
    error = np.std(scores, ddof=1) / 5**0.5
    assert result["metric"] == "clipsim" and result["n"] == 5
    assert result["interval"] == pytest.approx([result["value"] - 1.959964 * error, result["value"] + 1.959964 * error])
    assert result["protocol"]["frames"] == 2 and result["protocol"]["long_captions"] == "cut"
    assert result["weights"]["sha256"] == load_clip(folder, CPU).sha256
    assert result["data"]["captions"]["without_clip"] == ["clip9"]
    assert result["notes"] == ["1 captions have no clip, as clip9"]


def test_a_clip_that_cannot_be_read_is_named(folder, samples, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40))
    clips = [*find_clips(samples[0]), *find_clips(tmp_path)]
    result = measured(folder, samples[0], TEXTS | {"broken": "x"}, clips=clips)
    assert result["n"] == 5 and list(result["data"]["clips"]["dropped"]) == ["broken.mp4"]
    assert result["notes"] == ["1 clips left out, see data.clips.dropped"]
    assert result["scores"] == measured(folder, samples[0])["scores"]


def test_neither_the_order_of_files_nor_of_captions_counts(folder, samples):
    forward = measured(folder, samples[0])
    backward = measured(folder, samples[0], dict(reversed(TEXTS.items())), clips=find_clips(samples[0])[::-1])
    assert backward == forward


def test_captions_that_clip_cannot_read_whole_are_cut_and_counted_or_refused(folder, samples):
    long = TEXTS | {"clip3": "sea" * CONTEXT}
    result = measured(folder, samples[0], long)
    assert result["data"]["captions"]["cut"] == ["clip3"]
    assert result["notes"] == [f"1 captions cut to {CONTEXT} tokens, as that of clip3"]
    # What stands behind the cut is not read, so it moves nothing.
    longer = measured(folder, samples[0], TEXTS | {"clip3": "sea" * CONTEXT + "x"})
    assert (longer["scores"], longer["protocol_hash"]) == (result["scores"], result["protocol_hash"])
    with pytest.raises(DataError, match=f"1 captions are longer than the {CONTEXT} tokens .* as that of clip3"):
        measured(folder, samples[0], long, long_captions="refuse")


def test_checkpoints_are_compared_by_clip_and_unlike_measures_are_not(folder, samples, tmp_path):
    write_clips(tmp_path, seed=1)
    a, b = measured(folder, samples[0]), measured(folder, tmp_path)
    found = compare(a, b)
    assert found["paired_by"] == "clips" and found["pairs"] == 5
    assert found["difference"] == pytest.approx(np.mean([b["scores"][k] - a["scores"][k] for k in TEXTS]))
    other = tmp_path / "weights"
    shutil.copytree(folder, other)
    write_clip(other, seed=1)
    for change in (
        measured(folder, samples[0], fit="stretch"),
        measured(folder, samples[0], frames=3),
        measured(folder, samples[0], TEXTS | {"clip0": "a dog"}),
        measured(folder, samples[0], long_captions="refuse"),
        measured(other, samples[0]),
    ):
        with pytest.raises(DataError, match="two protocols do not compare"):
            compare(a, change)


def test_a_clip_without_a_caption_is_an_error_before_any_work(folder, samples):
    with pytest.raises(DataError, match=r"4 of 5 clips have no caption in t\.csv, as clip1"):
        measured(folder, samples[0], {"clip0": "a fox"})
