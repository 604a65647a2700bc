"""A small demo set, drawn once for all tests of the data."""

from pathlib import Path

import pytest

from lavie.data.prepare.synthetic import demo_set


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """Folder with train and validation; read only: tests that change it copy it."""
    out = tmp_path_factory.mktemp("demo")
    demo_set(out, clips=24, images=10, size=32)
    return out
