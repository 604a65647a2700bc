import csv
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lavie.errors import ConfigError, DataError
from lavie.evaluation.human.answers import COLUMNS, read_answers
from lavie.evaluation.human.key import ANSWERS, write_key
from lavie.pages.human.build import write_page
from tests.evaluation.human.studies import rng, rows, some_key, vote

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
from lavie.pages.human.serve import LARGEST, Gathering, make_app, serve  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def study(tmp_path):
    key = some_key(raters=4, pairs=4, ratings=3)
    write_key(tmp_path / "key.json", key)
    write_page(tmp_path, key)
    (tmp_path / "page/clips").mkdir()
    (tmp_path / "page/clips/0.mp4").write_bytes(bytes(range(100)))
    return tmp_path, key


@pytest.fixture
def ask(study):
    """Ask the server of the study: (path, body or None, headers) -> (code, text)."""
    server = uvicorn.Server(uvicorn.Config(make_app(study[0]), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def ask(path, body=None, **headers):
        headers = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    yield ask
    server.should_exit = True
    thread.join()


def test_the_page_and_its_clips_are_shown_and_nothing_else(ask):
    assert ask("")[1].startswith("<!doctype html>")
    assert ask("clips/0.mp4", Range="bytes=10-12") == (206, "\x0a\x0b\x0c")
    for path in ("key.json", "../key.json", "%2e%2e/key.json", "clips/../../key.json", "answers.csv"):
        assert ask(path)[0] == 404


def test_answers_are_appended(ask, study):
    folder, key = study
    own = rows(key, vote(key, rng(), (1, 1, 1)))
    assert ask("answers", own[:2]) == (200, '{"taken":2}')
    assert ask("answers", own[2:5])[0] == 200
    with (folder / ANSWERS).open(newline="") as file:
        assert list(csv.reader(file)) == [list(COLUMNS), *own[:5]]


@pytest.mark.parametrize(
    "change, code",
    (
        (lambda own: b"{", 400),
        (lambda own: [], 400),
        (lambda own: {"a": 1}, 400),
        (lambda own: [own[0], [*own[1][:4], "best", *own[1][5:]]], 400),
        (lambda own: [[*own[0][:5], 2.0, own[0][6]]], 400),
        (lambda own: [["=1+1", *own[0][1:]]], 400),
        (lambda own: b"[" + b" " * LARGEST + b"]", 413),
    ),
)
def test_what_is_no_answer_is_refused_whole(ask, study, change, code):
    folder, key = study
    assert ask("answers", change(rows(key, vote(key, rng(), (1, 1, 1)))))[0] == code
    assert not (folder / ANSWERS).exists()


def test_other_sites_are_refused(ask, study):
    folder, key = study
    own = rows(key, vote(key, rng(), (1, 1, 1)))
    assert ask("answers", own[:1], Content_Type="text/plain")[0] == 415
    assert ask("", Host="study.example")[0] == 400
    assert not (folder / ANSWERS).exists()


def test_places_are_given_in_turn_and_go_on_after_a_start(ask, study):
    folder, key = study
    given = [json.loads(ask("place")[1]) for _ in range(5)]
    assert [reply["place"] for reply in given] == [0, 1, 2, 3, 0] and given[0]["study"] == key.study
    answered = [row for row in rows(key, vote(key, rng(), (1, 1, 1))) if row[2].startswith(("0-", "1-"))]
    Gathering(folder, key).append(answered)
    assert Gathering(folder, key).next_place() == 2


@pytest.mark.parametrize("before, error", ((b"", None), (b"caf\xe9\n\n", "answers.csv: cannot be read")))
def test_what_lies_in_place_of_answers(study, before, error):
    folder, key = study
    (folder / ANSWERS).write_bytes(before)
    if error:
        with pytest.raises(DataError, match=error):
            Gathering(folder, key)
        return
    answered = rows(key, vote(key, rng(), (1, 1, 1)))
    Gathering(folder, key).append(answered)
    assert len(read_answers([folder / ANSWERS], key).found) == len(answered)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no study of `lavie eval human make`"):
        make_app(tmp_path)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(study):
    """^C ends it as any command: one line, and exit code 130."""
    command = [sys.executable, "-m", "lavie.cli", "eval", "human", "serve", str(study[0]), "--port", "0"]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = running.stdout.readline()
    port = re.search(r"http://127\.0\.0\.1:(\d+)/ shows", line)[1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/study", timeout=30) as reply:
        assert json.loads(reply.read()) == {"study": study[1].study}
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (130, "interrupted\n")


def test_a_port_that_is_taken_is_named(study):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: .*give another one"):
            serve(study[0], port, print)
