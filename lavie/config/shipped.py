"""The configs that come with the package, which are found by name where no file of that name exists."""

import difflib
from pathlib import Path

from ..errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[1] / "configs"
"""The folder of YAML and DeepSpeed JSON: configs/ of a checkout, and a part of an installed package."""


def shipped_names() -> list[str]:
    """Return the names of the configs that come with the package, as "base.yaml", "smoke/base.yaml", "zero3.json"."""
    found = [path for path in SHIPPED.rglob("*") if path.suffix in (".yaml", ".json")]
    return sorted((str(path.relative_to(SHIPPED)) for path in found), key=lambda name: ("/" in name, name))


def find_config(name: str | Path, flag: str = "config") -> Path:
    """Return `name` if there is such a file, else the shipped config of that name.

    That is found with or without configs/ before its name and .yaml or .json behind it.

    Args:
        name: the path of a file, or a name of `shipped_names`.
        flag: what the path is called in messages, as "--deepspeed".

    Raises:
        ConfigError: there is neither; the message names the nearest shipped one.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{flag} {name}: is a folder, wanted a file")
    names = shipped_names()
    asked = str(name).removeprefix("./").removeprefix("configs/")
    found = [known for known in names if asked in (known, known.rpartition(".")[0])]
    if found:
        return SHIPPED / found[0]
    near = difflib.get_close_matches(asked, names, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else "`lavie config list` names those"
    raise ConfigError(f"{flag} {name}: cannot be read: no such file here, and none is shipped; {hint}")
