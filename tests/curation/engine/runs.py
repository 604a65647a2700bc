"""Runs of the toy stages by an engine of the user's choice, and how their results are compared."""

import sys
from pathlib import Path

from lavie.config.curate_engine import EngineConfig
from lavie.curation.engine.choice import open_engine
from lavie.curation.films import list_films
from lavie.curation.run import run_stage
from tests.curation.toy import STAGES, ToyConfig, films

UNIT = 3.0
"""Seconds of film in a unit, by their size: each toy film gets one of its own."""
NAMES = tuple("abcdefghijklmnopqrst")


def listed(folder: Path) -> Path:
    """Make twenty toy films and list them; return the folder of the curation."""
    src = films(folder / "films", NAMES, 1_000_000)
    list_films(src, folder / "out", lambda path: None, UNIT)
    return folder / "out"


def run_all(out: Path, config: EngineConfig, pause: float = 0.0) -> None:
    """Bring all toy stages up to date, by an engine that is opened for them."""
    with open_engine(config) as engine:
        if engine is not None:
            for place in STAGES:
                report = run_stage(out, place, ToyConfig(pause=pause), engine)
                assert not report.failed, report.failed


def contents(out: Path) -> dict[str, bytes]:
    """Return what a curation holds, by the files' names; not its list of films, which tells when they were written."""
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    return {name: data for name, data in found.items() if name != "films.parquet"}


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), EngineConfig(engine=sys.argv[2]))
