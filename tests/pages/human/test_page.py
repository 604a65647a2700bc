"""A rater's way through the page in a browser, by keyboard alone."""

import itertools
import threading
import time

import pytest

from lavie.evaluation.human.answers import read_answers
from lavie.evaluation.human.key import ANSWERS, METRICS, PAGE, write_key
from lavie.evaluation.human.plan import Design
from lavie.evaluation.human.sources import find_sources, named_folders
from lavie.evaluation.human.study import make_study
from lavie.pages.human.build import write_page
from tests.browser import Browser, requires_chromium
from tests.evaluation.human.folders import PROMPTS, write_models

pytestmark = [pytest.mark.slow, requires_chromium]
MARKS = dict(zip(METRICS, ("good", "normal", "bad", "good", "na"), strict=True))
SEEDS = itertools.count()
"""Other studies for other tests, for the browser remembers them."""
READY = "ready > 0"
HOLD = """
  window.hold = true;
  const play = HTMLMediaElement.prototype.play;
  HTMLMediaElement.prototype.play = function () { return window.hold ? Promise.resolve() : play.call(this); };
"""
"""Keeps videos from playing until `hold` is false."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def study(tmp_path):
    models = write_models(tmp_path)
    design = Design(raters=2, pairs=2, ratings=2)
    sources = find_sources(named_folders(list(map(str, models))), tmp_path / "prompts.txt")
    key = make_study(tmp_path / "study", sources, design, seed=next(SEEDS), fps=8)
    write_key(tmp_path / "study/key.json", key)
    write_page(tmp_path / "study", key)
    return tmp_path / "study", key


def of_place(key, place):
    """The names of a place's trials, pairs and ratings."""
    own = [(name, trial) for name, trial in key.trials.items() if trial.place == place]
    return [n for n, t in own if t.kind != "rating"], [n for n, t in own if t.kind == "rating"]


def shown(browser):
    return browser.ask("document.getElementById('count').textContent")


def answer(browser, *keys):
    browser.wait(READY)
    for key in keys:
        browser.press(key)


def rate(browser):
    answer(browser, "3", "2", "1", "3", "0", "Enter")


def test_a_rater_goes_through_a_study_by_keyboard(browser, study, tmp_path):
    folder, key = study
    pairs, ratings = of_place(key, 1)
    assert (len(pairs), len(ratings)) == (4, 2)
    browser.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    held = browser.call("Page.addScriptToEvaluateOnNewDocument", source=HOLD)["identifier"]
    browser.open((folder / PAGE / "index.html").as_uri() + "#2")
    browser.press("Enter")
    assert shown(browser) == "Pair 1 of 4"
    assert browser.ask("document.querySelector('#pair .prompt').textContent") in PROMPTS

    # No vote counts before both clips have been played, and a clip of which a part was skipped has not been.
    browser.press("ArrowLeft")
    assert shown(browser) == "Pair 1 of 4" and browser.ask("Object.keys(state.answers).length") == 0
    browser.wait("clips.every(({ video }) => video.readyState >= 3)")
    browser.ask("hold = false; clips[0].video.currentTime = clips[0].video.duration - 0.05; clips[0].video.play(); 0")
    browser.wait("clips[0].ended")
    assert browser.ask("clips[0].played") is False
    browser.press("r")
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=held)

    # Half the way, a reload, and the other half.
    answer(browser, "ArrowLeft")
    answer(browser, "ArrowDown")
    assert shown(browser) == "Pair 3 of 4"
    rater = browser.ask("state.rater")
    browser.call("Page.reload")
    browser.wait("document.readyState === 'complete' && state")
    assert shown(browser) == "Pair 3 of 4" and browser.ask("state.rater") == rater
    browser.press("Backspace")
    assert shown(browser) == "Pair 2 of 4"
    assert browser.ask("document.querySelector('#pair .chosen').dataset.answer") == "tie"
    answer(browser, "ArrowRight")
    answer(browser, "ArrowDown")
    answer(browser, "ArrowRight")
    assert shown(browser) == "Video 1 of 2"
    answer(browser, "3", "Enter")  # Enter goes on only when every question has an answer
    assert shown(browser) == "Video 1 of 2"
    answer(browser, "2", "1", "3", "0", "Enter")
    rate(browser)

    # The answers as a file.
    browser.wait("!document.getElementById('done').hidden")
    browser.press("Enter")
    file = browser.downloads / f"answers-{key.study}-{rater}.csv"
    end = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    found = read_answers([file], key).found
    assert {a.rater for a in found} == {rater}
    votes = {a.trial: a.answer for a in found if a.metric == "overall"}
    assert votes == dict(zip(pairs, ("left", "right", "tie", "right"), strict=True))
    for name in ratings:
        assert {a.metric: a.answer for a in found if a.trial == name} == MARKS
    assert all(a.seconds >= 0 for a in found)

    assert browser.faults() == []
    assert all(url.startswith((folder / PAGE).as_uri()) or url.startswith("blob:") for url in browser.requested())


def test_a_served_study_gathers_answers(browser, study):
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    from lavie.pages.human.serve import make_app

    folder, key = study
    server = uvicorn.Server(uvicorn.Config(make_app(folder), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        browser.call(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        browser.events.clear()
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait("document.getElementById('place').value === '1'")
        browser.press("Enter")
        for _ in range(4):
            answer(browser, "ArrowLeft")
        for _ in range(2):
            rate(browser)
        browser.wait("document.getElementById('end').textContent.startsWith('Your answers have been sent')")
        assert browser.faults() == []
        found = read_answers([folder / ANSWERS], key)
        pairs, ratings = of_place(key, 0)
        assert {a.trial for a in found.found} == {*pairs, *ratings} and len(found.found) == 4 + 2 * len(METRICS)
        assert found.twice == 0

        # The next rater at this browser gets the next place.
        browser.press("Tab")
        browser.press("Enter")
        browser.wait("document.readyState === 'complete' && document.getElementById('place').value === '2'")
    finally:
        server.should_exit = True
        thread.join()


def test_the_page_says_that_a_browser_cannot_play(browser, study):
    folder, _ = study
    for clip in (folder / PAGE / "clips").iterdir():
        clip.write_bytes(b"no video")
    browser.open((folder / PAGE / "index.html").as_uri())
    browser.press("Enter")
    browser.wait("document.getElementById('trouble').textContent.includes('cannot play a video')")
    browser.press("ArrowLeft")
    assert shown(browser) == "Pair 1 of 4"
