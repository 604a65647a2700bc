"""Prompts become features as captions do; weights, chunks, learnt words and CLIP's layers are what they stand for."""

import logging

import pytest
import torch

from lavie.config.model import TextEncoderConfig
from lavie.errors import ConfigError
from lavie.models.prompt_reading import PLAIN, Reading, encode_branches, unread, warn_of_uncalled, warn_of_unread
from lavie.models.text_encoder import ClipTextEncoder, HashTextEncoder, build_text_encoder
from lavie.testing import TOLERANCES, relative_error
from tests.models.tokenizer import TOKENS, save_tokenizer

LENGTH = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny random CLIP of three layers and 16 features, which reads 12 tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel

    path = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)
    model = CLIPTextModel(CLIPTextConfig(**sizes, vocab_size=len(TOKENS)))
    torch.nn.init.normal_(model.final_layer_norm.weight)
    torch.nn.init.normal_(model.final_layer_norm.bias)
    model.save_pretrained(path / "text_encoder")
    save_tokenizer(path / "tokenizer")
    return build_text_encoder(TextEncoderConfig(max_length=LENGTH), 16, str(path))


@pytest.fixture(params=("clip", "hash"))
def encoder(request):
    """Both kinds of text encoder, with no words learnt."""
    if request.param == "hash":
        return HashTextEncoder(16, LENGTH)
    made = request.getfixturevalue("clip")
    return ClipTextEncoder(made.model, made.tokenizer, LENGTH)


def read(encoder, prompt, **reading):
    [features] = encode_branches(encoder, [[prompt]], Reading(**reading))
    return features[0]


PROMPTS = ("", "a cat", "cat at a cat", "b, c: d", "cat " * 30)


def test_prompts_without_brackets_are_bit_equal_to_captions(encoder):
    for reading in (Reading(), PLAIN):
        features, other = encode_branches(encoder, [list(PROMPTS), ["", "x", "a", "b", "c"]], reading)
        assert torch.equal(features, encoder(list(PROMPTS))) and torch.equal(other, encoder(["", "x", "a", "b", "c"]))


def test_brackets_are_characters_where_they_shall_be(encoder):
    text = "a (cat:1.3) [b]"
    assert torch.equal(read(encoder, text, syntax="plain"), encoder([text])[0])
    assert not torch.equal(read(encoder, text), encoder([text])[0])


def test_tokens_one_by_one_give_what_the_caption_gives(encoder):
    for prompt in PROMPTS:
        one_by_one = encoder.encode_tokens(encoder.split(prompt)[: encoder.room])
        assert torch.equal(one_by_one, encoder([prompt])[0]), prompt
    # Weights of 1, and words that only an escape stands in.
    assert torch.equal(read(encoder, "a (cat:1) at"), encoder(["a cat at"])[0])


def test_weights_multiply_the_features_of_their_tokens(encoder):
    """The oracle is the definition: features times weights by token; CLIP's keep their mean (A1111's rule)."""
    plain = encoder(["a cat at cat"])[0].double()
    weights = torch.ones(LENGTH, 1, dtype=torch.float64)
    weights[2], weights[4] = 1.5, 1 / 1.1
    wanted = plain * weights
    if isinstance(encoder, ClipTextEncoder):
        wanted = wanted * (plain.mean() / wanted.mean())
    assert relative_error(read(encoder, "a (cat:1.5) at [cat]"), wanted) < TOLERANCES[torch.float32]


def test_a_prompt_does_not_depend_on_its_neighbours(encoder):
    together = encode_branches(encoder, [["a (cat:1.5)", "at (a)"]], Reading())[0]
    for row, prompt in zip(together, ("a (cat:1.5)", "at (a)"), strict=True):
        assert torch.equal(row, read(encoder, prompt))


def test_long_prompts_are_read_in_chunks(encoder):
    """Every chunk is what the encoder gives for its words alone, and branches have one length."""
    words = [f"{'abcdefghijklmnopqrstuvwxyz'[i]}" for i in range(24)]
    room = encoder.room
    negative, positive = encode_branches(encoder, [["a cat"], [" ".join(words)]], Reading(chunks=4))
    parts = [" ".join(words[start : start + room]) for start in range(0, 24, room)]
    assert torch.equal(positive[0], torch.cat([encoder([part])[0] for part in parts]))
    assert torch.equal(negative[0], torch.cat([encoder(["a cat"])[0]] + [encoder([""])[0]] * (len(parts) - 1)))
    assert encode_branches(encoder, [["a cat"], ["at"]], Reading(chunks=4))[1].shape[1] == LENGTH
    # Weights stay with their words across chunks.
    heavy = read(encoder, " ".join(words[:room]) + f" ({words[room]}:2)", chunks=2)
    assert torch.equal(heavy[:LENGTH], encoder([parts[0]])[0])
    assert torch.equal(heavy[LENGTH:], read(encoder, f"({words[room]}:2)"))


