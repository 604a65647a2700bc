"""One cluster for all tests of a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.slurm import SlurmCluster, lacking


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """Provide two idle nodes of a real SLURM; skip where it is not installed."""
    if reason := lacking():
        pytest.skip(reason)
    cluster = SlurmCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Provide the output_dir of a run, which does not exist yet."""
    return tmp_path / "run"
