"""The benchmark of the page: it draws with and without requests, cancels jobs, and prints what it measured."""

import os
import re
from types import SimpleNamespace

import pytest

pytest.importorskip("uvicorn")
from lavie.bench import play
from lavie.pages.play.app import make_app
from tests.pages.play.studios import some_studio
from tests.pages.serving import served


def test_what_is_measured_is_printed(tmp_path, monkeypatch, capsys):
    for name, value in (("SPAN", 0.5), ("CANCELS", 2), ("RATE", 200), ("VISITORS", 2)):
        monkeypatch.setattr(play, name, value)
    studio, _ = some_studio(tmp_path)
    with served(lambda port: make_app(studio, port=port, token="a"), ending=studio.changes.close) as address:
        play.measure(f"{address}#a", os.getpid(), pairs=2)
    printed = capsys.readouterr().out
    assert len(re.findall(r"(?m)^[\d.]+ steps a second alone, [\d.]+ beside requests$", printed)) == 2
    assert int(re.search(r"requests: (\d+) in", printed)[1]) > 0
    assert re.search(r"takes [\d.]+ of its time alone \(median of 2 pairs;", printed)
    assert re.search(r"cancelled jobs ended after [\d.]+ s, [\d.]+ s at most", printed)


def test_a_refusal_of_the_server_ends_it():
    page = play.Page("http://127.0.0.1:1/#a")
    page._connection = SimpleNamespace(
        request=lambda *_: None, getresponse=lambda: SimpleNamespace(status=403, read=lambda: b"no")
    )
    with pytest.raises(RuntimeError, match="/api/page: 403 no"):
        page.ask("/api/page")
