"""The page in a browser, over a cascade of tiny networks: typed, drawn, played, used again and compared."""

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
from lavie.cli.play import read_upload
from lavie.inference.video_io import write_png
from lavie.pages.play.app import make_app
from lavie.pages.play.gallery import Gallery
from lavie.pages.play.sources import find_sources
from lavie.pages.play.studio import Studio
from lavie.pages.play.uploads import Uploads
from tests.browser import Browser, requires_chromium
from tests.pages.serving import served

pytestmark = [pytest.mark.slow, requires_chromium]
TOKEN = "a-token"
READY = "document.getElementById('status').textContent === 'ready'"
WATCH = """
  window.seen = new Set();
  new MutationObserver(() => {
    for (const bar of document.querySelectorAll("#queue progress")) {
      if (bar.value) seen.add(bar.parentNode.dataset.stage);
    }
    if (document.querySelector("#queue img").src) seen.add("picture");
  }).observe(document.getElementById("queue"), { subtree: true, childList: true, attributes: true });
  0
"""
"""Notes which stages move, and whether a picture of them is shown."""


@pytest.fixture(scope="module")
def play(cascade_folder, tmp_path_factory):
    """A browser at a page, and the page's studio."""
    folder = tmp_path_factory.mktemp("play")
    (folder / "work").mkdir()
    uploads = Uploads(folder / "gallery/images", read_upload)
    sources = find_sources([f"three={cascade_folder}", f"one={cascade_folder / 'base'}"])
    studio = Studio(sources, Gallery(folder / "gallery"), uploads, {}, folder / "work")
    with (
        served(lambda port: make_app(studio, port=port, token=TOKEN), ending=studio.changes.close) as address,
        Browser(folder) as browser,
    ):
        browser.open(f"{address}#{TOKEN}")
        browser.wait(READY)
        yield browser, studio, address


def fill(browser, name, value):
    browser.ask(f"document.getElementById('{name}').value = {value!r}; 0")


def press_with_control(browser, key, code):
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, modifiers=2)