def test_a_chunk_ends_behind_its_last_comma(clip):
    # CLIP of the tests has no comma: its number stands for any token that its tokenizer makes of one.
    [comma] = set(clip.split(","))
    assert clip.is_comma(comma) and not clip.is_comma(clip.split("cat")[0])
    assert torch.equal(
        read(clip, "a b c d e f g, h i j k", chunks=2),
        torch.cat([clip(["a b c d e f g,"])[0], clip(["h i j k"])[0]]),
    )
    assert torch.equal(read(clip, "a b c d e f g, h i j k"), clip(["a b c d e f g, h i j k"])[0])


def test_what_no_chunk_holds_is_told(encoder, caplog):
    words = " ".join("abcdefghijklmnopqrstuvwxyz")
    last = words[2 * 2 * encoder.room :].strip()
    assert unread(encoder, words, Reading(chunks=2)).replace(" ", "") == last.replace(" ", "")
    assert unread(encoder, words, Reading(chunks=3)) == ""
    assert unread(encoder, f"({words})", Reading()) == encoder.unread(words)
    with caplog.at_level(logging.WARNING, logger="lavie"):
        warn_of_unread([(encoder, text, Reading(chunks=2)) for text in (words, words, "a")])
        assert len(caplog.records) == 1 and "too long" in caplog.text


def test_long_ends_and_many_prompts_are_told_in_short(caplog):
    encoder = HashTextEncoder(16, 4)
    with caplog.at_level(logging.WARNING, logger="lavie"):
        warn_of_unread([(encoder, "a b c " + "word " * 500, Reading())])
        assert len(caplog.messages[0]) < 300 and "(500 words)" in caplog.messages[0]
        caplog.clear()
        warn_of_unread([(encoder, f"a b c d {number}", Reading()) for number in range(40)])
        assert len(caplog.messages) == 11
        assert caplog.messages[-1] == "30 more prompts are too long: the network never sees their ends"


def test_learnt_words_that_no_prompt_calls_are_told(caplog):
    encoders = [HashTextEncoder(16, 4), HashTextEncoder(16, 4)]
    for encoder in encoders:
        encoder.learnt |= {"fox": torch.zeros(1, 16), "my fox": torch.zeros(1, 16), "owl": torch.zeros(1, 16)}
    with caplog.at_level(logging.WARNING, logger="lavie"):
        # A word that one encoder reads is called, in brackets and in negative prompts too.
        prompts = ("a (Fox:1.2)", "foxes", "an [owl]")
        warn_of_uncalled([(encoders[number % 2], prompt, Reading()) for number, prompt in enumerate(prompts)])
        warn_of_uncalled([(encoders[0], text, Reading()) for text in ("fox", "my fox", "owl")])
        warn_of_uncalled([(HashTextEncoder(16, 4), "a", Reading()), (object(), "a", PLAIN)])
    assert caplog.messages == ["--embedding: no prompt has 'my fox': it changes nothing"]


def test_clip_skip_is_a_model_of_fewer_layers(clip):
    """The oracle is transformers' own model with the last layers taken away: its final norm comes after the others."""
    from transformers import CLIPTextModel

    for skip in (1, 2, 3):
        shorter = CLIPTextModel(type(clip.model.config)(**clip.model.config.to_dict()))
        shorter.load_state_dict(clip.model.state_dict())
        shorter.encoder.layers = shorter.encoder.layers[: 4 - skip]
        reference = ClipTextEncoder(shorter.eval(), clip.tokenizer, LENGTH)
        assert torch.equal(read(clip, "a cat", clip_skip=skip), reference(["a cat"])[0])
    for skip in (4, 0):
        with pytest.raises(ConfigError, match=rf"clip_skip: got {skip}, wanted 1 \.\. 3, the layers"):
            read(clip, "a cat", clip_skip=skip)
    with pytest.raises(ConfigError, match="clip_skip: got 2, and this text encoder has no layers"):
        read(HashTextEncoder(16, 4), "a cat", clip_skip=2)


def test_an_encoder_of_captions_alone_reads_plain_prompts(caplog):
    def captions(texts):
        return torch.ones(len(texts), 3, 4)

    assert torch.equal(read(captions, "a cat", chunks=2), torch.ones(3, 4))
    assert torch.equal(read(captions, "a (cat)", syntax="plain"), torch.ones(3, 4))
    with pytest.raises(ConfigError, match="reads plain captions only: set prompt_syntax to plain"):
        read(captions, "a (cat)")
    warn_of_unread([(captions, "a (cat)", Reading())])
    assert not caplog.records
