"""The stage cut, on films in many codecs whose cuts are known: clips hold the frames of their shots, no others."""

import hashlib
import io
import tarfile
from fractions import Fraction

import av
import numpy as np
import pytest

from lavie.data.media.decode import probe, read_frames
from lavie.testing import SHARED
from tests.curation.cut.films import ENDS, HEIGHT, STARTS, WIDTH, Curated, decoded, film, shots
from tests.data.media.videos import with_clap, with_matrix

pytest.importorskip("cv2")
CLIPS = SHARED / "assets/videos"
FRAMES = shots()
PADDED = np.pad(FRAMES, ((0, 0), (11, 9), (0, 0), (0, 0)))
EVEN = {"g": "20", "keyint_min": "20"}
CLOSED = {"x264_params": "keyint=20:min-keyint=20:scenecut=0:bframes=0"}
VARYING = (np.cumsum(np.tile([30, 40, 20, 60], 21)) - 30).tolist()
HDR = {"color_trc": 18, "colorspace": 9, "color_primaries": 9}
SVT = {"preset": "12", "svtav1_params": "keyint=20:scd=0:lookahead=0:lp=1", "crf": "20"}

FILMS = {
    "x264.mp4": lambda: film(FRAMES),
    "x264.mkv": lambda: film(FRAMES, container="matroska"),
    "closed.mp4": lambda: film(FRAMES, **CLOSED),
    "b frames.mp4": lambda: film(FRAMES, x264_params="keyint=20:min-keyint=20:scenecut=0:bframes=2"),
    "open.mp4": lambda: film(FRAMES, x264_params="open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=3"),
    "refresh.mp4": lambda: film(FRAMES, x264_params="intra-refresh=1:keyint=20:scenecut=0:bframes=0"),
    "fragments.mp4": lambda: film(FRAMES, muxing={"movflags": "frag_keyframe+empty_moov"}, **CLOSED),
    "live.webm": lambda: film(FRAMES, "libvpx", "webm", muxing={"live": "1"}, deadline="realtime", **EVEN),
    "hevc.mp4": lambda: film(FRAMES, "libx265", preset="ultrafast", x265_params="log-level=0:pools=1:frame-threads=1"),
    "hevc closed.mkv": lambda: film(
        *(FRAMES, "libx265", "matroska"),
        preset="ultrafast",
        x265_params="log-level=0:pools=1:frame-threads=1:keyint=20:min-keyint=20:scenecut=0:open-gop=0",
    ),
    "vp8.webm": lambda: film(FRAMES, "libvpx", "webm", deadline="realtime", **EVEN),
    "vp8 hidden.webm": lambda: film(FRAMES, "libvpx", "webm", deadline="good", auto_alt_ref="1", lag_in_frames="16"),
    "vp9.webm": lambda: film(FRAMES, "libvpx-vp9", "webm", deadline="realtime", cpu_used="8", **EVEN),
    "vp9 hidden.webm": lambda: film(FRAMES, "libvpx-vp9", "webm", cpu_used="5", lag_in_frames="20", **EVEN),
    "vp9.mp4": lambda: film(FRAMES, "libvpx-vp9", deadline="realtime", cpu_used="8", **EVEN),
    "av1.mp4": lambda: film(FRAMES, "libsvtav1", **SVT),
    "av1.mkv": lambda: film(FRAMES, "libsvtav1", "matroska", **SVT),
    "vfr.mp4": lambda: film(FRAMES, times=VARYING, **CLOSED),
    "turned.mp4": lambda: with_matrix(film(FRAMES, **CLOSED), (0, 1, -1, 0)),
    "two streams.mp4": lambda: film(FRAMES, second=(2 * HEIGHT, 2 * WIDTH), **CLOSED),
    "anamorphic.mp4": lambda: film(FRAMES, tags={"sample_aspect_ratio": Fraction(4, 3)}, **CLOSED),
    "bars.mp4": lambda: film(PADDED, **CLOSED),
    "turned bars.mp4": lambda: with_matrix(film(PADDED, **CLOSED), (0, 1, -1, 0)),
    "full range.mp4": lambda: film(FRAMES, format="yuvj420p", **CLOSED),
    "odd.webm": lambda: film(FRAMES[:, :-1, :-1], "libvpx", "webm", deadline="realtime", **EVEN),
    "10 bits.mp4": lambda: film(FRAMES, format="yuv420p10le", **CLOSED),
    "444.mp4": lambda: film(FRAMES, format="yuv444p", **CLOSED),
    "hlg.mp4": lambda: film(FRAMES, format="yuv420p10le", tags=HDR, **CLOSED),
    "interlaced.mp4": lambda: film(FRAMES, flags="+ilme+ildct", x264_params="tff=1:keyint=20:scenecut=0"),
    "alpha.webm": lambda: film(
        np.concatenate([FRAMES, np.full_like(FRAMES[..., :1], 200)], -1),
        *("libvpx-vp9", "webm"),
        format="yuva420p",
        source="rgba",
        deadline="realtime",
        cpu_used="8",
        **EVEN,
    ),
    "mpeg4.avi": lambda: film(FRAMES, "mpeg4", "avi", qscale="2", flags="+qscale", bf="2", **EVEN),
    "clap.mp4": lambda: with_clap(film(FRAMES, **CLOSED), WIDTH - 8, HEIGHT - 4, Fraction(0), Fraction(0)),
}
COPIED = {
    "closed.mp4": 3,
    "b frames.mp4": 2,
    "refresh.mp4": 1,
    "hevc closed.mkv": 3,
    "fragments.mp4": 3,
    "live.webm": 3,
    "vp8.webm": 3,
    "vp9.webm": 3,
    "vp9.mp4": 3,
    "av1.mp4": 3,
    "av1.mkv": 3,
    "vfr.mp4": 3,
    "two streams.mp4": 3,
    "anamorphic.mp4": 3,
    "full range.mp4": 3,
    "odd.webm": 3,
}
"""How many of the four shots are copied, where the keyframes are known."""
WHY = {
    "turned.mp4": ["turned"],
    "bars.mp4": ["black bars"],
    "turned bars.mp4": ["black bars", "turned"],
    "10 bits.mp4": ["10 bits"],
    "444.mp4": ["pixels yuv444p"],
    "hlg.mp4": ["10 bits", "high dynamic range"],
    "interlaced.mp4": ["interlaced"],
    "alpha.webm": ["pixels yuva420p"],
    "mpeg4.avi": ["codec mpeg4"],
    "clap.mp4": ["cropped by the container"],
}
"""Why none of a film's shots are copied."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All films, cut together."""
    return Curated(tmp_path_factory.mktemp("cut"), {name: make() for name, make in FILMS.items()})


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return how near the brightness of one picture is to that of another: decibels, of uint8 (..., 3)."""
    weights = [0.299, 0.587, 0.114]
    return 10 * np.log10(255**2 / np.square(a @ weights - b @ weights).mean())


@pytest.mark.parametrize("name", FILMS)
def test_clips_hold_the_frames_of_their_shots(made, name):
    """Copies bit for bit, as PyAV decodes them; encoded ones at 40 dB and more, as a player shows them."""
    source, rows = (made.src / name).read_bytes(), made.of(name)
    assert [(row["start"], row["end"]) for row in rows] == list(zip(STARTS, ENDS, strict=True))
    for row in rows:
        data, span = made.data(row), range(row["start"], row["end"])
        info = probe(data)
        for key in ("frames", "fps", "vfr", "width", "height", "duration", "codec"):
            assert row[key] == getattr(info, key), key
        assert row["format"] == info.format or (row["format"], info.format) == ("mkv", "webm")
        assert hashlib.sha256(data).hexdigest() == row["sha256"] and len(data) == row["bytes"]
        if row["method"] == "copy":
            assert row["why"] == [] and row["crop"] is None
            copied, stored = decoded(data), decoded(source)[row["start"] : row["end"]]
            assert len(copied) == len(span)
            for frame, wanted in zip(copied, stored, strict=True):
                assert all(np.array_equal(plane, other) for plane, other in zip(frame, wanted, strict=True))
        else:
            assert (row["format"], row["codec"]) == ("mp4", "h264") and row["why"]
            shown = np.stack(list(read_frames(source, span)))
            x, y, width, height = row["crop"] or (0, 0, *shown.shape[2:0:-1])
            clip = np.stack(list(read_frames(data, range(len(span)))))
            assert clip.shape == (len(span), height, width, 3) and info.frames == len(span)
            least = 36 if name == "hlg.mp4" else 40  # most of that picture's colours are past BT.709's
            assert psnr(clip, shown[:, y : y + height, x : x + width]) >= least


@pytest.mark.parametrize("name", COPIED)
def test_what_can_be_copied_is(made, name):
    methods = [row["method"] for row in made.of(name)]
    assert methods == ["copy"] * COPIED[name] + ["encode"] * (4 - COPIED[name])


@pytest.mark.parametrize("name", WHY)
def test_what_cannot_be_copied_says_why(made, name):
    assert [row["why"] for row in made.of(name)] == [WHY[name]] * 4


def test_formats_follow_the_codec(made):
    copied = {row["film"]: row["format"] for row in made.rows if row["method"] == "copy"}
    assert copied["vp8.webm"] == copied["vp9.webm"] == "webm" and copied["vp9.mp4"] == copied["closed.mp4"] == "mp4"
    assert copied["hevc closed.mkv"] == "mkv" and copied["av1.mkv"] == "webm"


def test_pictures_are_as_shown(made):
    size = {row["film"]: (row["width"], row["height"], row["crop"]) for row in made.rows if row["start"] == 65}
    assert size["turned.mp4"] == (HEIGHT, WIDTH, None)
    assert size["anamorphic.mp4"] == (WIDTH * 4 // 3, HEIGHT, None)
    assert size["clap.mp4"] == (WIDTH - 8, HEIGHT - 4, None)
    assert size["bars.mp4"] == (WIDTH, HEIGHT - 2, [0, 12, WIDTH, HEIGHT - 2])  # bars of 11 and 9, cut at even lines
    turned = HEIGHT - 2, WIDTH, [10, 0, HEIGHT - 2, WIDTH]  # a quarter clockwise: what was below is left
    assert size["turned bars.mp4"] == turned
    assert size["odd.webm"] == (WIDTH - 2, HEIGHT - 2, [0, 0, WIDTH - 2, HEIGHT - 2])
    assert {row["vfr"] for row in made.of("vfr.mp4")} == {True}
    assert {row["film"] for row in made.rows if row["vfr"]} == {"vfr.mp4"}


def test_times_are_the_films(made):
    for row in made.of("x264.mp4"):
        assert (row["t0"], row["t1"]) == pytest.approx((row["start"] / 24, row["end"] / 24))
        assert row["duration"] == pytest.approx(row["t1"] - row["t0"])
    seconds = np.array([*VARYING, VARYING[-1] + 1000 * 83 / VARYING[-1]]) / 1000
    for row in made.of("vfr.mp4"):
        assert row["t0"] == pytest.approx(seconds[row["start"]])
        assert row["t1"] == pytest.approx(seconds[row["end"]], abs=0.04)
        with av.open(io.BytesIO(made.data(row))) as container:
            shown = [frame.time for frame in container.decode(video=0)]
        np.testing.assert_allclose(shown, seconds[row["start"] : row["end"]] - row["t0"], atol=1e-3)


def test_the_tar_holds_the_clips_at_their_places(made):
    with tarfile.open(made.out / "clips/000000.tar") as tar:
        members = tar.getmembers()
        names = {member.name for member in members}
        assert names == {f"{row['clip']}.{row['format']}" for row in made.rows} and len(members) == len(made.rows)
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {(0, 0, "", 0o644)}
        places = {member.name: (member.offset_data, member.size) for member in members}
    for row in made.rows:
        assert places[f"{row['clip']}.{row['format']}"] == (row["offset"], row["bytes"])
    assert len({row["clip"] for row in made.rows}) == len(made.rows) == 4 * len(FILMS)
