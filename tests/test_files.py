"""Files appear whole or not at all."""

import os
import stat

import pytest
import torch

from lavie.errors import ConfigError
from lavie.files import replacing, require_free, require_writable
from lavie.models.weights import save_tensors


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ("x" * 255, "ä" * 127))
def test_the_longest_names_can_be_written_on_any_host(tmp_path, monkeypatch, name):
    monkeypatch.setattr("socket.gethostname", lambda: "node-0123." * 6)
    require_writable(tmp_path / name)
    with replacing(tmp_path / name) as one, replacing(tmp_path / f"y{name[1:]}") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert (tmp_path / name).read_text() == "1" and (tmp_path / f"y{name[1:]}").read_text() == "2"
    assert len(list(tmp_path.iterdir())) == 2


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


def test_a_file_may_be_written_where_folders_are_still_to_be_made_and_the_question_leaves_nothing(tmp_path):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "link").symlink_to("nowhere.json")
    require_writable(tmp_path / "a.json", tmp_path / "b.json", tmp_path / "deep/er/c.json", tmp_path / "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "link"]
    assert (tmp_path / "a.json").read_text() == "old"


@pytest.mark.parametrize(
    "target, words",
    (
        ("folder", r"folder is a folder: wanted a file"),
        ("file.txt/a.json", r"a\.json: .*file\.txt is no folder"),
        ("file.txt/deep/a.json", r"a\.json: .*file\.txt is no folder"),
        ("broken/a.json", r"a\.json: .*broken is no folder"),
        ("/proc/a.json", r"/proc/a\.json cannot be written: "),
        ("/proc/deep/a.json", r"/proc/deep/a\.json cannot be written: "),
        ("x" * 251 + ".json", "the name .* is too long"),
        ("x" * 300 + "/a.json", r"the name x{20}\.\.\. is too long"),
    ),
)
def test_where_no_file_can_be_written_is_said_beforehand(tmp_path, monkeypatch, target, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").touch()
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=words):
        require_writable(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "file.txt", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said_beforehand(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(ConfigError, match=r"a\.json cannot be written: Permission denied"):
        require_writable(tmp_path / "a.json")
