"""Every layout gives the same changes, each with its own alpha; and the real file of 2022 is read whole."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lavie.errors import CheckpointError
from lavie.models.lora.change import Hadamard, Kronecker, LowRank, Whole
from lavie.models.lora.names import flat_names, ldm_name, numbered_unet, spatial_modules, text_modules
from lavie.models.lora.read import read_lora
from lavie.models.meta_encoders import meta_text_model
from lavie.testing import SHARED, TOLERANCES, relative_error
from tests.markers import requires_shared
from tests.models.lora.files import (
    made,
    made_text,
    save,
    save_diffusers,
    save_kohya,
    save_old_diffusers,
    save_peft,
)


def check(changes, wanted):
    """The changes are the wanted ones, layer by layer."""
    assert set(changes) == {f"{name}.weight" for name in wanted}
    for name, layer in wanted.items():
        assert relative_error(changes[f"{name}.weight"].delta(), layer.delta) < TOLERANCES[torch.float32], name


def test_kohya_with_ranks_and_alphas_of_every_kind(network, tmp_path):
    unet, text = made(network, mixed=True), made_text()
    file = read_lora(save_kohya(tmp_path / "a.safetensors", unet, text, ss_network_dim="Dynamic"), network)
    assert (file.layout, file.metadata["ss_network_dim"], file.text_width) == ("kohya", "Dynamic", 24)
    check(file.unet, unet)
    check(file.text, text)


def test_kohya_by_the_names_of_the_original_code(network, tmp_path):
    unet = made(network, mixed=True)
    names = list(spatial_modules(network))
    renamed = {ldm_name(name, network.config.layers_per_block, names): layer for name, layer in unet.items()}
    check(read_lora(save_kohya(tmp_path / "a.safetensors", renamed), network).unet, unet)


def test_without_alpha_it_is_the_rank(network, tmp_path):
    unet = made(network)
    path = save_kohya(tmp_path / "a.safetensors", unet)
    save(path, {key: value for key, value in load_file(path).items() if not key.endswith(".alpha")})
    check(read_lora(path, network).unet, unet)


@pytest.mark.parametrize("alpha", (3.0, 6.0))
def test_diffusers(network, tmp_path, alpha):
    """The alpha stands in the header, without which every layer's is its rank."""
    unet, text = made(network), made_text()
    for layer in unet.values():
        layer.alpha = alpha
    path = save_diffusers(tmp_path / "pytorch_lora_weights.safetensors", unet, text)
    for place in (path, tmp_path):
        file = read_lora(place, network)
        check(file.unet, unet)
        check(file.text, text)
    for layer in unet.values():
        layer.alpha = 3.0
    check(read_lora(save(tmp_path / "b.safetensors", load_file(path)), network).unet, unet)


def test_old_diffusers(network, tmp_path):
    unet, text = made(network, "attention"), made_text()
    path = save_old_diffusers(tmp_path / "a.safetensors", unet, text)
    file = read_lora(path, network)
    assert file.layout == "diffusers (old)"
    check(file.unet, unet)
    check(file.text, text)
    # The first version had no name of the network before the keys, and was a pickle.
    tensors = {key.removeprefix("unet."): value for key, value in load_file(path).items() if key.startswith("unet.")}
    torch.save(tensors, tmp_path / "pytorch_lora_weights.bin")
    check(read_lora(tmp_path, network).unet, unet)


def test_old_text_layers_had_the_names_of_the_unets(network, tmp_path):
    text = made_text(1)
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora"
    tensors = {
        f"{layer}.{part}.weight": tensor
        for part, tensor in (
            ("up", text["encoder.layers.0.self_attn.out_proj"].up),
            ("down", text["encoder.layers.0.self_attn.out_proj"].down),
        )
    }
    file = read_lora(save(tmp_path / "a.safetensors", tensors), network)
    assert set(file.text) == {"encoder.layers.0.self_attn.out_proj.weight"}


def test_peft(network, tmp_path):
    unet, text = made(network, mixed=True), made_text()
    save_peft(tmp_path / "a", unet)
    check(read_lora(tmp_path / "a", network).unet, unet)
    save_peft(tmp_path / "a/text_encoder", {f"text_model.{name}": layer for name, layer in text.items()})
    check(read_lora(tmp_path / "a", network).text, text)
    check(read_lora(save_peft(tmp_path / "b/text_encoder", text).parent, network).text, text)


def test_rank_stabilised_alphas(network, tmp_path):
    unet = made(network)
    save_peft(tmp_path / "a", unet, alpha_pattern={"to_q": 2.0}, lora_alpha=5.0, use_rslora=True)
    for name, layer in unet.items():
        layer.alpha = (2.0 if name.endswith(".to_q") else 5.0) * 3**0.5
    check(read_lora(tmp_path / "a", network).unet, unet)


