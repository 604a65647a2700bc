"""The identity of frozen encoders changes with all that changes their numbers, and with nothing else."""

from pathlib import Path

import pytest

from lavie.errors import CheckpointError
from lavie.models.identity import encoder_identity
from tests.cascades import stage_config

pytestmark = pytest.mark.usefixtures("reversed_folders")

SMALL = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 24}
PATCH, HASH = {"type": "patch", "patch_size": 2}, {"type": "hash", "max_length": 6}


def identity(**changes) -> dict:
    return encoder_identity(stage_config("base", **{"autoencoder": PATCH, "text_encoder": HASH} | changes))


def test_what_it_holds():
    assert identity() == {
        "autoencoder.type": "patch",
        "autoencoder.scaling_factor": 1.0,
        "autoencoder.patch_size": 2,
        "autoencoder.coefficients": 4,
        "text_encoder.type": "hash",
        "text_encoder.max_length": 6,
        "model.cross_attention_dim": 24,
    }


@pytest.mark.parametrize("changes", ({"scaling_factor": 1.0}, {"coefficients": 4}, {"scaling_factor": None}))
def test_a_default_that_is_written_out_is_the_same(changes):
    assert identity(autoencoder=PATCH | changes) == identity()


@pytest.mark.parametrize(
    "changes, differs",
    (
        ({"autoencoder": PATCH | {"scaling_factor": 0.3}}, {"autoencoder.scaling_factor": 0.3}),
        ({"autoencoder": PATCH | {"scaling_factor": 2.0}}, {"autoencoder.scaling_factor": 2.0}),
        ({"text_encoder": HASH | {"max_length": 7}}, {"text_encoder.max_length": 7}),
    ),
)
def test_another_number_is_another_identity(changes, differs):
    found, before = identity(**changes), identity()
    assert {key: value for key, value in found.items() if value != before[key]} == differs


def folder_of(root: Path) -> Path:
    """Return a new folder with a file or two of each part of a pretrained network."""
    for part, name in (("vae", "config.json"), ("text_encoder", "model.safetensors"), ("tokenizer", "merges.txt")):
        (root / part).mkdir(parents=True)
        (root / part / name).write_text(part)
        (root / part / "notes.md").write_text("for people")
    return root


def test_files_are_told_by_their_names_and_bytes(tmp_path):
    def of(folder: Path) -> dict:
        return identity(
            autoencoder={"type": "diffusers"},
            text_encoder={"type": "clip", "max_length": 77},
            pretrained_model_name_or_path=str(folder),
            model=SMALL,
        )

    first, second = of(folder_of(tmp_path / "a")), of(folder_of(tmp_path / "b"))
    assert first == second and {"vae/", "text_encoder/", "tokenizer/"} < first.keys()
    assert len({first[part] for part in ("vae/", "text_encoder/", "tokenizer/")}) == 3
    assert "autoencoder.patch_size" not in first and first["autoencoder.scaling_factor"] is None

    (tmp_path / "b/vae/notes.md").write_text("other words")
    assert of(tmp_path / "b") == first
    for part in ("vae", "text_encoder", "tokenizer"):
        (tmp_path / "b" / part / "added.json").write_text("{}")
        with_more = of(tmp_path / "b")
        assert {key for key in first if with_more[key] != first[key]} == {f"{part}/"}
        (tmp_path / "b" / part / "added.json").rename(tmp_path / "b" / part / "renamed.json")
        assert of(tmp_path / "b") not in (first, with_more)
        (tmp_path / "b" / part / "renamed.json").unlink()
    assert of(tmp_path / "b") == first

    (tmp_path / "b/vae/config.json").unlink()
    with pytest.raises(CheckpointError, match=r"pretrained_model_name_or_path .*b: no files of an encoder in vae/"):
        of(tmp_path / "b")


def test_the_order_of_a_folder_does_not_count(tmp_path, monkeypatch):
    folder_of(tmp_path)
    for name in ("a.json", "b.json", "c.txt"):
        (tmp_path / "vae" / name).write_text(name)
    glob, found = Path.glob, set()
    for backwards in (False, True):
        monkeypatch.setattr(Path, "glob", lambda path, p, b=backwards: iter(sorted(glob(path, p), reverse=b)))
        whole = identity(autoencoder={"type": "diffusers"}, pretrained_model_name_or_path=str(tmp_path), model=SMALL)
        found.add(whole["vae/"])
    assert len(found) == 1
