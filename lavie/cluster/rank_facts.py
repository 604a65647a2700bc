"""What a rank would run, as a card of JSON, and what differs between the cards of a run's ranks."""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..config.train import TrainConfig
from ..data.shards.index_file import SUFFIX, index_path, read_header
from ..errors import DataError
from ..launcher import Place

PACKAGES = ("torch", "deepspeed", "triton", "transformers", "diffusers", "safetensors", "numpy", "av", "pillow")
"""Whose versions must agree."""
LISTED = 2000
"""Shards of a dataset that a card lists one by one, with the start of each index; of more, number and bytes."""
HEAD = 4096
"""Bytes of an index that are compared: its header has the tar's size and fingerprint."""
SHOWN = 4
"""Nodes or names that a message lists."""


def make_card(place: Place, config: TrainConfig, deepspeed_json: str | Path, waited: float = 0.0) -> dict[str, Any]:
    """What this rank would run, as JSON. `waited` is how long it looked for rank 0, in seconds."""
    leads = place.local_rank == 0
    return dict(
        rank=place.rank,
        node=place.node,
        leads=leads,
        waited=waited,
        facts={
            "WORLD_SIZE": place.world_size,
            "Python": platform.python_version(),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            **{name: _version(name) for name in PACKAGES},
        },
        config=_flat(config.model_dump(mode="json")),
        deepspeed=_flat(_json(deepspeed_json)),
        code=code_hashes() if leads else None,
        shards={path: visible_shards(path) for path in _paths(config)} if leads else None,
    )


def compare(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs between the cards of some ranks: a message each, with the nodes and what to do."""
    found: list[str] = []
    for section, prefix, remedy in (
        ("facts", "", "install and start the run alike on every node"),
        ("config", "", "start every rank with the same config and overrides"),
        ("deepspeed", "--deepspeed: ", "start every rank with the same file"),
    ):
        for key in dict.fromkeys(key for card in cards for key in card[section]):
            values = [str(card[section].get(key, "absent")) for card in cards]
            distinct = list(dict.fromkeys(values))
            if len(distinct) > 1:
                groups = [f"{text} on {_nodes(cards, values, text)}" for text in distinct[:SHOWN]]
                found.append(f"{prefix}{key}: {'; '.join(groups)}: {remedy}")
    leaders = [card for card in cards if card["leads"]]
    if files := _unequal([card["code"] for card in leaders]):
        versions = [{name: card["code"].get(name) for name in files} for card in leaders]
        found.append(
            f"code: {some(files)} differ: one version on {_nodes(leaders, versions, versions[0])}, "
            f"another on {_nodes(leaders, versions, versions[0], equal=False)}. Install the same checkout on every node"
        )
    for path in leaders[0]["shards"] if leaders else ():
        found += _shard_differences(leaders, path)
    return found


def code_hashes() -> dict[str, str]:
    """The first 12 digits of the SHA-256 of each source file of this package, and of train.py beside it."""
    package = Path(__file__).resolve().parents[1]
    files = {f"lavie/{path.relative_to(package).as_posix()}": path for path in package.rglob("*.py")}
    kernels = package / "kernels"  # a link in a checkout
    files |= {f"lavie/kernels/{path.relative_to(kernels).as_posix()}": path for path in kernels.rglob("*.py")}
    if (package.parent / "train.py").is_file():
        files["train.py"] = package.parent / "train.py"
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for name, path in sorted(files.items())}


def visible_shards(path: str) -> dict[str, Any]:
    """What this node sees of a folder of shards or of indices, or of a single tar.

    `files` has the bytes of each tar and the bytes and hashed start of each index, by name; of very many files, `what`
    tells number and bytes, and of a path that cannot be listed, why. The loader has the errors of a dataset that is at
    fault everywhere.
    """
    if "://" in path:
        return {"what": "remote"}
    place = Path(path)
    try:
        if place.is_file():
            found = [p for p in (place, index_path(place)) if p.exists()]
        elif place.is_dir():
            with os.scandir(place) as entries:
                found = [Path(entry.path) for entry in entries if entry.name.endswith((".tar", SUFFIX))]
        else:
            return {"what": "absent"}
        if len(found) > 2 * LISTED:
            return {"what": f"{len(found)} files of {sum(p.stat().st_size for p in found)} bytes"}
        files = {p.name: _fingerprint(p) for p in sorted(found)}
        for p in found:
            if p.name.endswith(SUFFIX) and (tar := read_header(p).tar):
                files[tar] = _fingerprint(Path(tar)) if Path(tar).exists() else "absent"
        return {"files": files}
    except OSError as error:
        return {"what": f"unreadable ({error.strerror})"}
    except DataError as error:
        return {"what": f"damaged ({error})"}


def _shard_differences(leaders: Sequence[Mapping[str, Any]], path: str) -> list[str]:
    views = [card["shards"].get(path) for card in leaders]  # another config may lack the path, which is told already
    present = [view for view in views if view is not None]
    if all(view == present[0] for view in present):
        return []
    if all("files" in view for view in present):
        names = _unequal([view["files"] for view in present])
        shown = []
        for card, view in zip(leaders, views, strict=True):
            if view is not None:
                lost = [name for name in names if name not in view["files"]]
                shown.append(
                    f"{len(view['files'])} files on {card['node']}" + (f" without {some(lost)}" if lost else "")
                )
        what = f"{some(names)} differ: {'; '.join(shown[:SHOWN])}"
    else:
        told = [view.get("what", f"{len(view.get('files', ()))} files") for view in present]
        what = "; ".join(
            f"{text} on {_nodes([c for c, v in zip(leaders, views, strict=True) if v is not None], told, text)}"
            for text in dict.fromkeys(told)
        )
    return [f"data {path}: {what}. Mount or copy the same shards on every node"]


def _unequal(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose values differ between some tables, or are missing in one."""
    names = sorted({name for table in tables for name in table})
    return [name for name in names if any(table.get(name) != tables[0].get(name) for table in tables)]


def _nodes(cards: Sequence[Mapping[str, Any]], values: Sequence[Any], wanted: Any, equal: bool = True) -> str:
    """The nodes whose value is, or is not, the wanted one, with the first rank of each."""
    chosen: dict[str, int] = {}
    for card, value in zip(cards, values, strict=True):
        if (value == wanted) == equal:
            chosen.setdefault(card["node"], card["rank"])
    return some([f"{node} (rank {first})" for node, first in chosen.items()])


def some(names: Sequence[str]) -> str:
    """The first SHOWN of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def name_ranks(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 8 to 15`, or some ranks of several."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return "ranks " + some([str(r) for r in ranks])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        return {"file": f"unreadable ({type(error).__name__})"}


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(values, Mapping):
        return {prefix or "value": values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _paths(config: TrainConfig) -> list[str]:
    """The datasets of a run."""
    train = [path for entry in config.data.train for path in ((entry,) if isinstance(entry, str) else entry.path)]
    return list(dict.fromkeys([*train, *config.data.validation]))


def _fingerprint(path: Path) -> str:
    size = path.stat().st_size
    if path.suffix == ".tar":
        return f"{size} bytes"
    with open(path, "rb") as file:
        return f"{size} bytes {hashlib.sha256(file.read(HEAD)).hexdigest()[:12]}"
