"""The environment of a run: what is set stays, and caches lie in a folder that is nobody else's."""

import os

import pytest

from lavie.environment import ALLOCATOR, CACHES, prepare_environment

ALL = (*ALLOCATOR, *CACHES)


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """Nothing is set, and temporary files go to tmp_path."""
    for name in ALL:
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return monkeypatch


def found() -> dict[str, str]:
    return {name: os.environ[name] for name in ALL if name in os.environ}


def test_what_is_absent_is_set(empty, tmp_path):
    prepare_environment()
    own = f"{tmp_path}/lavie-{os.getuid()}"
    assert found() == {
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "TRITON_CACHE_DIR": f"{own}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{own}/inductor",
    }
    assert os.stat(own).st_mode & 0o777 == 0o700


def test_what_is_set_stays(empty):
    wanted = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128", **dict.fromkeys(CACHES, "/elsewhere")}
    for name, value in wanted.items():
        empty.setenv(name, value)
    prepare_environment()
    assert found() == wanted


@pytest.mark.parametrize("trap", ("open to all", "a link", "a file"))
def test_a_folder_that_others_may_write_is_not_taken(empty, tmp_path, trap):
    own = tmp_path / f"lavie-{os.getuid()}"
    if trap == "open to all":
        own.mkdir()
        own.chmod(0o777)
    elif trap == "a link":
        (tmp_path / "theirs").mkdir(mode=0o777)
        (tmp_path / "theirs").chmod(0o777)
        own.symlink_to(tmp_path / "theirs")
    else:
        own.touch(0o600)
    prepare_environment()
    assert list(found()) == ["PYTORCH_ALLOC_CONF"]
