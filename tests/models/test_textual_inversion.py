"""Words of textual inversion: each layout of files, and that a word's vectors stand where its embedding would."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from lavie.config.model import TextEncoderConfig
from lavie.errors import CheckpointError
from lavie.models.prompt_reading import Reading, encode_branches, unread
from lavie.models.text_encoder import ClipTextEncoder, HashTextEncoder, build_text_encoder
from lavie.models.textual_inversion import add_words, read_words, split_name, teach
from tests.models.hostile_pickles import body, in_place
from tests.models.tokenizer import TOKENS, save_tokenizer

VECTORS = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def save(path, layout, vectors=VECTORS):
    """Write a word's file in one of the layouts."""
    if layout == "a1111.pt":
        extra = {"string_to_token": {"*": 265}, "name": "fox", "step": 500, "sd_checkpoint": None}
        torch.save({"string_to_param": {"*": torch.nn.Parameter(vectors)}, **extra}, path / "myfox.pt")
        return path / "myfox.pt"
    if layout == "a1111.safetensors":
        save_file({"emb_params": vectors}, path / "myfox.safetensors")
        return path / "myfox.safetensors"
    name = f"learned.{layout.split('.')[1]}"
    if layout.endswith("bin"):
        torch.save({"<my-fox>": vectors}, path / name)
    else:
        save_file({"<my-fox>": vectors}, path / name)
    return path / name


