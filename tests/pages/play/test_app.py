"""The application by its requests: no path leads out of the gallery, and what goes wrong is one line."""

import errno
import itertools
import json
import logging
import re
import shutil
from urllib.parse import quote

import pytest

pytest.importorskip("starlette")
from lavie.models.text_encoder import HashTextEncoder
from lavie.pages.play.app import make_app
from lavie.pages.play.uploads import LARGEST
from tests.pages.asgi import OURS, PORT, TOKEN, ask
from tests.pages.play.studios import asked, some_studio, wait

SECRET = b"nobody reads this"
FILES = ("/", "/page.css", "/page.js", "/common.css", "/common.js", "/icon.svg")


@pytest.fixture
def play(tmp_path):
    (tmp_path / "gallery/images").mkdir(parents=True)
    for name in ("secret.mp4", "gallery/secret.json", "gallery/images/secret.png"):
        (tmp_path / name).write_bytes(SECRET)
    studio, counter = some_studio(tmp_path)
    yield make_app(studio, port=PORT, token=TOKEN), studio, counter
    counter.may_step.set()
    studio.close()


def post(app, target, value, **changes):
    return ask(app, "POST", target, OURS | changes, value if isinstance(value, bytes) else json.dumps(value).encode())


def draw(app, studio, **changes):
    """Draw one clip and return what the gallery shows of it."""
    name = json.loads(post(app, "/api/jobs", asked(**changes)).body)["id"]
    wait(lambda: studio.job(name).state == "done")
    return json.loads(ask(app, target="/api/gallery").body)["clips"][0]


def traversals(name):
    """500 ways to name a file that lies elsewhere."""
    places = ("clips", "images", "jobs", "", "api", "api/jobs", "page.css")
    ups = (
        "../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%252f", "..\\", "..%5c", "....//", "..;/", "..%00/", "%c0%ae%c0%ae/",
        "..%c0%af", ".%2e/", "//", "/./../", "%u002e%u002e/",
    )  # fmt: skip
    targets = ("secret.mp4", "gallery/secret.json", "etc/passwd", f"gallery/{name}.json", "images/secret.png")
    found = [
        f"/{place}/{up * depth}{target}" for place, up, depth, target in itertools.product(places, ups, (1, 5), targets)
    ]
    found += [
        f"/{place}/{quote(path, safe='')}"
        for place in places
        for path in ("/etc/passwd", "C:\\secret", "file:///etc/passwd")
    ]
    found += [
        f"/clips/{name}.json",
        f"/clips/{name}",
        f"/clips/{name}.mp4/",
        f"/clips/{name}.mp4%00",
        f"/clips/{name}.MP4",
    ]
    return list(dict.fromkeys(found))


def test_of_500_paths_none_leads_to_a_file_that_is_not_shown(play):
    app, studio, _ = play
    name = draw(app, studio)["id"]
    paths = traversals(name)
    assert len(paths) >= 500
    for path in paths:
        reply = ask(app, target=path)
        assert reply.status >= 400 and SECRET not in reply.body and b"root:" not in reply.body, path
    assert ask(app, target=f"/clips/{name}.mp4").status == 200


def test_a_prompt_becomes_a_video_that_plays_in_parts(play):
    app, studio, _ = play
    clip = draw(app, studio, prompt="a <b>fox</b> & an owl")
    assert clip["order"]["prompt"] == "a <b>fox</b> & an owl"
    whole = ask(app, target=f"/clips/{clip['id']}.mp4")
    assert whole.headers["content-type"] == "video/mp4" and whole.body[4:8] == b"ftyp"
    part = ask(app, target=f"/clips/{clip['id']}.mp4", headers=OURS | {"range": "bytes=4-7"})
    assert (part.status, part.body) == (206, b"ftyp")
    assert ask(app, target=f"/clips/{clip['id']}.jpg").headers["content-type"] == "image/jpeg"


def test_the_picture_of_what_is_drawn_is_shown_until_it_is_drawn(play):
    app, studio, counter = play
    counter.may_step.clear()
    name = json.loads(post(app, "/api/jobs", asked()).body)["id"]
    assert counter.stepped.wait(60)
    assert ask(app, target=f"/jobs/{name}.png?shown=1").body.startswith(b"\x89PNG")
    counter.may_step.set()
    wait(lambda: studio.job(name).state == "done")
    assert ask(app, target=f"/jobs/{name}.png").status == 204
    assert ask(app, target="/jobs/none.png").status == ask(app, target=f"/jobs/{name}.mp4").status == 404


@pytest.mark.parametrize(
    "body, changes, status, told",
    (
        (b"{", {}, 400, "no JSON"),
        (b"[]", {}, 400, "wanted a JSON object"),
        (b'{"seed": NaN}', {}, 400, "NaN is no number"),
        (b" " * 70000, {}, 413, "longer than 65536 bytes"),
        (b"{}", {"content-type": "text/plain"}, 415, "wanted application/json"),
        (asked(prompt=""), {}, 400, "prompt"),
        (asked(model="two"), {}, 400, "wanted one of one"),
    ),
)
def test_what_is_no_order_is_refused_in_a_line(play, body, changes, status, told):
    app, studio, _ = play
    reply = post(app, "/api/jobs", body, **changes)
    assert reply.status == status and told in reply.body.decode() and studio.told()["jobs"] == []


def test_the_seventeenth_job_is_told_to_wait(play):
    app, _, counter = play
    counter.may_step.clear()
    replies = [post(app, "/api/jobs", asked()) for _ in range(20)]
    assert [reply.status for reply in replies] == [200] * 16 + [429] * 4
    name = json.loads(replies[-5].body)["id"]
    assert post(app, f"/api/jobs/{name}/cancel", {}).status == 200
    assert post(app, f"/api/jobs/{name}/cancel", {}).status == 404
    assert post(app, "/api/jobs", asked()).status == 200


