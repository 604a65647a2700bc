"""What the tests of the commands share: a folder without data, a way to call a main, and a rendered set."""

import sys
from pathlib import Path

import pytest

from lavie.data.prepare.synthetic import demo_set

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def where_only_configs_are(monkeypatch, tmp_path_factory):
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


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """Return a folder with train and validation; tests that change it copy it."""
    out = tmp_path_factory.mktemp("demo")
    demo_set(out, clips=24, images=10, size=32)
    return out
