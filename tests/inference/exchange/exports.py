"""An export of every stage of the tiny cascade, for the tests in this folder."""

import pytest

from lavie.inference.exchange.export import export_stage

STAGES = ("base", "interpolation", "vsr")


@pytest.fixture
def exported(cascade_folder, tmp_path):
    """A folder with an export of each stage of `cascade_folder`."""
    for stage in STAGES:
        export_stage(cascade_folder / stage, tmp_path / "exported" / stage)
    return tmp_path / "exported"
