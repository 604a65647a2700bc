"""A small rendered dataset, once per session."""

from pathlib import Path

import pytest

from lavie.data.synthetic import demo_set


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ (24 clips, 12 images) and validation/."""
    folder = tmp_path_factory.mktemp("rendered")
    demo_set(folder, clips=24, images=12, size=32)
    return folder
