"""Hash features are fixed numbers per word, CLIP features are transformers' own."""

import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lavie.config.model import TextEncoderConfig
from lavie.errors import CheckpointError
from lavie.models.prompt_reading import Reading, warn_of_unread
from lavie.models.text_encoder import (
    ClipTextEncoder,
    HashTextEncoder,
    build_text_encoder,
    caption_limit,
    clip_limit,
)
from lavie.testing import SHARED
from tests.markers import requires_shared
from tests.models.tokenizer import END, TOKENS, save_tokenizer

# --- hash


def test_words_keep_their_vectors_wherever_they_stand():
    encoder = HashTextEncoder(24, 8)
    a, b = encoder(["A red square, moving left!", "red"])
    at = lambda features, place: features[place] - 0.5 * encoder.place[place]  # noqa: E731
    assert torch.allclose(at(a, 2), at(b, 1), atol=1e-6)
    assert not torch.allclose(at(a, 3), at(b, 1), atol=0.1)
    assert torch.equal(encoder(["a RED square moving left"])[0], a)  # neither case nor punctuation counts
    assert not torch.equal(encoder(["a left square moving red"])[0], a)  # the order does


def test_captions_are_padded_with_zeros_and_cut():
    encoder = HashTextEncoder(24, 4)
    empty, short, exact, long = encoder(["", "one", "one two three", "one two three four five"])
    assert empty[0].any() and not empty[1:].any() and torch.equal(empty[0], long[0])
    assert short[1].any() and not short[2:].any()
    assert torch.equal(exact, long)


def test_features_are_the_word_and_half_of_its_place():
    """The place is sines and cosines of p * 10000 ** (-2 i / channels), in turn; the start of the caption is a word."""
    encoder = HashTextEncoder(6, 4)
    features = encoder(["Red, red"])[0]
    assert len(encoder.words) == 2 and encoder.words.keys() == {"<start>", "red"}
    for place, word in enumerate(("<start>", "red", "red")):
        angles = [place * 10000.0 ** (-2 * i / 6) for i in range(3)]
        turns = torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)])
        assert torch.allclose(features[place], encoder.words[word] + turns / 2, atol=1e-6)
    large = HashTextEncoder(4000, 2)
    large(["red"])
    assert abs(large.words["red"].mean()) < 0.1 and abs(large.words["red"].std() - 1) < 0.1


@pytest.mark.parametrize("channels", (24, 7))
def test_shape_and_independence_of_the_batch(channels):
    encoder = build_text_encoder(TextEncoderConfig(type="hash", max_length=5), channels, None)
    captions = ["a cat", "", "two dogs run"]
    features = encoder(captions)
    assert features.shape == (3, 5, channels) and features.dtype == torch.float32
    for caption, row in zip(captions, features, strict=True):
        assert torch.equal(encoder([caption])[0], row)
    assert encoder([]).shape == (0, 5, channels)


@pytest.mark.slow
def test_same_features_in_every_instance_and_process():
    caption = "a blue circle moves up, déjà vu"
    here = HashTextEncoder(8, 6)([caption])
    torch.randn(3)
    assert torch.equal(HashTextEncoder(8, 6)([caption]), here)
    code = f"from lavie.models.text_encoder import *; print(HashTextEncoder(8, 6)([{caption!r}]).flatten().tolist())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(here.flatten().tolist())


# --- CLIP


def save_model(path, words):
    """A tiny random CLIP text model for a number of tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=words)
    CLIPTextModel(CLIPTextConfig(**sizes)).save_pretrained(path / "text_encoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stable Diffusion's text half in diffusers' layout, with the small tokenizer."""
    path = tmp_path_factory.mktemp("sd")
    save_model(path, len(TOKENS))
    save_tokenizer(path / "tokenizer")
    return path


CAT = [49406, 320, 1125, 539, 320, 2368, 49407]
"""CLIP's tokens of "a photo of a cat"."""


@requires_shared
def test_clip_tokens(tmp_path):
    save_model(tmp_path, 49408)
    shutil.copytree(SHARED / "assets/clip_tokenizer", tmp_path / "tokenizer", copy_function=shutil.copyfile)
    encoder = build_text_encoder(TextEncoderConfig(), 16, str(tmp_path))
    assert encoder.tokenizer("a photo of a cat").input_ids == CAT
    assert encoder.tokenizer("A  photo of a CAT").input_ids == CAT


