"""The base class of every section of the configuration, and types that several sections use."""

import os.path
import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A section of the configuration: frozen, and closed to unknown keys."""

    input_keys: ClassVar[dict[str, str]] = {}
    """Keys that a file may give and that become values of other keys, each with what it means."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0)]
"""A number above 0."""


def _expanded(path: str) -> str:
    """Return a path with the home folder in place of a leading ~; ValueError for an empty path or an unknown user."""
    if not path.strip():
        raise ValueError(f"wanted a path, got {'blanks' if path else 'nothing'}")
    full = os.path.expanduser(path)
    if full.startswith("~"):
        raise ValueError(f"there is no user {full.partition('/')[0]}: write ./{full} for a folder of that name")
    return full


def means_none(path: str) -> bool:
    """Return whether a path is a word by which somebody means that there is none."""
    return path.lower() in ("none", "false", "off", "no", "0")


def _not_off(path: str) -> str:
    """Return a path; ValueError for a word by which somebody means that there is none."""
    if means_none(path):
        raise ValueError(f"{path} would be a path: null stands for none, and ./{path} for a file of that name")
    return path


def _local(path: str) -> str:
    """Return a path; ValueError for a URL, which would be the name of a local folder, and for what no path can hold."""
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", path):
        raise ValueError(f"a URL of {scheme[1]}: wanted a path: copy it to a disk, or mount it there")
    if "\0" in path:
        raise ValueError("wanted a path, and this text has a NUL character")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"its bytes are no UTF-8, in which configs are kept: rename {path!a}, or link to it") from None
    return path


PathText = Annotated[str, AfterValidator(_expanded)]
"""The path of a file or folder, or its URL where the key says so; a leading ~ is the home folder."""
LocalPath = Annotated[str, AfterValidator(_local), AfterValidator(_expanded)]
"""The path of a file or folder on this machine or one that it mounts; a leading ~ is the home folder."""
OptionalPath = Annotated[str, AfterValidator(_not_off), AfterValidator(_local), AfterValidator(_expanded)] | None
"""The same, or null for none."""
