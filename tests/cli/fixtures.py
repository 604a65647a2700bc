"""A folder without data, and a way to call a command's main, for the tests of the commands and of the dry run."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder_of_configs(monkeypatch, tmp_path_factory):
    """Work in a folder that has the configs alone: what `make demo` has left in the checkout changes nothing."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(folder)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command's main with arguments: its message or exit code (None if it returned), and what it printed."""

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        try:
            main()
            code = None
        except SystemExit as stop:
            code = stop.code
        out, error = capsys.readouterr()
        return error or code, out

    return call
