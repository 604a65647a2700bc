"""Frames of a film by their numbers, by seeks or in order, and the clips that are made of them."""

import io

import av
import pytest

from lavie.curation.cut import making
from lavie.curation.cut.exact import AstrayError, Identity, OrderedFrames, SoughtFrames
from lavie.curation.cut.film import facts_for_child
from lavie.curation.cut.making import make_clips
from lavie.data.media.streams import open_video
from lavie.errors import DataError
from tests.curation.cut.films import Curated, film, scanned, shots

pytest.importorskip("cv2")
FRAMES = shots()
CLOSED = {"x264_params": "keyint=20:min-keyint=20:scenecut=0:bframes=0"}


def all_marked(data: bytes) -> bytes:
    """Return an mp4 in which every packet is marked as a keyframe."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="mp4") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream, packet.is_keyframe = stream, True
                out.mux(packet)
    return file.getvalue()


def test_where_seeks_lead_astray_the_film_is_decoded_in_order(tmp_path, monkeypatch):
    """An index that calls every frame a keyframe leads to frames that cannot be decoded alone."""
    data = all_marked(film(FRAMES, **CLOSED))
    made = Curated(tmp_path, {"a.mp4": data})
    assert [row["method"] for row in made.rows] == ["copy", "copy", "copy", "encode"]
    facts, arrays = scanned(made, "a.mp4")
    assert arrays["key"].nonzero()[0].tolist() == [0, 20, 40, 60, 80]
    identity = Identity(arrays["pts"].tolist(), arrays["checksum"].tolist())
    with open_video(data) as (container, stream):
        sought = SoughtFrames(container, stream, identity)
        assert [number for number, *_ in sought.frames(40, 49)] == list(range(40, 49))
        with pytest.raises(AstrayError):
            list(sought.frames(43, 60))
    with open_video(data) as (container, stream):
        ordered = OrderedFrames(container, stream, identity)
        assert [number for number, *_ in ordered.frames(5, 9)] == [5, 6, 7, 8]
        assert [number for number, *_ in ordered.frames(7, 12)] == [7, 8, 9, 10, 11]  # two frames are kept
        assert [number for number, *_ in ordered.frames(80, 84)] == [80, 81, 82, 83]

    asked = []

    class Seen(OrderedFrames):
        def frames(self, start, end):
            asked.append((start, end))
            return super().frames(start, end)

    monkeypatch.setattr(making, "OrderedFrames", Seen)
    wanted = [[0, 0, 20, False], [1, 20, 40, True], [2, 43, 60, False], [3, 65, 84, False]]
    parts = list(make_clips(io.BytesIO(data), facts_for_child(facts, arrays) | {"keep_audio": True}, wanted))
    assert asked == [(43, 60), (65, 84)]
    told = [(part["place"], part["method"]) for part in parts if isinstance(part, dict) and "method" in part]
    assert told == [(1, "copy"), (0, "encode"), (2, "encode"), (3, "encode")]
    notes = [part["note"] for part in parts if isinstance(part, dict) and "note" in part]
    assert notes == ["", "", *["its sound is left out: seeks in the film lead astray"] * 2]
    assert parts[-1] == made.data(made.rows[3])


def test_ordered_frames_name_what_is_not_as_scanned():
    data = film(FRAMES[:9])
    with open_video(data) as (container, stream):
        identity = Identity([512 * i for i in range(12)], [0] * 12)
        ordered = OrderedFrames(container, stream, identity)
        with pytest.raises(DataError, match="frame 3 is not the one that was scanned"):
            list(ordered.frames(3, 5))
        with pytest.raises(DataError, match="ends before the frames that were scanned"):
            list(ordered.frames(10, 12))
