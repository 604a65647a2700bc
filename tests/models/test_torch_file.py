"""Files of strangers are read as plain tensors, whatever their names; a hundred hostile ones run nothing."""

import pickle
import struct
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lavie.errors import CheckpointError
from lavie.models.lora.contents import open_lora
from lavie.models.textual_inversion import read_words
from lavie.models.torch_file import STAND_INS, read_torch_file, read_weight_file
from lavie.models.unet import VideoUNet
from lavie.models.weights import initialize, read_folder
from tests.models.hostile_pickles import FORMS, PLACES, body, calls, hostile_files, in_place
from tests.models.ldm_files import tiny_network

WEIGHT = torch.arange(6.0).reshape(2, 3)


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


# --- what is read


@pytest.mark.parametrize("name", ("a.safetensors", "a.ckpt", "a"))
def test_safetensors_are_known_by_their_bytes(tmp_path, name):
    save_file({"a": WEIGHT.half()}, tmp_path / name, {"modelspec.architecture": "stable-diffusion-v1"})
    file = read_weight_file(tmp_path / name)
    assert same(file.tensors, {"a": WEIGHT.half()})
    assert file.metadata == {"modelspec.architecture": "stable-diffusion-v1"}
    assert file.content is None


@pytest.mark.parametrize("archive", (True, False), ids=("zip", "legacy"))
def test_a_file_is_what_its_bytes_say_wherever_weights_are_read(tmp_path, archive):
    """A pickle that is called .safetensors, and safetensors that are called .bin: as weights, LoRA and learnt word."""
    lora = {"unet.mid_block.attentions.0.proj_in.lora_A.weight": WEIGHT}
    for name, write in (
        ("pickle.safetensors", lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=archive)),
        ("tensors.bin", save_file),
    ):
        write({"emb_params": WEIGHT}, tmp_path / name)
        assert same(read_weight_file(tmp_path / name).tensors, {"emb_params": WEIGHT})
        assert same(read_words(tmp_path / name, "fox"), {"fox": WEIGHT})
        write(lora, tmp_path / name)
        [contents] = open_lora(tmp_path / name)
        assert same(contents.load(), lora)


@pytest.mark.parametrize(
    "content, told",
    (
        (b"\n<!DOCTYPE html><html>", "a web page: the download went wrong"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        (b'{"a": 1}', "JSON"),
        (b"", "empty"),
    ),
)
def test_what_often_lies_in_the_place_of_weights_is_named(tmp_path, content, told):
    for name in ("a.safetensors", "a.bin"):
        (tmp_path / name).write_bytes(content)
        for read in (read_weight_file, read_words, open_lora):
            with pytest.raises(CheckpointError, match=told) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        read_folder(tmp_path)


@pytest.mark.parametrize("archive", (True, False), ids=("zip", "legacy"))
@pytest.mark.parametrize(
    "content, names",
    (
        ({"a": WEIGHT}, {"a"}),
        ({"state_dict": {"a": WEIGHT}, "epoch": 3, "optimizer_states": [{"a": WEIGHT}]}, {"a"}),
        ({"state_dict": {"a": torch.nn.Parameter(WEIGHT), "n": 3}}, {"a"}),
        ({"ema": {"a": WEIGHT}, "step": 1}, {"ema.a"}),
        ({"string_to_param": {"*": WEIGHT}, "name": "x"}, {"string_to_param.*"}),
        ([WEIGHT], set()),
    ),
)
def test_pickles_of_torch_give_their_tensors(tmp_path, archive, content, names):
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=archive)
    file = read_weight_file(tmp_path / "a.ckpt")
    assert same({k: t.detach() for k, t in file.tensors.items()}, dict.fromkeys(names, WEIGHT))
    assert file.content is not None


def test_what_the_trainer_of_stable_diffusion_left_is_let_in_and_does_nothing(tmp_path, monkeypatch):
    """The files of Stable Diffusion 1.x name a class of Lightning and NumPy's scalars."""
    module = ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    kept = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = kept
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    progress = {kept: {"best_model_score": np.float32(0.5), "object": kept()}}
    torch.save({"state_dict": {"a": WEIGHT}, "callbacks": progress}, tmp_path / "a.ckpt")
    assert same(read_weight_file(tmp_path / "a.ckpt").tensors, {"a": WEIGHT})
    [stand_in] = read_torch_file(tmp_path / "a.ckpt")["callbacks"]
    assert stand_in is not kept
    assert not vars(stand_in(1, 2))
    assert len(STAND_INS) == 4