def test_lycoris(network, tmp_path):
    """LoHa, LoKr, Tucker, whole differences, biases and norms, each in its layer."""
    block = "mid_block.attentions.0.transformer_blocks.0"
    names = {key: f"lora_unet_{key.replace('.', '_')}" for key in (f"{block}.attn1.to_q", f"{block}.attn1.to_k")}
    loha, lokr = names.values()
    conv, norm = "lora_unet_mid_block_resnets_0_conv1", "lora_unet_mid_block_resnets_0_norm1"
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))  # noqa: E731
    tensors = {f"{loha}.hada_{w}_a": draw(64, 2) for w in ("w1", "w2")}
    tensors |= {f"{loha}.hada_{w}_b": draw(2, 64) for w in ("w1", "w2")} | {f"{loha}.alpha": torch.tensor(1.0)}
    tensors |= {f"{lokr}.lokr_w1": draw(4, 4), f"{lokr}.lokr_w2": draw(16, 16), f"{lokr}.alpha": torch.tensor(7.0)}
    tensors |= {f"{conv}.lora_up.weight": draw(64, 2, 1, 1), f"{conv}.lora_down.weight": draw(2, 64, 1, 1)}
    tensors |= {f"{conv}.lora_mid.weight": draw(2, 2, 3, 3), f"{conv}.diff_b": draw(64)}
    tensors |= {f"{norm}.w_norm": draw(64), f"{norm}.b_norm": draw(64)}
    file = read_lora(save(tmp_path / "a.safetensors", tensors), network)
    kinds = {name: (type(change), getattr(change, "multiplier", None)) for name, change in file.unet.items()}
    assert kinds == {
        f"{block}.attn1.to_q.weight": (Hadamard, 0.5),
        f"{block}.attn1.to_k.weight": (Kronecker, 1.0),  # no rank, so that alpha says nothing
        "mid_block.resnets.0.conv1.weight": (LowRank, 1.0),
        "mid_block.resnets.0.conv1.bias": (Whole, None),
        "mid_block.resnets.0.norm1.weight": (Whole, None),
        "mid_block.resnets.0.norm1.bias": (Whole, None),
    }


def loha(first, second):
    """A file of LoHa whose factors are of two ranks."""
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{name}.hada_{w}_a": torch.ones(64, first) for w in ("w1", "w2")}
    return tensors | {f"{name}.hada_{w}_b": torch.ones(second, 64) for w in ("w1", "w2")}


def test_embeddings_beside_a_lora_are_named(network, tmp_path):
    tensors = {"<s1>": torch.ones(24), "unet:0:up": torch.ones(32, 1), "unet:0:down": torch.ones(1, 32)}
    file = read_lora(save(tmp_path / "a.safetensors", tensors), network)
    assert list(file.unet) == ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    assert list(file.unread) == ["<s1>"] and "new word" in file.unread["<s1>"]


@requires_shared
def test_the_real_file_of_2022():
    """Every one of its 192 layers has a place, and each change is up @ down."""
    path = SHARED / "assets/lora_sd15/analog_svd_rank4.safetensors"
    file, tensors = read_lora(path), load_file(path)
    assert (len(file.unet), len(file.text), file.unread, file.text_width) == (144, 48, {}, 768)
    text = text_modules(meta_text_model(None, 768))
    assert all(name.removesuffix(".weight") in text for name in file.text)
    for number, name in ((4, "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"), (143, None)):
        name = name or "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
        wanted = tensors[f"unet:{number}:up"].double() @ tensors[f"unet:{number}:down"].double()
        assert relative_error(file.unet[f"{name}.weight"].delta(), wanted) < TOLERANCES[torch.float32]


@pytest.mark.parametrize(
    "change, message",
    (
        (lambda t, k: t | {f"{k}.lora_up.weight": t[f"{k}.lora_up.weight"][:, :2]}, "are of different ranks"),
        (
            lambda t, k: {n: v for n, v in t.items() if n != f"{k}.lora_up.weight"},
            r"has no tensor lora_up \(lora_B\): the file is incomp",
        ),
        (
            lambda t, k: {n: v for n, v in t.items() if n != f"{k}.lora_down.weight"},
            r"to_q has no tensor lora_down \(lora_A\): the file is incomp",
        ),
        (lambda t, k: {f"{k}.alpha": torch.ones(())}, "to_q has alpha alone: its change, as lora_up and lora_down, is"),
        (
            lambda t, k: t | {f"{k}.lora_up.weight": t[f"{k}.lora_up.weight"].to(torch.complex64)},
            "to_q.lora_up.weight is complex64, wanted floats",
        ),
        (
            lambda t, k: t | {f"{k}.lora_down.weight": t[f"{k}.lora_down.weight"].to(torch.int8)},
            "to_q.lora_down.weight is int8, wanted floats",
        ),
        (lambda t, k: t | {f"{k}.alpha": torch.tensor(True)}, "to_q.alpha is bool, wanted floats"),
        (
            lambda t, k: t | {f"{k}.lora_up.weight": torch.ones(32, 0), f"{k}.lora_down.weight": torch.ones(0, 32)},
            r"without any number: wanted a rank of 1 or more",
        ),
        (
            lambda t, k: (
                t
                | {
                    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight": t[
                        f"{k}.lora_up.weight"
                    ]
                }
            ),
            r"mid_block\S*to_q stands there twice, by \S+lora\S+ and another key for its up: wanted one set",
        ),
        (
            lambda t, k: t | {f"{k}.lora_up.weight": t[f"{k}.lora_up.weight"] * torch.nan},
            "lora_up.weight has values that",
        ),
        (lambda t, k: t | {f"{k}.hada_w1_a": torch.ones(2, 2)}, "has hada_w1_a beside its change"),
        (lambda t, k: loha(2, 3), "its tensors do not fit one another"),
        (
            lambda t, k: t | {f"{k}.scalar": torch.ones(())},
            r"1 of \d+ keys of no module here, as lora_unet_\S*to_q.scalar",
        ),
        (
            lambda t, k: t | {"lora_unet_attic.alpha": torch.ones(())},
            "keys of no module here, as lora_unet_attic.alpha",
        ),
    ),
)
def test_damaged_files_are_refused(network, tmp_path, change, message):
    path = save_kohya(tmp_path / "a.safetensors", made(network, "attention"))
    tensors = load_file(path)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    with pytest.raises(CheckpointError, match=message):
        read_lora(save(path, change(tensors, name)), network)


