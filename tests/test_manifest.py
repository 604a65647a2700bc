"""The manifest of a checkpoint: every bit of it and of its files counts."""

import random
import shutil

import pytest

from lavie.errors import CheckpointError
from lavie.manifest import damage, read_manifest, require_whole_network, write_manifest
from lavie.tensor_file import write_text


@pytest.fixture
def checkpoint(tmp_path):
    """A folder checkpoint-4 with two files."""
    folder = tmp_path / "checkpoint-4"
    (folder / "unet").mkdir(parents=True)
    files = {name: write_text(folder / name, f"content of {name}\n" * 9) for name in ("config.yaml", "unet/weights")}
    write_manifest(folder, {"step": 4, "nonce": "ab", "world_size": 2}, files)
    return folder


def test_a_whole_checkpoint_says_what_it_is(checkpoint):
    manifest = read_manifest(checkpoint)
    assert (manifest["step"], manifest["world_size"], manifest["format"]) == (4, 2, 2)
    assert damage(checkpoint, manifest) is None
    require_whole_network(checkpoint)


def test_every_flipped_bit_is_found(checkpoint, tmp_path):
    """One bit in every byte of the manifest, and in 40 places of the other files."""
    draw = random.Random(0)
    flips = [("checkpoint.json", n) for n in range((checkpoint / "checkpoint.json").stat().st_size)]
    flips += [(name, draw.randrange(100)) for name in ("config.yaml", "unet/weights") for _ in range(20)]
    for name, place in flips:
        path = checkpoint / name
        original = path.read_bytes()
        changed = bytearray(original)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = damage(checkpoint, read_manifest(checkpoint))
        except CheckpointError as error:
            found = str(error)
        # The number of spaces between two values is no part of what a manifest says.
        assert found or (name == "checkpoint.json" and chr(original[place]).isspace()), (name, place, changed)
        assert not found or str(path) in found or str(checkpoint) in found
        path.write_bytes(original)


@pytest.mark.parametrize("name", ("config.yaml", "unet/weights"))
def test_what_is_short_or_gone_is_named(checkpoint, name):
    manifest = read_manifest(checkpoint)
    (checkpoint / name).write_text("short")
    assert damage(checkpoint, manifest, hashes=False) == f"{checkpoint / name}: has 5 bytes, wanted " + str(
        manifest["files"][name]["bytes"]
    )
    (checkpoint / name).unlink()
    assert damage(checkpoint, manifest) == f"{checkpoint / name}: is missing"
    with pytest.raises(CheckpointError, match=r"is missing: take another checkpoint"):
        require_whole_network(checkpoint)


def test_a_manifest_of_another_step_is_refused(checkpoint):
    renamed = checkpoint.rename(checkpoint.with_name("checkpoint-5"))
    with pytest.raises(CheckpointError, match=r"holds step 4: rename it to checkpoint-4"):
        read_manifest(renamed)


@pytest.mark.parametrize(
    "text, words",
    (
        ("", "damaged"),
        ("[]", "no JSON object"),
        ('{"step": 4}', "lavie checkpoint convert"),
        ('{"format": 3, "files": {}}', "not what its own hash says"),
    ),
)
def test_other_manifests_are_refused(checkpoint, text, words):
    (checkpoint / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        read_manifest(checkpoint)
    (checkpoint / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint.json is missing"):
        read_manifest(checkpoint)


@pytest.mark.parametrize("files", (None, [], {"../other": {"bytes": 1, "sha256": "0"}}, {"/etc/passwd": {}}))
def test_files_that_are_none_of_the_folder_are_refused(tmp_path, files):
    write_manifest(tmp_path, {"step": 4}, files)
    with pytest.raises(CheckpointError, match=r"its files are no files of"):
        read_manifest(tmp_path)


def test_a_newer_layout_is_refused(checkpoint, monkeypatch):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    monkeypatch.setattr("lavie.manifest.FORMAT", 3)
    write_manifest(checkpoint, {"step": 4}, {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"layout 3, this version reads 2: update lavie"):
        read_manifest(checkpoint)


def test_folders_without_hashes_are_read_with_a_warning(tmp_path, caplog):
    require_whole_network(tmp_path)
    assert not caplog.text
    (tmp_path / "checkpoint.json").write_text('{"step": 3}')
    require_whole_network(tmp_path)
    assert "its layout has no hashes" in caplog.text
