"""The clips of one film: what is damaged, lost or led astray costs itself only; real films; settings."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lavie.curation.cut.film import cut_film, small_frames
from lavie.curation.cut.shots import Shot
from lavie.data.media.decode import read_frames
from lavie.errors import DataError
from lavie.testing import SHARED
from tests.curation.cut.films import ENDS, STARTS, Curated, decoded, film, scanned, shots
from tests.curation.cut.labels import TEARS
from tests.markers import requires_shared

pytest.importorskip("cv2")
CLIPS = SHARED / "assets/videos"
FRAMES = shots()
CLOSED = {"x264_params": "keyint=20:min-keyint=20:scenecut=0:bframes=0"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two films that are nothing special."""
    films = {"cats/a.mp4": film(FRAMES, **CLOSED), "b.mp4": film(shots(seed=1), **CLOSED)}
    return Curated(tmp_path_factory.mktemp("plain"), films)


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_same_films_give_the_same_bytes(plain, tmp_path):
    films = {name: (plain.src / name).read_bytes() for name in ("cats/a.mp4", "b.mp4")}
    again = contents(Curated(tmp_path, films).out)
    first = contents(plain.out)
    assert again.keys() == first.keys()
    times_of_writing = {"films.parquet", "table/scan/000000.parquet"}
    assert {name for name in again if again[name] != first[name]} <= times_of_writing
    assert [(row["film"], row["category"]) for row in plain.rows[::4]] == [("b.mp4", None), ("cats/a.mp4", "cats")]


def test_settings_decide_what_is_a_clip(plain, tmp_path):
    films = {"a.mp4": film(FRAMES, **CLOSED)}
    made = Curated(tmp_path, films, min_frames=20)
    assert [row["start"] for row in made.rows] == [0, 20, 40]
    (short,) = made.rejected()
    assert short == {
        "name": "a.mp4 frames 65 to 83",
        "reason": "too short",
        "detail": "19 frames: wanted cut.min_frames, 20",
    }
    made.cut(max_seconds=0.5)
    spans = [(row["start"], row["end"]) for row in made.rows]
    assert {end - start for start, end in spans} <= {9, 10, 12, 13} or spans == []
    made.cut(max_seconds=0.5, min_frames=1)
    spans = [(row["start"], row["end"]) for row in made.rows]
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]] and spans[-1][1] == 84
    assert set(STARTS) <= {start for start, _ in spans} and max(row["duration"] for row in made.rows) <= 0.51
    before = contents(made.out)
    made.cut(max_seconds=0.5, min_frames=1)
    assert contents(made.out) == before


