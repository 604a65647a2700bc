"""Files of tensors: what the library reads in them, their predicted sizes, their hashes, and errors of the disk."""

import os
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lavie.files import sha256_of
from lavie.tensor_file import DTYPES, size_of, write_tensors, write_text

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b.weight": torch.randn(17).bfloat16(),
    "empty": torch.empty(0),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "turned": torch.arange(6, dtype=torch.float32).view(2, 3).t(),
    **{f"of {dtype}": torch.arange(3).to(dtype) for dtype in DTYPES},
}


def test_the_library_reads_what_was_written(tmp_path):
    path = tmp_path / "x.safetensors"
    record = write_tensors(path, TENSORS, {"ranges": "{}"})
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in TENSORS.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"ranges": "{}"}
    assert record == {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    assert size_of(TENSORS, {"ranges": "{}"}) == record["bytes"]
    assert size_of({name: value.to("meta") for name, value in TENSORS.items()}, {"ranges": "{}"}) == record["bytes"]


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "x", TENSORS)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "x", "other")
    assert (tmp_path / "x").read_text() == "mine"


def test_a_write_that_the_system_cuts_short_is_an_error(tmp_path):
    """At a limit of file sizes, the first write is cut short and the second fails."""
    pid = os.fork()
    if not pid:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_tensors(tmp_path / "x", {"a": torch.zeros(10_000)})
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