# --- what is refused


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_weight_file(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))
    return str(caught.value)


def test_a_hundred_hostile_pickles_run_nothing(tmp_path):
    canary = tmp_path / "canary"
    files = dict(hostile_files(str(canary)))
    assert len(files) >= 100
    before = torch.serialization.get_safe_globals()
    for number, (name, content) in enumerate(files.items()):
        path = tmp_path / f"{number}.{('ckpt', 'pt', 'safetensors', 'bin')[number % 4]}"
        path.write_bytes(content)
        message = refusal(path)
        assert not canary.exists(), name
        assert "plain tensors" in message or "no complete safetensors" in message, name
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in tmp_path.glob("*.*"))
    assert torch.serialization.get_safe_globals() == before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_the_name_of_what_would_run_is_told(tmp_path, form, place):
    """In every form and place, of a call that unpickling would make: see the next test."""
    (tmp_path / "a.ckpt").write_bytes(in_place(body(form, "os", "mkdir", (str(tmp_path / "canary"),)), place))
    message = refusal(tmp_path / "a.ckpt")
    assert not (tmp_path / "canary").exists()
    assert "got one that names 'posix.mkdir'" in message or "got one that names 'os.mkdir'" in message
    assert message.endswith("Nothing in it was run: do not use this file")


@pytest.mark.parametrize("form", ("reduce", "stack_global", "inst", "obj"))
@pytest.mark.parametrize(
    "module, name", (("os", "mkdir"), ("builtins", "eval"), ("io", "open"), ("zipfile", "ZipFile"))
)
def test_the_hostile_pickles_are_hostile(tmp_path, form, module, name):
    """Python's own unpickler makes the canary, so that its absence above says something."""
    canary = tmp_path / "canary"
    [arguments] = [given for m, n, given in calls(str(canary)) if (m, n) == (module, name)]
    pickle.loads(in_place(body(form, module, name, arguments), "bare"))
    assert canary.exists()


def test_stand_ins_cannot_be_given_code(tmp_path):
    """A call, a state with attributes of the class, and slots: nothing of them stays."""
    named = STAND_INS[0].rpartition(".")
    for opcodes in (
        body("reduce", named[0], named[2], ("x", {"__class__": 1})),
        body("build", named[0], named[2], ()),
        f"c{named[0]}\n{named[2]}\n(t\x81}}X\x08\x00\x00\x00__call__Ns}}X\x01\x00\x00\x00aNs\x86b".encode("latin-1"),
    ):
        (tmp_path / "a.ckpt").write_bytes(in_place(opcodes, "state"))
        made = read_torch_file(tmp_path / "a.ckpt")["state_dict"]
        assert not vars(made)
        assert not callable(made)


@pytest.mark.parametrize(
    "content, words",
    (
        (b"", "got a file that is empty"),
        (b"hello", "got one that is no PyTorch file"),
        (b"e text", "got one that is no PyTorch file"),
        (b"in\na\ntext\n", "got one that is no PyTorch file"),
        (b"PK\x03\x04" + bytes(40), "wanted a .ckpt of plain tensors"),
        (struct.pack("<Q", 40) + b"{" + b" " * 20, "no complete safetensors file"),
        (struct.pack("<Q", 2) + b"{}" + b"more", "no complete safetensors file"),
        (b"\x80\x02" + b"(" * 10_000 + b"t" * 10_000 + b".", "wanted a .ckpt of plain tensors"),
    ),
)
def test_damaged_files_are_refused_in_a_line(tmp_path, content, words):
    (tmp_path / "a.ckpt").write_bytes(content)
    assert words in refusal(tmp_path / "a.ckpt")


def test_a_missing_file_and_a_folder_are_refused_in_a_line(tmp_path):
    for path in (tmp_path / "a.ckpt", tmp_path / "a.safetensors", tmp_path):
        assert str(path) in refusal(path)


def test_starting_from_a_hostile_file_runs_nothing(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(in_place(body("reduce", "os", "mkdir", (str(tmp_path / "canary"),)), "zip"))
    with pytest.raises(CheckpointError, match="Nothing in it was run"):
        initialize(VideoUNet(tiny_network()), tmp_path / "a.ckpt")
    assert not (tmp_path / "canary").exists()
