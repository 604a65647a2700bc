"""What a rank would run, as facts that JSON holds, and what differs between the facts of a run's ranks."""

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
from ..launcher import SHOWN, Place, list_some

PACKAGES = ("torch", "deepspeed", "triton", "transformers", "diffusers", "safetensors", "numpy", "av", "pillow")
"""The packages whose versions must agree."""
LISTED = 2000
"""Shards of a dataset that are listed one by one, with the start of each index; of more, only number and bytes."""
HEAD = 4096
"""Bytes at the start of an index that are compared: they hold the tar's size and fingerprint."""


def gather_facts(place: Place, config: TrainConfig, deepspeed_json: str | Path, waited: float = 0.0) -> dict[str, Any]:
    """Return what this rank would run, as a dict that JSON holds.

    Args:
        place: this rank's.
        config: the run's.
        deepspeed_json: the file given as --deepspeed.
        waited: seconds for which this rank looked for rank 0.

    Returns:
        rank, node, leads (whether it is the first rank of its node) and waited; environment, config and deepspeed, each
        a flat dict of values; and, from a leader, code (the hash of each source file) and shards (what
        `visible_shards` returns, by path), which are None from other ranks.
    """
    leads = place.local_rank == 0
    return {
        "rank": place.rank,
        "node": place.node,
        "leads": leads,
        "waited": waited,
        "environment": {
            "WORLD_SIZE": place.world_size,
            "Python": platform.python_version(),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            **package_versions(),
        },
        "config": _flat(config.model_dump(mode="json")),
        "deepspeed": _flat(_json(deepspeed_json)),
        "code": code_hashes() if leads else None,
        "shards": {path: visible_shards(path) for path in config.data.paths} if leads else None,
    }