def test_bad_films_are_named_and_the_others_are_as_without_them(plain, tmp_path):
    good = {name: (plain.src / name).read_bytes() for name in ("cats/a.mp4", "b.mp4")}
    webm = film(FRAMES, "libvpx", "webm", deadline="realtime")
    bad = {
        "empty.mp4": b"",
        "text.mp4": b"#EXTM3U\n",
        "truncated.mp4": good["b.mp4"][:-900],
        "truncated.webm": webm[: len(webm) // 2],
        "bomb.mp4": film(np.zeros((1, 8192, 4104, 3), np.uint8), preset="ultrafast"),
    }
    mixed = Curated(tmp_path, good | bad)
    assert sorted(item["name"] for item in mixed.rejected("scan")) == sorted(bad)
    assert mixed.rejected() == [] and mixed.rows == plain.rows
    assert (mixed.out / "clips/000000.tar").read_bytes() == (plain.out / "clips/000000.tar").read_bytes()


def test_a_film_that_changed_since_it_was_scanned_is_no_film(tmp_path):
    names = ("changed.mp4", "gone.mp4", "good.mp4", "longer.mp4", "other.mp4")
    made = Curated(tmp_path, {name: film(FRAMES, **CLOSED) for name in names})
    (made.src / "gone.mp4").unlink()
    (made.src / "longer.mp4").write_bytes(film(FRAMES, **CLOSED) + b"\0" * 8)
    other = film(FRAMES[::-1], **CLOSED)
    size = (made.src / "other.mp4").stat().st_size
    (made.src / "other.mp4").write_bytes(other[:size].ljust(size, b"\0"))
    damaged = bytearray((made.src / "changed.mp4").read_bytes())
    place = damaged.index(b"mdat") + 6000
    damaged[place : place + 40] = bytes(40)
    (made.src / "changed.mp4").write_bytes(bytes(damaged))
    good = made.of("good.mp4")

    made.cut(min_frames=17)
    assert [row | {"offset": 0} for row in made.of("good.mp4")] == [row | {"offset": 0} for row in good]
    told = {}
    for item in made.rejected():
        assert item["reason"] == "cannot be cut"
        told.setdefault(item["name"].split(" ")[0], []).append(item["detail"])
    assert told.keys() == {"changed.mp4", "gone.mp4", "longer.mp4", "other.mp4"}
    assert told["gone.mp4"] == ["it cannot be opened: No such file or directory"] * 4
    assert all("bytes, and had" in detail for detail in told["longer.mp4"]) and len(told["longer.mp4"]) == 4
    assert len(told["other.mp4"]) + len(made.of("other.mp4")) == 4 and told["other.mp4"]
    assert len(told["changed.mp4"]) + len(made.of("changed.mp4")) == 4
    assert 1 <= len(made.of("changed.mp4")) < 4  # what is still exact is still made


class DyingSandbox:
    """A sandbox whose child dies at some clips, by their place, and is started anew."""

    def __init__(self, dies_at: set[int]) -> None:
        self.dies_at = dies_at
        self.calls = 0

    def stream(self, function, file, facts, clips, seconds):
        self.calls += 1
        for part in function(file, facts, json.loads(json.dumps(clips))):
            if isinstance(part, dict) and part.get("at") in self.dies_at:
                yield part
                raise DataError("the decoder crashed with SIGSEGV")
            yield part


def test_a_clip_that_kills_its_child_costs_itself_only(plain):
    facts, arrays = scanned(plain, "b.mp4")
    spans = [Shot(*span) for span in zip(STARTS, ENDS, strict=True)]
    sandbox = DyingSandbox({1, 3})
    clips = {clip.place: clip for clip in cut_film(plain.src / "b.mp4", sandbox, facts, arrays, spans)}
    assert {place: clip.error for place, clip in clips.items()} == {
        0: "",
        1: "the decoder crashed with SIGSEGV",
        2: "",
        3: "the decoder crashed with SIGSEGV",
    }
    assert sandbox.calls == 2
    assert clips[0].data == plain.data(plain.of("b.mp4")[0]) and clips[2].data == plain.data(plain.of("b.mp4")[2])


def test_a_film_on_which_the_child_dies_at_once_is_lost_alone(plain):
    class Dead:
        def stream(self, *_, **__):
            raise DataError("the decoder crashed with SIGSEGV")

    facts, arrays = scanned(plain, "b.mp4")
    clips = list(cut_film(plain.src / "b.mp4", Dead(), facts, arrays, [Shot(0, 20), Shot(20, 40)]))
    assert [(clip.place, clip.data) for clip in clips] == [(0, b""), (1, b"")]
    assert all(clip.error for clip in clips)


def test_small_pictures_of_every_frame():
    parts = list(small_frames(io.BytesIO(film(np.concatenate([FRAMES] * 2))), 48, 27))
    assert [part.shape for part in parts] == [(64, 27, 48, 3), (64, 27, 48, 3), (40, 27, 48, 3)]
    means = np.concatenate(parts).mean((1, 2))
    np.testing.assert_allclose(means, np.concatenate([FRAMES] * 2).mean((1, 2)), atol=4)


@requires_shared
@pytest.mark.slow
def test_real_films(tmp_path_factory):
    """Of the 26 shots of tears_of_steel 23 are copied, and hold no frame of another shot."""
    names = ("tears_of_steel.webm", "nasa_13013.mp4", "frog.mp4")
    made = Curated(tmp_path_factory.mktemp("real"), {name: CLIPS / name for name in names}, min_frames=1)
    rows = made.of("tears_of_steel.webm")
    assert [(row["start"], row["end"]) for row in rows] == list(zip([0, *TEARS], [*TEARS, 1691], strict=True))
    assert Counter(row["method"] for row in rows) == {"copy": 23, "encode": 3}
    for name in names[:2]:
        source = (CLIPS / name).read_bytes()
        stored = decoded(source)
        for row in made.of(name):
            span, data = range(row["start"], row["end"]), made.data(row)
            frames = decoded(data)
            assert len(frames) == len(span)
            pairs = list(zip(frames, stored[row["start"] : row["end"]], strict=True))
            if row["method"] == "copy":
                assert all(np.array_equal(a, b) for frame, wanted in pairs for a, b in zip(frame, wanted, strict=True))
            else:
                errors = [np.square(frame[0].astype(np.int32) - wanted[0]).mean() for frame, wanted in pairs]
                assert 10 * np.log10(255**2 / np.mean(errors)) >= 40
    (frog,) = made.of("frog.mp4")
    assert frog["crop"] == [8, 0, 704, 480] and frog["why"] == ["black bars"] and frog["frames"] == 248
    first = next(iter(read_frames((CLIPS / "frog.mp4").read_bytes(), [0])))[:, 8:712].astype(float)
    shown = next(iter(read_frames(made.data(frog), [0])))
    assert np.square(shown - first).mean() < 255**2 / 10**3.6
