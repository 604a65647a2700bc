"""The place of a rank and its facts, for the tests in this folder."""

from pathlib import Path

from lavie.cluster.rank_facts import gather_facts
from lavie.config.load import load_config
from lavie.launcher import Place

ROOT = Path(__file__).resolve().parents[2]
ZERO3 = ROOT / "configs/zero3.json"


def place(rank: int, port: int, world_size: int = 2, **changes) -> Place:
    """Return the place of a rank on a node of its own, on this machine."""
    values = dict(rank=rank, world_size=world_size, local_rank=0, address="127.0.0.1", port=port, hosted=False)
    return Place(**{**values, "node": f"node{rank}", **changes})


def facts_of(place: Place, folder: Path, *overrides: str, settings: Path = ZERO3) -> dict:
    """Return the facts of a rank that would train the smoke run on the set in `folder`."""
    config = load_config(
        ROOT / "configs/smoke/base.yaml", [f"data.train={folder}/train", "data.validation=[]", *overrides]
    )
    return gather_facts(place, config, settings)
