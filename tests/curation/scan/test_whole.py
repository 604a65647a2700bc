"""Films cut short where a decoder does not notice: the container's announced size tells."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lavie.curation.scan.film import scan_frames
from lavie.curation.scan.whole import check_whole
from lavie.errors import DataError
from lavie.testing import SHARED
from tests.data.media.videos import encode
from tests.markers import requires_shared

FRAMES = np.random.default_rng(0).integers(0, 256, (24, 32, 48, 3), np.uint8)


def with_sound(path: Path, container: str, codec: str, sound: str, **options: str) -> bytes:
    """A film of 3 s with sound, written so that its header comes first."""
    with av.open(str(path), "w", format=container, options=options) as out:
        video, audio = out.add_stream(codec, rate=8), out.add_stream(sound, rate=48000, layout="mono")
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        for number, pixels in enumerate(FRAMES):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            out.mux(video.encode(frame))
            kind = {"fltp": np.float32, "flt": np.float32, "s16": np.int16}[audio.codec_context.format.name]
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 6000), kind), audio.codec_context.format.name, "mono")
            noise.pts, noise.sample_rate, noise.time_base = 6000 * number, 48000, Fraction(1, 48000)
            out.mux(audio.encode(noise))
        out.mux(video.encode())
        out.mux(audio.encode())
    return path.read_bytes()


FILMS = {
    "mp4": ("libx264", "aac", {"movflags": "faststart"}),
    "webm": ("libvpx", "libopus", {}),
    "avi": ("mpeg4", "aac", {}),
}


def packet_ends(data: bytes) -> list[int]:
    with av.open(io.BytesIO(data)) as container:
        return sorted(packet.pos + packet.size for packet in container.demux() if packet.size and packet.pos)


@pytest.mark.parametrize("kind", FILMS)
def test_a_film_with_sound_that_ends_between_packets_is_named(kind, tmp_path):
    codec, sound, options = FILMS[kind]
    data = with_sound(tmp_path / "film", kind, codec, sound, **options)
    assert list(scan_frames(io.BytesIO(data)))[-1]["frames"] == 24
    for end in packet_ends(data)[5::9]:
        with pytest.raises(DataError, match=rf"{end} bytes, of \d+ .*cut short"):
            list(scan_frames(io.BytesIO(data[:end])))


def test_what_does_not_tell_its_size_is_not_refused(tmp_path):
    mp4 = encode(FRAMES[:2])
    place = mp4.index(b"mdat") - 4
    check_whole(io.BytesIO(mp4))
    check_whole(io.BytesIO(mp4 + b"\xff" * 99))  # something else behind it
    moov = mp4.index(b"moov") - 4
    until_end = mp4[:place] + mp4[moov:] + bytes(4) + mp4[place + 4 : moov]
    check_whole(io.BytesIO(until_end[:-10]))
    large = mp4[:place] + (1).to_bytes(4) + b"mdat" + (1 << 40).to_bytes(8) + mp4[place + 8 :]
    with pytest.raises(DataError, match=f"of {(1 << 40) + place} that"):
        check_whole(io.BytesIO(large))
    live = with_sound(tmp_path / "live", "webm", "libvpx", "libopus", live="1")
    check_whole(io.BytesIO(live[:-40]))
    file = io.BytesIO(mp4)
    file.seek(7)
    check_whole(file)
    assert file.tell() == 0


SEGMENT = b"\x80\x18\x53\x80\x67"


@pytest.mark.parametrize("rest", (b"", b"\x00", b"\x81", b"\xff", SEGMENT, SEGMENT + b"\x08"))
def test_headers_of_a_few_bytes(rest):
    check_whole(io.BytesIO(b"\x1a\x45\xdf\xa3" + rest))
    check_whole(io.BytesIO(b"\0\0\0\0ftyp" + rest))


@requires_shared
def test_real_films_are_whole():
    for path in sorted((SHARED / "assets/videos").glob("*.[mw]*")):
        if path.suffix in (".mp4", ".webm"):
            data = path.read_bytes()
            check_whole(io.BytesIO(data))
            with pytest.raises(DataError, match="cut short"):
                check_whole(io.BytesIO(data[:-1]))
