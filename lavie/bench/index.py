"""Measure what a table of many samples costs: `python -m lavie.bench.index [ROWS] [READS]`.

Writes a table of made-up samples (25 million, about 4 GB, by default) to a temporary folder, reads samples at random
positions, selects by a column, and prints times and the peak of the memory that is resident.
"""

import resource
import sys
import time
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory

import numpy as np

from ..data.shards.index import Index
from ..data.shards.table import ROW_DTYPE, Table, TableWriter

IMAGES = 5
"""One sample in so many is an image."""
CHUNK = 1 << 18
"""Rows that are written at once."""
TEXT = b"%09d-clip" + b"a caption of the usual length, as WebVid has them: a dog runs on a beach"


def write(path: Path, rows: int) -> None:
    """Write a table of `rows` made-up samples in shards of 5000."""
    # Every number of a row follows from its position, so that a reader can check what it finds.
    images = rows // IMAGES
    rng = np.random.default_rng(0)

    with open(path, "wb") as file:
        writer = TableWriter(file, rows - images, images)
        codecs = {"video": writer.code(writer.codecs, "h264"), "image": writer.code(writer.codecs, "jpg")}
        names = {"video": writer.code(writer.extensions, "mp4"), "image": writer.code(writer.extensions, "jpg")}

        # Rows are made in chunks, as all of them fill gigabytes: videos first, then images, the order of a table.
        for kind, first, end in (("video", 0, rows - images), ("image", rows - images, rows)):
            for start in range(first, end, CHUNK):
                n = min(CHUNK, end - start)
                numbers = start + np.arange(n)
                chunk = np.zeros(n, ROW_DTYPE)
                chunk["shard"], chunk["size"] = numbers // 5000, 1 << 20
                chunk["offset"] = (numbers % 5000) << 20
                chunk["frames"] = rng.integers(16, 300, n) if kind == "video" else 1
                chunk["fps"] = 30 if kind == "video" else np.nan
                chunk["width"], chunk["height"] = rng.choice([640, 1280, 1920], n), 360
                chunk["codec"], chunk["extension"] = codecs[kind], names[kind]
                length = len(TEXT % 0)
                chunk["text"], chunk["key_bytes"] = length * np.arange(n), 14
                chunk["caption_bytes"] = length - 14
                writer.add(kind, chunk, b"".join([TEXT % i for i in numbers]))

        writer.close([f"{i:05d}.tar" for i in range(-(-rows // 5000))], None)


def read(path: Path, rows: int, reads: int) -> None:
    """Open the table, read samples at random positions and select by a column; print the times and the memory."""
    before = _peak()
    begin = time.perf_counter()
    table = Table(path, path.parent)
    index = Index.of_tables([table])
    opened = time.perf_counter()
    for i in np.random.default_rng(1).integers(rows, size=reads):
        assert int(index[i].key[:9]) == i
    done = time.perf_counter()
    print(f"{rows} rows, {path.stat().st_size / 2**30:.2f} GiB: opened in {1e3 * (opened - begin):.1f} ms", flush=True)
    print(f"{reads} random samples: {1e6 * (done - opened) / reads:.1f} us each, peak +{_peak() - before:.0f} MiB")

    # A selection is a view of the table: it costs its row numbers.
    wide = index.videos.where(index.videos.column("width") >= 1280)
    chosen = time.perf_counter()
    for i in np.random.default_rng(2).integers(len(wide), size=reads // 10):
        assert wide[i].width >= 1280
    print(f"{len(wide)} videos selected in {chosen - done:.2f} s, read at {reads // 10} positions")
    print(f"peak resident: {_peak():.0f} MiB, of which {before:.0f} MiB before the table was opened", flush=True)


def _peak() -> float:
    """Return the most memory that this process has had resident, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(rows: int = 25_000_000, reads: int = 1_000_000) -> None:
    """Write a table to a temporary folder and read it in another process."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "index.table"
        begin = time.perf_counter()
        write(path, rows)
        print(f"written in {time.perf_counter() - begin:.1f} s", flush=True)
        # Another process: the peak of this one includes the writing.
        code = "import sys; from pathlib import Path; from lavie.bench.index import read; "
        code += "read(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
        run([sys.executable, "-c", code, str(path), str(rows), str(reads)], check=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