def differences(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Compare the facts of a run's ranks, and return a message for each difference; none if all agree.

    A message names what differs, its values, the nodes that have each of them, and what to do.

    1. Environment, config and DeepSpeed's settings are compared over all ranks, key by key. A key that a rank lacks
       has the value "absent".
    2. Code and shards are compared over the first ranks of the nodes, which alone report them.

    Args:
        ranks: what `gather_facts` returned on each rank.
    """
    messages: list[str] = []
    for section, prefix, remedy in (
        ("environment", "", "install and start the run alike on every node"),
        ("config", "", "start every rank with the same config and overrides"),
        ("deepspeed", "--deepspeed: ", "start every rank with the same file"),
    ):
        for key in dict.fromkeys(key for facts in ranks for key in facts[section]):
            values = [str(facts[section].get(key, "absent")) for facts in ranks]
            distinct = list(dict.fromkeys(values))
            if len(distinct) > 1:
                groups = [f"{text} on {_nodes(ranks, values, text)}" for text in distinct[:SHOWN]]
                messages.append(f"{prefix}{key}: {'; '.join(groups)}: {remedy}")

    # Code and shards are the same for all ranks of a node, so only its leader told them.
    leaders = [facts for facts in ranks if facts["leads"]]
    if files := _unequal([facts["code"] for facts in leaders]):
        versions = [{name: facts["code"].get(name) for name in files} for facts in leaders]
        messages.append(
            f"code: {list_some(files)} differ: one version on {_nodes(leaders, versions, versions[0])}, "
            f"another on {_nodes(leaders, versions, versions[0], equal=False)}. Install the same checkout on every node"
        )
    for path in leaders[0]["shards"] if leaders else ():
        messages += _shard_differences(leaders, path)
    return messages


def code_hashes() -> dict[str, str]:
    """Return the first 12 digits of the SHA-256 of each source file of this package, and of train.py beside it."""
    package = Path(__file__).resolve().parents[1]
    files = {f"lavie/{path.relative_to(package).as_posix()}": path for path in package.rglob("*.py")}
    kernels = package / "kernels"  # a link in a checkout
    files |= {f"lavie/kernels/{path.relative_to(kernels).as_posix()}": path for path in kernels.rglob("*.py")}
    if (package.parent / "train.py").is_file():
        files["train.py"] = package.parent / "train.py"
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for name, path in sorted(files.items())}


def visible_shards(path: str) -> dict[str, Any]:
    """Return what this node sees of a folder of shards or of indices, or of a single tar.

    A dataset that is at fault on every node is the loader's to refuse.

    Returns:
        {"files": {name: fingerprint}}, where the fingerprint of a tar is its bytes, and that of an index its bytes and
        hashed start. Where there is nothing to compare file by file, {"what": text}: number and bytes of very many
        files, or why the path cannot be listed.
    """
    if "://" in path:
        return {"what": "remote"}
    place = Path(path)
    try:
        if place.is_file():
            found = [file for file in (place, index_path(place)) if file.exists()]
        elif place.is_dir():
            with os.scandir(place) as entries:
                found = [Path(entry.path) for entry in entries if entry.name.endswith((".tar", SUFFIX))]
        else:
            return {"what": "absent"}
        if len(found) > 2 * LISTED:
            return {"what": f"{len(found)} files of {sum(file.stat().st_size for file in found)} bytes"}

        # An index in a folder of indices names its tar, which lies elsewhere.
        fingerprints = {file.name: _fingerprint(file) for file in sorted(found)}
        for file in found:
            if file.name.endswith(SUFFIX) and (tar := read_header(file).tar):
                fingerprints[tar] = _fingerprint(Path(tar)) if Path(tar).exists() else "absent"
        return {"files": fingerprints}
    except OSError as error:
        return {"what": f"unreadable ({error.strerror})"}
    except DataError as error:
        return {"what": f"damaged ({error})"}


def _shard_differences(leaders: Sequence[Mapping[str, Any]], path: str) -> list[str]:
    """Return a message if the leaders see other shards at `path`, else nothing.

    A leader whose config lacks the path is left out: that the configs differ has a message of its own.
    """
    seeing = [facts for facts in leaders if path in facts["shards"]]
    views = [facts["shards"][path] for facts in seeing]
    if all(view == views[0] for view in views):
        return []
    if all("files" in view for view in views):
        names = _unequal([view["files"] for view in views])
        shown = []
        for facts, view in zip(seeing, views, strict=True):
            absent = [name for name in names if name not in view["files"]]
            without = f" without {list_some(absent)}" if absent else ""
            shown.append(f"{len(view['files'])} files on {facts['node']}{without}")
        what = f"{list_some(names)} differ: {'; '.join(shown[:SHOWN])}"
    else:
        texts = [view.get("what", f"{len(view.get('files', ()))} files") for view in views]
        what = "; ".join(f"{text} on {_nodes(seeing, texts, text)}" for text in dict.fromkeys(texts))
    return [f"data {path}: {what}. Mount or copy the same shards on every node"]


def _unequal(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names whose values differ between some tables, or are missing in one, sorted."""
    names = sorted({name for table in tables for name in table})
    return [name for name in names if any(table.get(name) != tables[0].get(name) for table in tables)]


def _nodes(ranks: Sequence[Mapping[str, Any]], values: Sequence[Any], wanted: Any, equal: bool = True) -> str:
    """Return the nodes of the ranks whose value equals `wanted`, or does not, with the first such rank of each.

    Args:
        ranks: the facts of some ranks.
        values: a value of each of these ranks.
        wanted: what the values are compared with.
        equal: whether the nodes wanted are those with this value, or those with another.
    """
    chosen: dict[str, int] = {}
    for facts, value in zip(ranks, values, strict=True):
        if (value == wanted) == equal:
            chosen.setdefault(facts["node"], facts["rank"])
    return list_some([f"{node} (rank {first})" for node, first in chosen.items()])


def package_versions() -> dict[str, str | None]:
    """Return the versions of PACKAGES, None for those that are not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _json(path: str | Path) -> Any:
    """Return what a JSON file holds, or why it cannot be read, in a dict."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        return {"file": f"unreadable ({type(error).__name__})"}


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    if not isinstance(values, Mapping):
        return {prefix or "value": values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _fingerprint(path: Path) -> str:
    """Return the size of a tar in bytes, or the size of an index with the hash of its start."""
    size = path.stat().st_size
    if path.suffix == ".tar":
        return f"{size} bytes"
    with open(path, "rb") as file:
        return f"{size} bytes {hashlib.sha256(file.read(HEAD)).hexdigest()[:12]}"