def click(browser, selector):
    """Click in the middle of an element, as a mouse does."""
    browser.ask(f"document.querySelector({selector!r}).scrollIntoView({{ block: 'center' }}); 0")
    x, y = browser.ask(
        f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect();"
        " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def cards(browser):
    return browser.ask("document.querySelectorAll('#gallery li').length")


def test_a_prompt_is_typed_watched_and_played(play, tmp_path):
    browser, studio, _ = play
    assert browser.ask("location.hash") == "" and browser.ask("document.activeElement.id") == "prompt"
    browser.call("Input.insertText", text="a <b>fox</b>")
    fill(browser, "seed", "7")
    browser.ask(WATCH)
    press_with_control(browser, "Enter", 13)
    browser.wait("document.querySelector('#queue li')?.dataset.state === 'done'")
    browser.wait("document.querySelectorAll('#gallery li').length === 1")
    seen = browser.ask("[...seen]")
    assert {"vsr", "picture"} <= set(seen)
    assert browser.ask("document.querySelector('#gallery .about p').textContent") == "a <b>fox</b>"

    # By keyboard: Tab to the clip, Enter to look at it.
    browser.ask("document.querySelector('#gallery .open').focus(); 0")
    browser.press("Enter")
    browser.wait("document.querySelector('#shown video')?.currentTime > 0")
    assert browser.ask("document.querySelector('#shown video').videoWidth") == 192  # 96, enlarged to be seen
    assert "seed7" in browser.ask("document.querySelector('#shown dl').textContent")
    browser.press("r")
    browser.screenshot(tmp_path / "look.png")
    assert (tmp_path / "look.png").stat().st_size > 5000
    browser.ask("document.getElementById('close').click(); 0")
    assert len(studio.gallery) == 1 and browser.faults() == []


def test_settings_of_a_clip_are_used_again_and_two_clips_compared(play):
    browser, studio, _ = play
    fill(browser, "prompt", "an owl")
    fill(browser, "seed", "1")
    browser.ask(
        "document.getElementById('until').value = 'base'; document.getElementById('until').onchange();"
        "document.getElementById('base-num_inference_steps').value = 2; 0"
    )
    click(browser, "#draw")
    browser.wait("document.querySelectorAll('#gallery li').length === 2")
    # The first clip again: the form is as it was.
    click(browser, "#gallery li:nth-child(2) .actions button")
    values = browser.ask(
        "['prompt', 'seed', 'until', 'base-num_inference_steps'].map((id) => document.getElementById(id).value)"
    )
    assert values == ["a <b>fox</b>", "7", "vsr", "3"]
    for number in (1, 2):
        click(browser, f"#gallery li:nth-child({number}) .mark")
    click(browser, "#compare")
    browser.wait("[...document.querySelectorAll('#shown video')].every((video) => video.currentTime > 0)")
    assert browser.ask("document.querySelectorAll('#shown video').length") == 2
    assert "seed" in browser.ask(
        "[...document.querySelectorAll('dd.differs')].map((dd) => dd.previousSibling.textContent)"
    )
    browser.ask("document.getElementById('close').click(); 0")
    first, second = studio.gallery.page(0, 2)
    assert (first["order"]["stop_after"], second["order"]["stop_after"]) == ("base", "vsr")
    assert browser.faults() == []


def test_a_clip_of_stages_that_the_source_lacks_fills_what_fits(play):
    browser, _, _ = play
    told = browser.ask(
        "(() => { const clip = structuredClone(clips.find((clip) => clip.order.stop_after === 'vsr'));"
        " clip.order.model = 'one'; clip.order.seed = 41; useAgain(clip);"
        " return ['until', 'seed', 'model'].map((id) => element(id).value).concat(element('trouble').textContent); })()"
    )
    assert told == ["base", "41", "one", "one has no stage interpolation, vsr any more."]
    browser.ask("element('model').value = 'three'; showSource(); complain(''); 0")


def test_older_clips_stay_when_new_ones_come_and_marks_that_left_are_dropped(play):
    browser, _, _ = play
    left = browser.ask(
        """(async () => {
          const real = ask, [newest, oldest] = clips;
          ask = async () => ({ clips: [newest], all: 2, faults: [] }); // as one page of a long gallery
          await showGallery();
          const kept = [clips.length, marked.length, element("compare").disabled];
          clips = [oldest];
          await showGallery();
          const dropped = [clips.length, marked.length, element("compare").disabled];
          ask = real;
          await showGallery();
          mark(newest.id);
          return [kept, dropped, cards.length];
        })()""".replace("cards.length", "element('gallery').children.length")
    )
    assert left == [[2, 2, False], [1, 1, True], 2]
    assert browser.faults() == []


def test_an_image_that_a_network_cannot_begin_with_is_told_and_redrawn_instead(play, tmp_path):
    browser, studio, _ = play
    import numpy as np

    write_png(tmp_path / "fox.png", np.full((30, 40, 3), 200, np.uint8))
    (tmp_path / "fox.txt").write_text("no image")
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / "fox.txt")])
    browser.wait("document.getElementById('trouble').textContent.includes('the image')")
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / "fox.png")])
    browser.wait("document.getElementById('still').naturalWidth > 0")
    fill(browser, "strength", "0.5")
    click(browser, "#draw")
    browser.wait("document.querySelectorAll('#gallery li').length === 3")
    assert studio.gallery.page(0, 1)[0]["order"]["strength"] == 0.5
    click(browser, "#no-image")
    assert browser.ask("image") is None
    # The refusal of the text is a message of the browser too.
    assert all("400" in fault for fault in browser.faults())


@pytest.mark.parametrize("scheme, width", (("light", 1280), ("dark", 390)))
def test_the_page_fits_wide_and_narrow_screens_light_and_dark(play, tmp_path, scheme, width):
    browser, _, address = play
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=860, deviceScaleFactor=1, mobile=False)
    browser.open(address)
    browser.wait(READY)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(22, 24, 29)") == (scheme == "dark")
    assert cards(browser) == 3


def test_the_page_says_what_to_do_without_its_token(play):
    browser, _, address = play
    browser.ask("sessionStorage.clear(); 0")
    browser.open(address)
    browser.wait("document.getElementById('trouble').textContent.includes('lavie play')")
    browser.open("about:blank")
    browser.open(f"{address}#another-token")
    browser.wait("document.getElementById('trouble').textContent.includes('an earlier start')")
    assert all(url.startswith((address, "about:", "data:image/svg")) for url in browser.requested())
