"""The report in a browser: clips that play together, values under the pointer and by keys, wide and narrow screens."""

import pytest

from lavie.pages.report import build
from lavie.pages.report.build import write_report
from tests.browser import Browser, requires_chromium
from tests.pages.report.folders import HOSTILE, PROMPTS, some_run

pytestmark = [pytest.mark.slow, requires_chromium]
CLIPS = "[...document.querySelectorAll('video')]"
READY = f"{CLIPS}.length && {CLIPS}.every((clip) => clip.readyState >= 3)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [some_run(folder / "one"), some_run(folder / "two", steps=12, prompts=(*PROMPTS, HOSTILE))]


@pytest.fixture
def offline(browser):
    browser.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    browser.events.clear()
    return browser


def shown(browser, path):
    browser.open(path.as_uri())
    browser.wait(READY)
    return path.as_uri()


def drag(browser, value):
    browser.ask(f"place.value = {value}; place.dispatchEvent(new Event('input')); 0")


@pytest.mark.parametrize("embedded", (True, False))
def test_clips_play_together_and_follow_the_slider(offline, runs, tmp_path, monkeypatch, embedded):
    if not embedded:
        monkeypatch.setattr(build, "LIMIT", 1000)
    url = shown(offline, write_report(runs, tmp_path / "report.html"))
    assert offline.ask(f"{CLIPS}.length") == 10 and offline.ask(f"{CLIPS}.every((clip) => clip.paused)")
    drag(offline, 500)
    offline.wait(f"{CLIPS}.every((clip) => Math.abs(clip.currentTime / clip.duration - 0.5) < 0.01)")

    # By keyboard: the button plays all, the slider moves with them, and the button stops all at one place.
    offline.ask("play.focus(); 0")
    offline.press("Space")
    assert offline.ask("play.textContent") == "Pause all" and offline.ask("play.getAttribute('aria-pressed')") == "true"
    offline.wait("Number(place.value) > 0 && Number(place.value) !== 500")
    offline.wait(f"{CLIPS}.every((clip) => !clip.paused && clip.played.length > 0)")
    offline.press("Space")
    offline.wait(f"{CLIPS}.every((clip) => clip.paused && Math.abs(clip.currentTime - {CLIPS}[0].currentTime) < 0.001)")
    offline.ask("place.focus(); place.value = 0; 0")
    offline.press("ArrowRight")
    assert offline.ask("Number(place.value)") == 1
    assert offline.faults() == []
    assert all(asked == url or asked.startswith(("data:", runs[0].parent.as_uri())) for asked in offline.requested())


def test_values_are_told_under_the_pointer_and_by_keys(offline, runs, tmp_path):
    shown(offline, write_report(runs[:1], tmp_path / "report.html"))
    first = "document.querySelector('svg[data-chart]')"
    offline.ask(f"{first}.scrollIntoView(); 0")
    box = offline.ask(f"(({{left, width, top}}) => [left + width * 0.99, top + 40])({first}.getBoundingClientRect())")
    offline.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    offline.wait("document.querySelector('.readout').textContent.startsWith('step 8: video + 0.25 image ')")
    assert offline.ask(f"{first}.querySelector('.cursor').getAttribute('visibility')") == "visible"
    offline.ask(f"{first}.focus(); 0")
    offline.press("ArrowLeft")
    assert offline.ask("document.querySelector('.readout').textContent").startswith("step 7: ")
    assert offline.ask(f"getComputedStyle({first}).outlineStyle") == "solid"
    assert offline.faults() == []


def test_a_box_hides_a_run_and_no_script_is_needed_for_it(offline, runs, tmp_path):
    offline.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        offline.open(write_report(runs, tmp_path / "report.html").as_uri())
        of_two = "getComputedStyle(document.querySelector('polyline.run-1')).display"
        assert offline.ask(of_two) == "inline"
        offline.ask("document.getElementById('show-run-1').click(); 0")
        assert offline.ask(of_two) == "none"
        # Each clip has controls of its own then.
        assert offline.ask(f"{CLIPS}.every((clip) => clip.controls)") and offline.ask("player.hidden")
        assert offline.ask("document.querySelectorAll('polyline.thick').length") > 10
    finally:
        offline.call("Emulation.setScriptExecutionDisabled", value=False)


def test_a_hostile_prompt_is_shown_as_it_is(offline, runs, tmp_path):
    shown(offline, write_report(runs, tmp_path / "report.html"))
    assert HOSTILE in offline.ask("[...document.querySelectorAll('.prompt')].map((cell) => cell.textContent)")
    assert offline.faults() == []


def test_a_clip_that_cannot_be_played_says_so(offline, tmp_path):
    run = some_run(tmp_path / "run")
    (run / "samples/step-000008/00001.mp4").write_bytes(b"no video")
    offline.open(write_report([run], tmp_path / "report.html").as_uri())
    offline.wait("document.querySelector('.clips').textContent.includes('cannot be played here')")
    offline.wait(READY)
    assert offline.ask(f"{CLIPS}.length") == 3


@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_a_narrow_screen_scrolls_down_only(runs, tmp_path, scheme):
    page = write_report(runs, tmp_path / "report.html")
    with Browser(tmp_path / "browser", (360, 740)) as browser:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        shown(browser, page)
        assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
        size = "getComputedStyle(document.querySelector('.chart text')).fontSize.slice(0, -2)"
        scale = "document.querySelector('svg[data-chart]').getBoundingClientRect().width / 460"
        assert browser.ask(f"{size} * {scale}") >= 8  # letters of an axis, in pixels
        red, green, blue = browser.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (red + green + blue > 600) == (scheme == "light")
        assert browser.faults() == []
