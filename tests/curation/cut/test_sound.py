"""The sound of clips: packets of the film's sound that begin within them, at their times."""

import io

import av
import numpy as np
import pytest

from tests.curation.cut.films import Curated, film, shots

pytest.importorskip("cv2")
FRAMES = shots()
CLOSED = {"x264_params": "keyint=20:min-keyint=20:scenecut=0:bframes=0"}
EVEN = {"g": "20", "keyint_min": "20", "deadline": "realtime"}


def packets(data: bytes, kind: str) -> list[tuple[float, bytes]]:
    """Return when each packet of a kind is shown, in seconds, and what it holds."""
    with av.open(io.BytesIO(data)) as container:
        if not getattr(container.streams, kind):
            return []
        stream = getattr(container.streams, kind)[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    films = {
        "aac.mp4": film(FRAMES, sound="aac", **CLOSED),
        "opus.webm": film(FRAMES, "libvpx", "webm", sound="libopus", **EVEN),
        "pcm.avi": film(FRAMES, "mpeg4", "avi", sound="pcm_s16le"),
        "aac.mkv": film(FRAMES, "libvpx", "matroska", sound="aac", **EVEN),
        "silent.mp4": film(FRAMES, **CLOSED),
    }
    return Curated(tmp_path_factory.mktemp("sound"), films, keep_audio=True)


@pytest.mark.parametrize("name", ("aac.mp4", "opus.webm"))
def test_clips_hold_the_sound_of_their_time(made, name):
    film_sound = packets((made.src / name).read_bytes(), "audio")
    rows = made.of(name)
    assert [row["method"] for row in rows] == ["copy", "copy", "copy", "encode"]
    for row in rows:
        assert row["audio"] and not any("sound" in note for note in row["notes"])
        wanted = [(time, data) for time, data in film_sound if row["t0"] <= time < row["t1"]]
        found = packets(made.data(row), "audio")
        assert [data for _, data in found] == [data for _, data in wanted] and len(found) > 20
        offsets = np.array([time for time, _ in found]) - [time - row["t0"] for time, _ in wanted]
        assert np.abs(offsets).max() <= 0.003
        assert len(packets(made.data(row), "video")) == row["frames"]


def test_what_a_container_does_not_take_is_told(made):
    for row in made.of("aac.mkv")[:3]:
        assert row["method"] == "copy" and not row["audio"]
        assert row["notes"][-1].startswith("its sound, aac, is left out: webm does not take it")
    assert made.of("aac.mkv")[3]["audio"]  # encoded, in an mp4
    assert not any(row["audio"] or "sound" in str(row["notes"]) for row in made.of("silent.mp4"))


def test_pictures_are_those_of_clips_without_sound(made):
    sounding = {row["clip"]: [data for _, data in packets(made.data(row), "video")] for row in made.rows}
    made.cut(keep_audio=False)
    assert not any(row["audio"] or packets(made.data(row), "audio") for row in made.rows)
    assert {row["clip"]: [data for _, data in packets(made.data(row), "video")] for row in made.rows} == sounding
