"""The stage `scan`: facts of each film, and the values of its frames."""

from contextlib import closing
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ...config.curate_scan import ScanConfig
from ...data.prepare.sandbox import Sandbox
from ...data.shards.index_file import Rejected
from ...errors import ConfigError, DataError
from ...files import sha256_of
from ..stage import Done, Stage
from ..table import save_arrays
from ..unit import Unit
from .film import prepare, scan_film

FROZEN = 0.3
"""A step whose mean luma difference is below this, of 255, shows the same picture again."""

COLUMNS = {
    "film": "string",
    "category": "string",
    "sha256": "string",
    "bytes": "int64",
    "stream": "int32",
    "other_streams": "list<string>",
    "codec": "string",
    "pix_fmt": "string",
    "bit_depth": "int32",
    "transfer": "string",
    "width": "int32",
    "height": "int32",
    "stored_width": "int32",
    "stored_height": "int32",
    "turn": "list<int32>",
    "pixel_aspect": "double",
    "fps": "double",
    "vfr": "bool",
    "frames": "int32",
    "duration": "double",
    "time_base": "list<int32>",
    "interlaced": "int32",
    "audio": "bool",
    "notes": "list<string>",
    "crop": "list<int32>",
    "luma": "float",
    "frozen": "float",
}
"""One row for each film that decodes. `category` is the first folder of its path; width, height and crop (x, y, w, h
of what lies within black bars) are in pixels as shown."""


def work(unit: Unit, config: ScanConfig) -> Done:
    """Scan the films of a unit; one that cannot be read is refused by name."""
    try:
        import cv2  # noqa: F401
    except ImportError:
        raise ConfigError("lavie curate scan needs OpenCV: pip install 'lavie[curate]'") from None
    rows: list[dict[str, Any]] = []
    arrays: dict[str, dict[str, np.ndarray]] = {}
    rejected = []
    with closing(Sandbox(prepare=prepare)) as sandbox:
        for film in unit.films:
            path = unit.src / film.film
            try:
                facts, values = scan_film(path, sandbox)
                sha256 = sha256_of(path)
            except (DataError, OSError) as error:
                rejected.append(Rejected(film.film, "cannot be read", str(error)))
                continue
            folders = PurePosixPath(film.film).parts[:-1]
            steps = values["step"][1:]
            facts |= {"film": film.film, "category": folders[0] if folders else None, "sha256": sha256}
            facts |= {"bytes": film.bytes, "luma": float(values["luma"].mean(dtype=np.float64))}
            facts["frozen"] = float((steps < FROZEN).mean()) if len(steps) else 0.0
            rows.append(facts)
            arrays[film.film] = values
    save_arrays(unit.partial("frames"), arrays)
    return Done({name: [row[name] for row in rows] for name in COLUMNS}, rejected)


SCAN = Stage("scan", 2, ("films",), ScanConfig, COLUMNS, work=work, side=("frames",))
