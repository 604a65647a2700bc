"""Copies of the demo set that tests may damage, on a disk and behind a web server."""

import shutil
from pathlib import Path

import pytest

from lavie.data.shards import compile as compile_module
from lavie.data.shards import remote
from tests.data.shards.web import Web


@pytest.fixture
def on_disk(monkeypatch):
    """Make every dataset large enough for a table in a file."""
    monkeypatch.setattr(compile_module, "IN_MEMORY", 0)


@pytest.fixture
def train_copy(demo, tmp_path) -> Path:
    """Return a folder with one shard and its index, for one test alone."""
    shutil.copytree(demo / "train", tmp_path / "train")
    return tmp_path / "train"


@pytest.fixture
def served_folder(demo, tmp_path) -> Path:
    """Return a folder with two shards and their indices, which `web` serves as `set`."""
    out = tmp_path / "web/set"
    out.mkdir(parents=True)
    for number, part in enumerate(("train", "validation")):
        for suffix in (".tar", ".index.jsonl"):
            shutil.copy(demo / part / f"00000{suffix}", out / f"0000{number}{suffix}")
    return out


@pytest.fixture
def web(served_folder, tmp_path, monkeypatch):
    """Give a web server on this machine, an empty user's cache, and short pauses between attempts."""
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'lavie[remote]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    remote._down.clear()
    server = Web(served_folder.parent)
    yield server
    server.close()
