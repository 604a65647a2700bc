"""The data page by its requests."""

import io
import itertools
import json
import re

import av
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
from lavie.pages.data import clips
from lavie.pages.data.app import make_app
from lavie.pages.data.clips import Shown
from tests.pages.asgi import HOST, OURS, PORT, TOKEN, ask
from tests.pages.data.views import some_browsing

FILES = ("/", "/page.css", "/page.js", "/common.css", "/common.js", "/icon.svg")


@pytest.fixture
def view(demo, tmp_path):
    browsing = some_browsing(demo, tmp_path)
    return make_app(browsing, port=PORT, token=TOKEN), browsing


def get(app, target):
    reply = ask(app, target=target)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def post(app, target, value):
    return ask(app, "POST", target, body=json.dumps(value).encode())


def frames_of(body):
    with av.open(io.BytesIO(body)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def test_samples_are_found_and_played(view):
    app, browsing = view
    reply = json.loads(post(app, "/api/find", {"words": "red", "sort": "kilobytes", "kind": "video"}).body)
    assert reply["found"] == len(reply["samples"]) > 0
    first = reply["samples"][0]
    assert "red" in first["caption"] and first["size"][0] == 12 and not first["out"]
    place = f"/samples/{browsing.secret}/{first['number']}"
    first, *others = [frames_of(ask(app, target=f"{place}-{visit}.mp4").body) for visit in range(3)]
    assert first.shape[0] == 4 and any((first != other).any() for other in others)
    picture = Image.open(io.BytesIO(ask(app, target=f"{place}.png").body))
    assert picture.size == (32, 32)


def test_without_a_config_the_whole_sample_is_shown(demo, tmp_path):
    browsing = some_browsing(demo, tmp_path, config=False)
    app = make_app(browsing, port=PORT, token=TOKEN)
    assert len(frames_of(ask(app, target=f"/samples/{browsing.secret}/0-0.mp4").body)) == 12
    assert get(app, "/api/page")["run"] is None
    assert ask(app, target="/api/row?step=1&row=0").status == 404


def test_a_row_is_shown_as_training_reads_it(view):
    app, browsing = view
    row = get(app, "/api/row?step=4&row=1")
    expected = browsing.batches.row(4, 1)
    assert row["position"] == expected["position"] == 7
    assert [part["key"] for part in row["parts"]] == expected["keys"]
    assert [part["caption"] for part in row["parts"]] == expected["captions"]
    clip, picture = [ask(app, target=f"/rows/{browsing.secret}/{part['file']}").body for part in row["parts"]]
    pixels = np.asarray(Image.open(io.BytesIO(picture)))
    assert np.array_equal(pixels, expected["pixels"][4].numpy())
    shown = frames_of(clip)[:, ::6, ::6].astype(int)  # an mp4 shows small pixels as blocks, and is nearly lossless
    assert shown.shape == (4, 24, 32, 3) and np.abs(shown - expected["pixels"][:4].numpy()).mean() < 6


@pytest.mark.parametrize("config", (True, False))
def test_a_list_that_training_refuses_is_told_at_the_mark_and_by_the_batch(demo, tmp_path, config):
    browsing = some_browsing(demo, tmp_path, config)
    app = make_app(browsing, port=PORT, token=TOKEN)
    videos = browsing.table.index.videos.sample_keys()
    keys = list(itertools.islice(videos, len(browsing.table.index.videos) // 4 + 1))
    replies = [json.loads(post(app, "/api/mark", {"key": key, "out": True}).body) for key in keys]
    assert [bool(reply["refusal"]) for reply in replies] == [False] * (len(keys) - 1) + [True]
    assert f"data.exclude has {len(keys)} of the" in replies[-1]["refusal"]
    if config:
        refused = ask(app, target="/api/row?step=1&row=0")
        assert refused.status == 400 and refused.body.decode() in replies[-1]["refusal"]
    assert not json.loads(post(app, "/api/mark", {"key": keys[0], "out": False}).body)["refusal"]
    assert not config or get(app, "/api/row?step=1&row=0")["position"] == 0


def test_marks_change_the_list_and_the_batch(view):
    app, browsing = view
    first = get(app, "/api/row?step=1&row=0")["parts"][0]
    key = first["key"]
    assert json.loads(post(app, "/api/mark", {"key": key, "out": True}).body) == {"excluded": 1, "refusal": ""}
    assert browsing.excluded.path.read_text() == f"{key}\n"
    row = get(app, "/api/row?step=1&row=0")
    assert row["parts"][0]["key"] != key and row["parts"][0]["file"] != first["file"]
    [spare] = row["spares"]
    assert spare.startswith(f"{key}: ") and "data.exclude leaves it out" in spare
    marked = json.loads(post(app, "/api/find", {"marked": True}).body)
    assert [sample["key"] for sample in marked["samples"]] == [key] and marked["samples"][0]["out"]
    assert json.loads(post(app, "/api/mark", {"key": key, "out": False}).body) == {"excluded": 0, "refusal": ""}
    assert browsing.excluded.path.read_text() == ""


@pytest.mark.parametrize(
    "target, value, told",
    (
        ("/api/mark", {"key": "nobody", "out": True}, "no sample has the key 'nobody'"),
        ("/api/mark", {"key": 3, "out": True}, "key"),
        ("/api/find", {"sort": "beauty"}, "there is no column beauty"),
        ("/api/find", {"colour": 1}, "colour"),
        ("/api/find", [], "wanted a JSON object"),
    ),
)
def test_what_cannot_be_done_is_one_line(view, target, value, told):
    reply = post(view[0], target, value)
    assert 400 <= reply.status < 500 and told in reply.body.decode() and len(reply.body.splitlines()) == 1


def test_nothing_else_can_be_reached(view, tmp_path):
    app, browsing = view
    (tmp_path / "secret.mp4").write_bytes(b"nobody reads this")
    name = get(app, "/api/row?step=1&row=0")["parts"][0]["file"]
    right, wrong = browsing.secret, "0" * 32
    for path in (
        f"/rows/{wrong}/{name}", f"/samples/{wrong}/0-0.mp4", f"/rows/{right}/../secret.mp4", f"/rows/{right}/s0.png",
        f"/rows/{right}/..%2fsecret.mp4", f"/rows/{right}/%2e%2e%2f..%2fsecret.mp4", f"/samples/{right}/99-0.mp4",
        f"/samples/{right}/-1-0.mp4", f"/samples/{right}/0-9999999.mp4", f"/samples/{right}/0-0.txt",
        f"/samples/{right}/0",
        f"/samples/{right}/0-%D9%A3.mp4", "/api/row?step=0&row=0", "/api/row?step=1&row=2", "/api/row", "/exclude.txt",
    ):  # fmt: skip
        assert 400 <= ask(app, target=path).status < 500, path
    assert ask(app, target="/api/page", headers={"host": HOST}).status == 403
    assert ask(app, "POST", "/api/mark", {name: OURS[name] for name in ("host", "x-lavie-token")}).status == 403


def test_only_the_newest_files_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "KEPT", 4)
    shown = Shown(tmp_path)
    made = []
    for number in range(6):
        shown.file(f"{number}.png", lambda number=number: made.append(number) or (np.zeros((1, 2, 2, 3), np.uint8), 8))
    assert len(list(tmp_path.iterdir())) == 4 and shown.known("0.png") is None
    shown.file("5.png", lambda: pytest.fail("it is there"))
    assert made == list(range(6))


def test_the_page_is_small_and_names_no_other_site(view):
    replies = [ask(view[0], target=path) for path in FILES]
    assert [reply.status for reply in replies] == [200] * len(FILES)
    assert sum(len(reply.body) for reply in replies) <= 60_000
    text = b"".join(reply.body for reply in replies).decode()
    assert set(re.findall(r"(?:https?:)?//[\w.]+", text)) <= {"http://www.w3.org"} and "innerHTML" not in text
