"""Make a dataset of clips that lie where `lavie data pack` cannot look: here, in an SQLite database.

    python examples/own_source.py clips.db data/from_database --fps 8

The database has a table `clips` of (title, caption, media), media being the bytes of a file as it came. Whatever can
give bytes and a caption is a source in the same way: a bucket, a web service, a program that renders.
"""

import argparse
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.data.shards.index import load_index


def read_media(database: Path, row: int) -> bytes:
    """Return the bytes of a clip. It is called when the clip's turn has come, so one clip is in memory at a time."""
    connection = sqlite3.connect(database)
    try:
        (media,) = connection.execute("SELECT media FROM clips WHERE rowid = ?", (row,)).fetchone()
    finally:
        connection.close()
    return media


def database_source(database: Path) -> Iterator[CaptionedFile]:
    """Yield the clips of a database, always in the same order: then a dataset that is made again is the same."""
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute("SELECT rowid, title, caption FROM clips ORDER BY rowid").fetchall()
    finally:
        connection.close()
    for row, title, caption in rows:
        yield CaptionedFile(
            name=f"{database}, {title!r}",  # what messages call it
            stem=title,  # what its key in the shard is made of
            load=partial(read_media, database, row),
            caption=caption,
        )


def main() -> None:
    """Pack the clips, and look at what training will find."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--num-frames", type=int, default=16, help="frames of a training clip: shorter ones are left out"
    )
    parser.add_argument("--fps", type=float, help="frames a second of training clips; default: every second frame")
    given = parser.parse_args()

    # Every clip is decoded once, in a process that can do no harm: nothing that cannot be read comes into a shard.
    report = pack_files(database_source(given.database), given.out, num_frames=given.num_frames, fps=given.fps)
    for item in report.rejected:
        print(f"left out: {item.name}: {item.reason}. {item.detail}")

    index = load_index([str(given.out)])
    for sample in index.videos:
        print(f"{sample.frames} frames of {sample.height} x {sample.width}: {sample.caption}")
    print(f"{report.videos} clips in {given.out}: name it in data.train of a config")


if __name__ == "__main__":
    main()
