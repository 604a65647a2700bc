"""A folder that is another one for some ranks is refused before the run begins."""

import os

import pytest

from lavie import files
from lavie.errors import ConfigError
from lavie.testing import run_distributed
from lavie.training import shared_folder
from lavie.training.shared_folder import require_shared


def refusal(folder, own) -> str:
    """Return why the folder is refused, "" if not, where rank 1 sees a folder of its own under the first one's path."""
    from lavie.distributed import rank
    from lavie.training.deepspeed import init_distributed

    init_distributed()
    files.LAG = 0.3
    if rank() == 1 and own:
        appears = shared_folder.appears
        shared_folder.appears = lambda path: appears(own / path.name)
    try:
        require_shared(folder)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("apart", (False, True))
def test_ranks_that_do_not_see_one_folder_are_named(tmp_path, apart):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = run_distributed(refusal, 2, tmp_path / "a", tmp_path / "b" if apart else None)
    assert first == second
    assert os.listdir(tmp_path / "a") == []
    if apart:
        assert f"output_dir {tmp_path / 'a'} is another folder for rank 1 on" in first
        assert "a disk that all nodes share" in first
    else:
        assert first == ""


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be written: No such file or directory"):
        require_shared(tmp_path / "gone")