def test_what_lies_beside_the_tensors_is_checked(network, tmp_path):
    unet = made(network)
    path = save_diffusers(tmp_path / "a.safetensors", unet)
    save(path, load_file(path), {"lora_adapter_metadata": "[1"})
    with pytest.raises(CheckpointError, match="lora_adapter_metadata is no JSON"):
        read_lora(path, network)
    with pytest.raises(CheckpointError, match="is a regular expression"):
        read_lora(save_peft(tmp_path / "a", unet, alpha_pattern={"(a+)+b": 2}), network)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match=r"no adapter_model.safetensors"):
        read_lora(tmp_path / "b", network)


def test_the_tables_fit_one_another(network):
    names = list(spatial_modules(network))
    assert set(numbered_unet(names)) <= set(flat_names(names, 1).values())


@pytest.mark.parametrize(
    "text",
    (
        '{"unet.lora_alpha": NaN}',
        '{"unet.lora_alpha": 1e999}',
        '{"unet.lora_alpha": null}',
        '{"unet.lora_alpha": [1]}',
        '{"unet.lora_alpha": true}',
        '{"unet.lora_alpha": 1e200}',
        '{"unet.lora_alpha": 1, "unet.alpha_pattern": [1, 2]}',
        '{"unet.lora_alpha": 1, "unet.alpha_pattern": {"to_q": null}}',
        '{"unet.lora_alpha": ' + "[" * 100_000,
    ),
)
def test_alphas_are_finite_numbers(network, tmp_path, text):
    unet = made(network, "attention")
    path = save_diffusers(tmp_path / "a.safetensors", unet)
    save(path, load_file(path), {"lora_adapter_metadata": text})
    folder = save_peft(tmp_path / "peft", unet)
    (folder / "adapter_config.json").write_text(text.replace("unet.", ""))
    for place in (path, folder):
        with pytest.raises(CheckpointError, match=r"lora_adapter_metadata|adapter_config|alpha") as caught:
            read_lora(place, network)
        assert "\n" not in str(caught.value)


def test_dicts_of_a_pickle_end(network, tmp_path):
    endless = {"a": torch.ones(1)}
    endless["b"] = endless
    deep = {}
    for _ in range(100):
        deep = {"a": deep}
    for content, message in ((endless, "holds one dict twice"), (deep, "nests dicts more than 16 deep")):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=message):
            read_lora(tmp_path / "a.pt", network)


def test_adapters_of_another_network_need_its_name(network, tmp_path):
    tensors = {f"unet.attic.to_q.lora_{part}.weight": torch.ones(1, 1) for part in "AB"}
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"keys of no module here.*--network"):
        read_lora(path)
    with pytest.raises(CheckpointError, match="keys of no module here") as caught:
        read_lora(path, network)
    assert "--network" not in str(caught.value)


def test_alpha_may_be_an_integer(network, tmp_path):
    path = save_kohya(tmp_path / "a.safetensors", made(network, "attention"))
    tensors = load_file(path)
    whole = {key: value.long() if key.endswith(".alpha") else value for key, value in tensors.items()}
    first, second = read_lora(path, network), read_lora(save(path, whole), network)
    assert all(torch.equal(change.delta(), second.unet[name].delta()) for name, change in first.unet.items())


def test_a_folder_whose_adapters_change_one_layer_is_refused(network, tmp_path):
    folder = save_peft(tmp_path / "a", made(network, "attention"))
    save_peft(folder / "unet", made(network, "attention"))
    with pytest.raises(CheckpointError, match=r"\S+weight stands there twice, in \S+ and \S+unet\S+: wanted one of"):
        read_lora(folder, network)
