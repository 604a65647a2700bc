"""The captioner that a user names, and what decides what it says."""

import functools
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from ...config.curate_caption import CaptionConfig
from ...errors import CheckpointError, ConfigError
from ..identity import files_below, known_sha256
from ..table import text_hash
from .base import Captioner

SAMPLES, SAMPLE = 16, 1 << 16
"""How many parts of a file of weights are hashed, and the bytes of each: tens of gigabytes would take minutes."""


def open_captioner(config: CaptionConfig, src: Path) -> Captioner:
    """Return the captioner of some settings; the last one is kept for the next unit.

    Args:
        config: the settings.
        src: the folder of the films.

    Raises:
        ConfigError: none is named, or it is not there.
        CheckpointError: a network cannot be loaded.
    """
    kind, rest = check_captioner(config)
    # Networks and programs are slow to start; a table is looked at anew each time.
    if kind == "sidecar":
        from .sidecar import SidecarTable, TextsBeside

        return SidecarTable(Path(rest), src) if rest else TextsBeside(src)
    return _opened(kind, rest, config.model_dump_json(), text_hash(captioner_identity(config)))


def check_captioner(config: CaptionConfig) -> tuple[str, str]:
    """Return the kind of a captioner and where it is, after a look that opens nothing.

    Raises:
        ConfigError: none is named, or it is not there.
        CheckpointError: the folder of a network is not there.
    """
    if config.captioner is None:
        raise ConfigError(
            "caption.captioner is not set: `lavie curate caption OUT --captioner ...` takes sidecar, sidecar:TABLE, "
            "transformers:PATH, vllm:PATH or command:PROGRAM"
        )
    kind, _, rest = config.captioner.partition(":")
    if kind == "command":
        from .command import command_words

        if shutil.which(program := command_words(rest)[0]) is None:
            raise ConfigError(f"caption.captioner {config.captioner}: no program {program}")
        return kind, rest
    rest = os.path.expanduser(rest)
    if kind == "sidecar" and rest:
        from .sidecar import check_table

        check_table(Path(rest))
    elif kind != "sidecar" and not Path(rest).is_dir():
        raise CheckpointError(
            f"caption.captioner {config.captioner}: no such folder; wanted a network on the disk, for none is fetched"
        )
    return kind, rest


def captioner_identity(config: CaptionConfig) -> dict[str, Any]:
    """Return what of the settings decides the captions; files count by what they hold."""
    kind, _, rest = (config.captioner or "").partition(":")
    found: dict[str, Any] = {"kind": kind}
    if kind == "sidecar":
        return found | ({"table": _file_hash(rest)} if rest else {})
    found |= {"frames": config.frames, "side": config.side, "prompt": config.prompt}
    if kind == "command":
        from .command import command_words

        words = command_words(rest)
        return found | {"command": words, "files": [_file_hash(word) for word in words]}
    return found | {"max_tokens": config.max_tokens, "weights": folder_identity(rest)}


def folder_identity(folder: str) -> str | None:
    """Return a hash of the files of a network by their names; None where there is no such folder.

    Files of up to SAMPLES * SAMPLE bytes count whole, larger ones by their size and so many parts of them.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        return None
    return text_hash([[path.relative_to(root).as_posix(), _sampled(path)] for path in files_below(root)])


@functools.lru_cache(maxsize=1)
def _opened(kind: str, place: str, settings: str, identity: str) -> Captioner:
    """Return a captioner that looks at clips, whose files have this hash."""
    config = CaptionConfig.model_validate_json(settings)
    if kind == "command":
        from .command import CommandCaptioner

        return CommandCaptioner(place, config)
    if kind == "vllm":
        from .vllm import VllmCaptioner

        return VllmCaptioner(Path(place), config)
    from .network import NetworkCaptioner

    return NetworkCaptioner(Path(place), config)


def _file_hash(path: str) -> str | None:
    """Return the hash of a file, None where there is none."""
    file = Path(path).expanduser()
    return known_sha256(file) if file.is_file() else None


def _sampled(path: Path) -> list[Any]:
    """Return the size of a file and a hash of parts of it: all of it where it is small, or from first to last bytes."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        if size <= SAMPLES * SAMPLE:
            digest.update(file.read())
        else:
            for i in range(SAMPLES):
                file.seek(i * (size - SAMPLE) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return [size, digest.hexdigest()]