LAYOUTS = ("a1111.pt", "a1111.safetensors", "diffusers.bin", "diffusers.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random CLIP of 16 features."""
    from transformers import CLIPTextConfig, CLIPTextModel

    path = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    CLIPTextModel(CLIPTextConfig(**sizes, vocab_size=len(TOKENS))).save_pretrained(path / "text_encoder")
    save_tokenizer(path / "tokenizer")
    return path


@pytest.fixture
def clip(folder):
    """The tiny CLIP, which reads 12 tokens and has learnt nothing."""
    return build_text_encoder(TextEncoderConfig(max_length=12), 16, str(folder))


def read(encoder, prompt, reading=None):
    return encode_branches(encoder, [[prompt]], reading or Reading())[0][0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_vectors(tmp_path, layout):
    path = save(tmp_path, layout)
    name = "myfox" if "a1111" in layout else "<my-fox>"
    assert read_words(path).keys() == {name} and torch.equal(read_words(path)[name], VECTORS)
    assert read_words(path, "other").keys() == {"other"}
    path = save(tmp_path, layout, VECTORS[0].half())  # one vector, without an axis of its own
    assert torch.equal(read_words(path)[name], VECTORS[:1].half().float())


def test_vectors_stand_where_embeddings_of_new_tokens_would(clip, tmp_path):
    """The oracle is diffusers' way: new tokens at the end of CLIP's own table of embeddings."""
    add_words(clip, [f"myfox={save(tmp_path, 'a1111.pt')}"])
    from transformers import CLIPTextModel

    values = clip.model.config.to_dict() | {"vocab_size": len(TOKENS) + 3}
    larger = CLIPTextModel(type(clip.model.config)(**values)).eval()
    state = clip.model.state_dict()
    [table] = [name for name in state if name.endswith("token_embedding.weight")]
    larger.load_state_dict(state | {table: torch.cat([state[table], VECTORS])})
    reference = ClipTextEncoder(larger, clip.tokenizer, 12)

    new, number = [len(TOKENS) + i for i in range(3)], clip.split
    wanted = reference.encode_tokens([*number("a"), *new, *number("cat at")])
    assert torch.equal(read(clip, "a myfox cat at"), wanted)
    assert torch.equal(read(clip, "a MyFox, cat at".replace(",", "")), wanted)
    assert torch.equal(read(clip, "a cat"), clip(["a cat"])[0])
    assert torch.equal(read(clip, "a myfoxes cat", Reading()), clip(["a myfoxes cat"])[0])  # a word of its own
    weighted = read(clip, "a (myfox:1.4) cat at")
    assert torch.equal(weighted, clip.emphasise(wanted, [1, 1.4, 1.4, 1.4, 1, 1]))
    assert torch.equal(
        read(clip, "a myfox cat at", Reading(clip_skip=2)),
        reference.encode_tokens([*number("a"), *new, *number("cat at")], 2),
    )
    assert unread(clip, "myfox myfox myfox myfox cat", Reading()) == "cat"


def test_signs_belong_to_names_and_the_longer_name_wins(tmp_path):
    encoder = HashTextEncoder(16, 8)
    torch.save({"<fox>": VECTORS[0], "<fox>-2": VECTORS[1:2]}, tmp_path / "words.bin")
    told = add_words(encoder, [str(tmp_path / "words.bin")])
    assert told.startswith("<fox> ") and ", <fox>-2 " in told
    features = read(encoder, "a <fox>-2 <fox> b")
    assert torch.allclose(features[2] - 0.5 * encoder.place[2], VECTORS[1], atol=1e-6)
    assert torch.allclose(features[3] - 0.5 * encoder.place[3], VECTORS[0], atol=1e-6)


def test_words_go_to_the_stages_whose_encoder_is_as_wide(tmp_path, caplog):
    path = str(save(tmp_path, "a1111.safetensors"))
    encoders = {"base": HashTextEncoder(16, 8), "vsr": HashTextEncoder(24, 8)}
    with caplog.at_level(logging.WARNING, logger="lavie"):
        learnt = teach([path], encoders)
    assert learnt.keys() == {"base"} and learnt["base"].startswith("myfox ") and not encoders["vsr"].learnt
    assert "vsr has a text encoder of another width" in caplog.text
    with pytest.raises(CheckpointError, match="vectors of 16 numbers, the text encoder has 24"):
        teach([path], {"vsr": encoders["vsr"]})


def test_names_are_taken_from_files_that_are_not_there(tmp_path):
    assert split_name("fox=a=b.pt") == ("fox", tmp_path.__class__("a=b.pt"))
    (tmp_path / "a=b.pt").write_bytes(b"")
    assert split_name(str(tmp_path / "a=b.pt")) == (None, tmp_path / "a=b.pt")
    with pytest.raises(CheckpointError, match="the name before = is empty"):
        split_name(" =x.pt")


def make(kind, path):
    """Write a file that holds no word."""
    if kind == "lora":
        save_file({"lora_unet_x.lora_down.weight": VECTORS}, path)
    elif kind == "sdxl":
        save_file({"clip_l": VECTORS, "clip_g": VECTORS.clone()}, path)
    elif kind == "checkpoint":
        save_file({"model.diffusion_model.x": VECTORS}, path)
    elif kind == "shape":
        save_file({"fox": VECTORS[None]}, path)
    elif kind == "whole numbers":
        save_file({"fox": VECTORS.long()}, path)
    elif kind == "nan":
        save_file({"fox": VECTORS / 0 * 0}, path)
    elif kind == "damaged":
        path.write_bytes(b"\xff" * 100)
    elif kind == "no tensor":
        path = path.with_suffix(".pt")
        torch.save({"fox": "text"}, path)
    elif kind == "list":
        path = path.with_suffix(".pt")
        torch.save([VECTORS], path)
    elif kind == "two":
        path = path.with_suffix(".pt")
        torch.save({"string_to_param": {"*": VECTORS, "+": VECTORS}}, path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(65 << 20)
    return path


@pytest.mark.parametrize(
    "kind, words",
    (
        ("lora", "it is a LoRA: give it with --lora"),
        ("sdxl", "it is a word for SDXL"),
        ("checkpoint", "it is a whole checkpoint"),
        ("shape", r"its word 'fox' is torch\.float32 \(1, 3, 16\), wanted floats \(k, D\)"),
        ("whole numbers", r"torch\.int64"),
        ("nan", "empty or not finite"),
        ("damaged", "cannot be read"),
        ("no tensor", "its entry 'fox' is no tensor"),
        ("list", "it holds no dict of names"),
        ("two", "its string_to_param is no dict of one word"),
        ("large", "it has 68 MB"),
        ("absent", "cannot be read: No such file"),
    ),
)
def test_other_files_are_refused_in_one_line(tmp_path, kind, words):
    path = make(kind, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=words) as error:
        read_words(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"--embedding {path}")


class Hostile:
    """What a pickle could run."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"fox": Hostile()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"cannot be read.*wanted a \.pt or \.bin of plain tensors"):
        read_words(tmp_path / "x.pt")


def test_words_that_prompts_cannot_call_are_refused(tmp_path):
    path = save(tmp_path, "a1111.pt")
    with pytest.raises(CheckpointError, match=r"is called '\(z\)', and brackets weigh words in prompts: .* z="):
        add_words(HashTextEncoder(16, 8), [f"(z)={path}"])
    path = path.rename(tmp_path / "fox [1].pt")
    with pytest.raises(CheckpointError, match=r"is called 'fox \[1\]'.* --embedding fox 1="):
        read_words(path)
    assert read_words(path, "fox").keys() == {"fox"}


def test_words_that_clash_are_refused(tmp_path):
    path = save(tmp_path, "a1111.pt")
    with pytest.raises(CheckpointError, match="the word 'myfox' is given twice: call one NAME=FILE"):
        add_words(HashTextEncoder(16, 8), [str(path), str(path)])
    with pytest.raises(CheckpointError, match="'myfox' has 3 vectors, the text encoder reads 2 tokens"):
        add_words(HashTextEncoder(16, 3), [str(path)])
    torch.save({"a": VECTORS, "b": VECTORS}, tmp_path / "two.bin")
    with pytest.raises(CheckpointError, match="it holds 2 words, a, b: drop the name"):
        read_words(tmp_path / "two.bin", "c")


@pytest.mark.parametrize("word, prompt", (("myfix", "MYF\u0130X"), ("MYF\u0130X", "MYF\u0130X"), ("my\u017f", "MYS")))
def test_letters_without_one_lower_case_are_found(tmp_path, clip, word, prompt):
    torch.save({word: VECTORS}, tmp_path / "a.pt")
    add_words(clip, [str(tmp_path / "a.pt")])
    assert torch.equal(read(clip, f"a {prompt}"), read(clip, f"a {word}"))


def test_what_a_hostile_file_would_run_is_told(tmp_path):
    (tmp_path / "a.pt").write_bytes(in_place(body("inst", "os", "mkdir", (str(tmp_path / "canary"),)), "zip"))
    with pytest.raises(CheckpointError, match=r"^--embedding .* names 'os.mkdir'. Nothing in it was run") as caught:
        read_words(tmp_path / "a.pt")
    assert "weights_only=False" not in str(caught.value) and not (tmp_path / "canary").exists()
