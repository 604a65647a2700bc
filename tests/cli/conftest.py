"""What the tests of the commands share: a folder without data, a way to call a main, and a rendered set."""

from pathlib import Path

import pytest

from lavie.data.prepare.synthetic import demo_set
from tests.cli.fixtures import call, folder_of_configs

__all__ = ["call", "folder_of_configs"]


@pytest.fixture(autouse=True)
def where_only_configs_are(folder_of_configs):
    """Let every test in this folder work where there are configs alone."""


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """Return a folder with train and validation; tests that change it copy it."""
    out = tmp_path_factory.mktemp("demo")
    demo_set(out, clips=24, images=10, size=32)
    return out
