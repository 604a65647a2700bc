"""Files appear whole or not at all."""

import os
import stat

import pytest
import torch

from lavie.errors import ConfigError
from lavie.files import replacing, require_free
from lavie.models.weights import save_tensors


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way():
        with replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_replaced_leaves_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "a") as partial:
        partial.write_text("a file cannot take the place of a folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("umask, mode", ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)))
def test_weights_have_the_mode_of_other_files(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_tensors({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
        assert os.umask(umask) == umask  # as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == mode


def test_what_lies_there_is_not_written_over_unasked(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    require_free(tmp_path / "new", tmp_path / "empty")
    for taken in ("full", "full/a.txt", "link"):
        with pytest.raises(ConfigError, match=rf"{taken} exists: .* --overwrite"):
            require_free(tmp_path / "new", tmp_path / taken)
        require_free(tmp_path / taken, overwrite=True)


def test_what_is_of_another_kind_is_never_written_over(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "theirs.pt").write_text("theirs")

    def is_weights(path):
        return path.suffix == ".pt"

    require_free(tmp_path / "theirs.pt", overwrite=True, replaceable=is_weights)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"mine exists.*: give another place$"):
            require_free(tmp_path / "mine", overwrite=overwrite, replaceable=is_weights)
