import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavie.errors import CheckpointError
from lavie.evaluation.clip_network.network import ClipNetwork, ClipTokens, load_clip, model_of
from lavie.evaluation.clip_network.protocol import DEVIATION, MEAN
from lavie.testing import SHARED
from tests.evaluation.tiny_clip import CONTEXT, END, OUT, SIDE, WORDS, write_clip, write_tokenizer
from tests.markers import requires_shared

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


def copied(folder, path, name="config.json", **changes):
    """A copy of the folder whose config has other values."""
    shutil.copytree(folder, path)
    values = json.loads((path / "config.json").read_text()) if (path / name).exists() else {}
    (path / name).write_text(json.dumps(values | changes))
    return path


def test_a_folder_gives_unit_embeddings(folder):
    network = load_clip(folder, CPU)
    assert (network.side, network.width, network.context) == (SIDE, OUT, CONTEXT)
    assert (network.mean, network.deviation) == (MEAN, DEVIATION)
    found = network.embed_frames(np.random.default_rng(0).integers(0, 256, (40, 9, 9, 3), np.uint8), protocol(network))
    assert found.shape == (40, OUT) and found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(40))
    torch.testing.assert_close(network.embed_tokens([[END - 1, 3, END]]).norm(dim=1), torch.ones(1))


def protocol(network):
    return network.frame_protocol(fit="stretch")


def test_one_network_has_one_hash_in_whatever_file(folder, tmp_path):
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder)
    network = load_clip(folder, CPU)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    shutil.copy(folder / "config.json", tmp_path)
    assert load_clip(tmp_path, CPU).sha256 == network.sha256
    weights = model.state_dict
    model.state_dict = lambda: dict(reversed(weights().items()))  # versions of transformers may list them in any order
    assert ClipNetwork(model, CPU, "other").sha256 == network.sha256
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1e-3
    assert ClipNetwork(model, CPU, "other").sha256 != network.sha256
    # Numbers that no weight tells count too.
    config = network.config.to_dict()
    config["text_config"]["hidden_act"] = "gelu"
    assert ClipNetwork(model_of(config, model.state_dict(), "x"), CPU, "x").sha256 != ClipNetwork(model, CPU, "").sha256


def test_pixels_are_as_the_folder_says(folder, tmp_path):
    values = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.4, 0.5, 0.6]}
    network = load_clip(copied(folder, tmp_path / "a", "preprocessor_config.json", **values), CPU)
    assert network.frame_protocol().deviation == (0.4, 0.5, 0.6) and network.frame_protocol().mean == (0.5, 0.5, 0.5)
    for text in ("{", "[]"):
        (tmp_path / "a/preprocessor_config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: cannot be read"):
            load_clip(tmp_path / "a", CPU)
    for wrong in ({"image_std": [0.5, 0, 0.5]}, {"image_mean": 0.5}, {"image_mean": [0.5, 0.5]}, {"image_std": "abc"}):
        (tmp_path / "a/preprocessor_config.json").write_text(json.dumps(wrong))
        with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: image_mean .* wanted three numbers"):
            load_clip(tmp_path / "a", CPU)


def test_what_is_no_whole_clip_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json that can be read"):
        load_clip(tmp_path / "nowhere", CPU)
    with pytest.raises(CheckpointError, match="model_type clip_text_model: wanted clip, with both sides"):
        load_clip(copied(folder, tmp_path / "text", model_type="clip_text_model"), CPU)
    from safetensors.torch import load_file, save_file

    part = copied(folder, tmp_path / "part")
    weights = load_file(part / "model.safetensors")
    for name in ("visual_projection.weight", "text_projection.weight"):
        weights.pop(name)
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"2 weights are missing, as text_projection\.weight"):
        load_clip(part, CPU)
    (part / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="no CLIP that can be read"):
        load_clip(part, CPU)


@pytest.mark.parametrize("name", ("vision_model.post_layernorm.bias", "text_projection.weight", "logit_scale"))
def test_weights_that_are_no_numbers_are_named(folder, tmp_path, name):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[0] = torch.inf
    save_file(weights, tmp_path / "clip/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"--weights .*clip: {name} holds NaN or infinity"):
        load_clip(tmp_path / "clip", CPU)


def test_embeddings_that_are_no_numbers_are_refused(folder):
    network = load_clip(folder, CPU)
    with torch.no_grad():
        network._model.visual_projection.weight.fill_(3e38)
        network._model.text_projection.weight.fill_(3e38)
    with pytest.raises(CheckpointError, match=r"clip\d+ gives NaN or infinity"):
        network.embed_frames(np.zeros((1, 9, 9, 3), np.uint8), protocol(network))
    with pytest.raises(CheckpointError, match=r"clip\d+ gives NaN or infinity"):
        network.embed_tokens([[END - 1, 3, END]])


def test_captions_become_tokens_and_long_ones_are_cut(folder):
    tokens = ClipTokens(folder, load_clip(folder, CPU))
    most = CONTEXT - 2  # one token each, and the marks
    rows, cut = tokens(["a Cat", "x" * most, "x" * (most + 1)])
    ids = [WORDS.index(word) for word in ("a</w>", "c", "a", "t</w>")]
    assert rows[0] == [END - 1, *ids, END]
    assert [len(row) for row in rows[1:]] == [CONTEXT, CONTEXT] and cut == [2]
    assert rows[2][-1] == END and rows[2][:-1] == [END - 1, *[WORDS.index("x")] * most]


def test_a_tokenizer_of_another_network_is_refused(folder, tmp_path):
    network = load_clip(folder, CPU)
    with pytest.raises(CheckpointError, match=r"no vocab\.json and merges\.txt"):
        ClipTokens(tmp_path, network)
    write_tokenizer(tmp_path / "tokenizer")
    ClipTokens(tmp_path, network)  # a folder like Stable Diffusion's
    network.config.text_config.eos_token_id = END - 1
    with pytest.raises(CheckpointError, match=f"ends texts by {END}, the network {len(WORDS)} and {END - 1}"):
        ClipTokens(tmp_path, network)
    network.config.text_config.eos_token_id = 2  # the configs of 2022
    ClipTokens(tmp_path, network)
    words = json.loads((tmp_path / "tokenizer/vocab.json").read_text())
    (tmp_path / "tokenizer/vocab.json").write_text(json.dumps(words | {"more": len(words)}))
    with pytest.raises(CheckpointError, match=f"it knows {len(words) + 1} tokens .* the network {len(words)}"):
        ClipTokens(tmp_path, network)


@requires_shared
def test_tokens_are_clips_own():
    text = SimpleNamespace(vocab_size=49408, eos_token_id=49407)
    network = SimpleNamespace(config=SimpleNamespace(text_config=text), context=77)
    rows, cut = ClipTokens(SHARED / "assets/clip_tokenizer", network)(["a photo of a cat", "A  photo of a CAT "])
    assert rows == [[49406, 320, 1125, 539, 320, 2368, 49407]] * 2 and cut == []