def files(studio):
    return sorted(path.name for path in (studio.gallery.folder / "images").iterdir())


def test_an_image_is_uploaded_and_started_from(play):
    app, studio, counter = play
    name = json.loads(post(app, "/api/images", b"image of a fox").body)["id"]
    assert ask(app, target=f"/images/{name}.png").body.startswith(b"\x89PNG")
    assert files(studio) == sorted([name, f"{name}.png", "secret.png"])
    clip = draw(app, studio, image=name)
    assert clip["order"]["image"] == name
    given = counter.drawn[-1].start.given
    assert given.places == (0,) and given.frames.shape == (1, 16, 24, 3)
    draw(app, studio, image=name, strength=0.5)
    draft = counter.drawn[-1].start.draft
    assert draft.strength == 0.5 and draft.frames.shape == (2, 16, 24, 3)


@pytest.mark.parametrize(
    "parts, changes, status, told",
    (
        ([b"a program"], {}, 400, "the image: no image that can be decoded"),
        ([b""], {}, 400, "the file is empty"),
        ([b"image"], {"content-length": str(LARGEST + 1)}, 413, "at most 64 MB"),
        ([b"image", *[bytes(LARGEST // 2)] * 2], {}, 413, "more than 64 MB"),
    ),
)
def test_an_upload_that_cannot_be_taken_leaves_nothing(play, parts, changes, status, told):
    app, studio, _ = play
    reply = ask(app, "POST", "/api/images", OURS | changes, parts=parts)
    assert reply.status == status and told in reply.body.decode() and len(reply.body.splitlines()) == 1
    assert files(studio) == ["secret.png"]


def test_a_browser_that_goes_away_in_an_upload_is_one_line_of_the_log(play, caplog):
    app, studio, _ = play
    with caplog.at_level(logging.WARNING, "lavie"):
        ask(app, "POST", "/api/images", parts=[b"image", b"of a"], cut=True)
    [line] = caplog.messages
    assert "the browser went away" in line and files(studio) == ["secret.png"]
    assert json.loads(post(app, "/api/images", b"image").body)["id"]


def test_older_clips_come_when_they_are_asked_for(play):
    app, studio, _ = play
    for seed in range(3):
        draw(app, studio, seed=seed)
    reply = json.loads(ask(app, target="/api/gallery?offset=1").body)
    assert [clip["order"]["seed"] for clip in reply["clips"]] == [1, 0] and reply["all"] == 3
    [fault] = reply["faults"]
    assert fault.startswith("secret.json is no clip")
    assert ask(app, target="/api/gallery?offset=-1").status == ask(app, target="/api/gallery?offset=x").status == 400


def test_the_page_is_small_and_names_no_other_site(play):
    app, _, _ = play
    replies = [ask(app, target=path) for path in FILES]
    assert [reply.status for reply in replies] == [200] * len(FILES)
    assert sum(len(reply.body) for reply in replies) <= 60_000
    text = b"".join(reply.body for reply in replies).decode()
    assert set(re.findall(r"(?:https?:)?//[\w.]+", text)) <= {"http://www.w3.org"}
    assert "innerHTML" not in text and "style=" not in text and "onclick=" not in replies[0].body.decode()
    assert json.loads(ask(app, target="/api/page").body)["most"] == {
        "clips": 16, "jobs": 16, "bytes": 64 << 20, "seed": 2**53 - 17
    }  # fmt: skip


@pytest.mark.parametrize("body", (rb'{"model": "one", "prompt": "\ud800"}', b'{"\xed\xa0\x80": 1}', b'{"a": "\xff"}'))
def test_half_of_a_character_is_refused_in_a_line(play, body):
    app, studio, _ = play
    reply = post(app, "/api/jobs", body)
    assert reply.status == 400 and len(reply.body.splitlines()) == 1 and b"no JSON: " in reply.body
    assert studio.told()["jobs"] == []


@pytest.mark.parametrize(
    "changes",
    ({"seed": "1"}, {"seed": True}, {"clips": 1.0}, {"prompt": " \n"}, {"stages": {"base": {"guidance_scale": "2"}}}),
)
def test_values_of_other_types_and_empty_prompts_are_refused(play, changes):
    app, studio, _ = play
    reply = post(app, "/api/jobs", asked(**changes))
    assert reply.status == 400 and next(iter(changes)).encode() in reply.body
    assert studio.told()["jobs"] == []


def test_a_folder_that_is_gone_or_a_full_disk_is_one_line(play, tmp_path, monkeypatch, caplog):
    app, studio, _ = play
    octets = OURS | {"content-type": "application/octet-stream"}
    monkeypatch.setattr(
        studio.uploads, "keep", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
    )
    full = ask(app, "POST", "/api/images", octets, b"image")
    assert (full.status, full.body) == (507, b"No space left")
    shutil.rmtree(tmp_path / "gallery")
    gone = ask(app, "POST", "/api/images", octets, b"image")
    assert gone.status == 500 and gone.body.endswith(b": No such file or directory") and b"\n" not in gone.body
    name = json.loads(post(app, "/api/jobs", asked()).body)["id"]
    wait(lambda: studio.job(name).state == "failed")
    assert "No such file" in studio.job(name).error
    assert all(record.exc_info is None for record in caplog.records)


def test_the_end_of_a_prompt_that_is_never_read_is_told(play):
    app, studio, counter = play
    counter.encoder = HashTextEncoder(8, max_length=3)
    name = json.loads(post(app, "/api/jobs", asked(prompt="a fox in the snow")).body)["id"]
    wait(lambda: studio.job(name).state == "done")
    [job] = studio.told()["jobs"]
    assert job["unread"] == ["'in the snow'"]
