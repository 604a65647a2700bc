"""The duration of a film by its header, which fills units before anything is decoded."""

from contextlib import closing

import numpy as np
import pytest

from lavie.curation.scan.header import film_seconds
from lavie.data.prepare.sandbox import Sandbox
from lavie.errors import DataError
from tests.data.media.videos import encode

FRAMES = np.zeros((20, 32, 32, 3), np.uint8)


def test_durations_are_those_of_the_header(tmp_path):
    mp4 = encode(FRAMES)
    lying = bytearray(mp4)
    place = lying.index(b"mvhd") + 4 + 12  # version and flags, two times; then ticks per second, and the duration
    lying[place : place + 8] = (1).to_bytes(4) + (1 << 31).to_bytes(4)
    films = {
        "a.mp4": mp4,
        "b.webm": encode(FRAMES, "libvpx", container="webm"),
        "c.mp4": bytes(lying),
        "text.mp4": b"no film at all, but text",
        "half.mp4": mp4[: len(mp4) // 2],
    }
    for name, data in films.items():
        (tmp_path / name).write_bytes(data)
    with closing(Sandbox()) as sandbox:
        assert film_seconds(tmp_path / "a.mp4", sandbox) == pytest.approx(2.5, abs=0.01)
        assert film_seconds(tmp_path / "b.webm", sandbox) == pytest.approx(2.5, abs=0.2)
        assert film_seconds(tmp_path / "c.mp4", sandbox) in (None, pytest.approx(2.5, abs=0.01))
        for name in ("text.mp4", "half.mp4"):
            with pytest.raises(DataError):
                film_seconds(tmp_path / name, sandbox)
        with pytest.raises(OSError, match="No such file"):
            film_seconds(tmp_path / "none.mp4", sandbox)
        assert sandbox.starts == 1
