"""The data page in a browser: samples are found, played and marked, and the batch of a step is shown."""

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
from lavie.pages.data.app import make_app
from tests.browser import Browser, requires_chromium
from tests.pages.data.views import some_browsing
from tests.pages.serving import served

pytestmark = [pytest.mark.slow, requires_chromium]
TOKEN = "a-token"


def test_samples_are_found_played_and_marked_and_a_batch_is_shown(demo, tmp_path):
    browsing = some_browsing(demo, tmp_path)
    browsing.step = 2
    with (
        served(lambda port: make_app(browsing, port=port, token=TOKEN)) as address,
        Browser(tmp_path, size=(390, 860)) as browser,
    ):
        # The batch of the step that the command named; the next one by a key.
        browser.open(f"{address}#{TOKEN}")
        browser.wait("document.getElementById('told').textContent === 'step 2: 2 rows, as training reads them'")
        expected = browsing.batches.row(2, 1)
        shown = browser.ask(
            "[...document.querySelectorAll('#rows > li:last-child .part')].map((part) => part.dataset.key)"
        )
        assert shown == expected["keys"]
        browser.wait("[...document.querySelectorAll('#rows video')].every((video) => video.currentTime > 0)")
        browser.ask("document.activeElement.blur(); 0")
        browser.press("ArrowRight")
        browser.wait("document.getElementById('told').textContent.startsWith('step 3: 2 rows')")
        assert browser.ask("document.querySelector('#rows h2').textContent") == "Position 4"
        assert browser.ask("document.documentElement.scrollWidth") <= 390

        # Samples by words, played by keyboard, and left out.
        browser.ask("document.getElementById('to-samples').click(); 0")
        browser.ask("document.getElementById('words').focus(); 0")
        browser.call("Input.insertText", text="red -left")
        browser.press("Enter")
        wanted = [s.key for s in browsing.table.index if "red" in s.caption and "left" not in s.caption]
        browser.wait(f"document.getElementById('found').textContent === '{len(wanted)} samples found'")
        assert browser.ask("[...document.querySelectorAll('#cards li')].map((card) => card.dataset.key)") == wanted
        browser.ask("document.querySelector('#cards .open').focus(); 0")
        browser.press("Enter")
        browser.wait("document.querySelector('#cards video').currentTime > 0")
        browser.ask("document.querySelector('#cards .mark').click(); 0")
        browser.wait("document.querySelector('#cards li.out')")
        browser.wait("document.getElementById('status').textContent.includes('1 sample left out')")
        assert browsing.excluded.path.read_text() == f"{wanted[0]}\n"
        browser.screenshot(tmp_path / "view.png")
        assert browser.faults() == []
        assert all(url.startswith((address, "data:image/svg")) for url in browser.requested())