@pytest.mark.parametrize("length", (77, 9))
def test_clip_features_are_those_of_transformers(folder, length):
    """The start, the words, the end; then CLIP pads with its end token. What is longer than that is cut."""
    from transformers import CLIPTextModel

    encoder = build_text_encoder(TextEncoderConfig(max_length=length), 16, str(folder))
    start, end, cat = (TOKENS.index(token) for token in ("<|startoftext|>", END, "cat</w>"))
    rows = [[start, TOKENS.index("a</w>"), cat], [start], [start] + [cat] * (length - 2)]
    ids = torch.tensor([row + [end] * (length - len(row)) for row in rows])
    with torch.no_grad():
        expected = CLIPTextModel.from_pretrained(folder / "text_encoder")(input_ids=ids).last_hidden_state
    features = encoder(["A  CAT", "", "cat " * 100])
    assert features.dtype == torch.float32 and torch.equal(features, expected)
    assert encoder.channels == 16 and not features.requires_grad
    assert not encoder.model.training and not any(p.requires_grad for p in encoder.parameters())


def test_clip_of_another_width_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"gives 16 features, model.cross_attention_dim is 768: change one"):
        build_text_encoder(TextEncoderConfig(), 768, str(folder))


@pytest.mark.parametrize(
    "missing,message",
    (
        ("", "no CLIP model"),
        ("text_encoder", "no CLIP model"),
        ("tokenizer/merges.txt", "no CLIP model"),
        ("tokenizer", "tokenizer/ knows 2 tokens, text_encoder/ 56"),  # transformers would go on with two
    ),
)
def test_clip_names_the_key_when_something_is_missing(folder, tmp_path, missing, message):
    path = tmp_path / "sd"
    shutil.copytree(folder, path)
    remove = (path / missing).unlink if (path / missing).is_file() else lambda: shutil.rmtree(path / missing)
    remove()
    with pytest.raises(CheckpointError, match=f"pretrained_model_name_or_path {path}: {message}"):
        build_text_encoder(TextEncoderConfig(), 16, str(path))


# --- what is cut off


def test_words_beyond_the_length_are_told(caplog):
    encoder = HashTextEncoder(8, 5)  # a start and four words
    assert encoder.unread("a red circle moves") == ""
    assert encoder.unread("A red circle moves left, and up!") == "left and up"
    with caplog.at_level("WARNING", "lavie"):
        prompts = ["a red circle moves", "a red circle moves left", "a red circle moves left"]
        warn_of_unread((encoder, prompt, Reading()) for prompt in prompts)
    (record,) = caplog.records
    assert "the network never sees its end, 'left'" in record.getMessage()


@requires_shared
def test_clip_reads_the_first_75_tokens():
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(SHARED / "assets/clip_tokenizer", local_files_only=True)
    encoder = ClipTextEncoder(SimpleNamespace(config=SimpleNamespace(hidden_size=8)), tokenizer, 77)
    words = ["dog"] * 75  # a token each
    assert encoder.unread(" ".join(words)) == ""
    assert encoder.unread(" ".join([*words, "a bear attacks."])) == "a bear attacks ."
    limit = clip_limit(SHARED / "assets/clip_tokenizer")
    assert limit.lengths([" ".join(words), " ".join([*words, "a bear attacks."])]) == [75, 79]


CATS = ["cat " * 3, "cat cat ca", "A CAT, at dogs", ""]
"""Captions of 3, 4, 8 (the comma is not in the vocabulary, and counts as one) and no tokens of the small tokenizer."""


def test_captions_are_measured_as_they_are_cut(folder):
    """A caption counts as long exactly where the encoder of the same run leaves words unread."""
    for kind in ("clip", "hash"):
        config = TextEncoderConfig(type=kind, max_length=5)
        encoder, limit = build_text_encoder(config, 16, str(folder)), caption_limit(config, str(folder))
        for caption in (*CATS, "cat cat cat cat cat"):
            assert bool(limit.count([caption])) == bool(encoder.unread(caption)), (kind, caption)
    limit = caption_limit(TextEncoderConfig(max_length=5), str(folder))
    assert limit.lengths(CATS) == [3, 4, 8, 0] and limit.count(CATS) == 2 and limit.lengths([]) == []
    assert limit.rule == "more than 5 tokens; CLIP reads the first 3"
    assert clip_limit(folder / "tokenizer", 5).lengths(CATS) == limit.lengths(CATS)


def test_without_a_tokenizer_words_are_counted(tmp_path):
    limit = caption_limit(TextEncoderConfig(), str(tmp_path / "absent"))
    assert limit.count(["a " * 75, "a " * 76]) == 1
    assert limit.rule == "more than 75 words; CLIP reads 75 tokens, of a word or less each"


def test_a_tokenizer_asked_for_must_be_there(folder, tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path}: no tokenizer; wanted CLIP's vocab.json .* --tokenizer"):
        clip_limit(tmp_path)
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer/vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match="no tokenizer that can be read"):
        caption_limit(TextEncoderConfig(), str(tmp_path))
    with pytest.raises(CheckpointError, match=r"pretrained_model_name_or_path .*: no CLIP model"):
        build_text_encoder(TextEncoderConfig(), 16, str(tmp_path))
