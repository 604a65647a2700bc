"""What libraries read from the environment once they are imported: the GPU's allocator, and the place of kernels."""

import os
import tempfile
from pathlib import Path

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The names that PyTorch knows for the settings of its allocator, the older one last."""
CACHES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""Where Triton and torch.compile keep what they compiled, and the folders that this is here."""


def prepare_environment() -> None:
    """Set what is not set yet, before PyTorch and Triton are imported.

    1. The allocator grows its segments: sizes that change from step to step (buckets, validation) leave no holes.
    2. Compiled kernels lie on the node's own disk. In a home that nodes share, all ranks would write the same files.
    """
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"
    if all(name in os.environ for name in CACHES) or not (folder := _own_folder()):
        return
    for name, part in CACHES.items():
        os.environ.setdefault(name, str(folder / part))


def _own_folder() -> Path | None:
    """Return the folder for caches that launch/rank.sh takes, too; None where it cannot be made, or is somebody else's.

    Whoever may write there could have this process run what they compiled.
    """
    folder = Path(tempfile.gettempdir()) / f"lavie-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    return folder if found.st_uid == os.getuid() and not found.st_mode & 0o022 and folder.is_dir() else None
