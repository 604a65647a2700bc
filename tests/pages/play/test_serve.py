"""The command: a taken port and a folder that is no run are one line, and a gallery outlives kill -9."""

import json
import socket
import time
import urllib.request

import pytest

pytest.importorskip("uvicorn")
from lavie.cli.play import read_upload
from lavie.errors import CheckpointError, ConfigError
from lavie.pages.play.gallery import Gallery, alone
from lavie.pages.play.serve import serve
from tests.pages.play.studios import asked
from tests.pages.serving import command


def test_a_taken_port_and_a_folder_that_is_no_run_are_one_line(cascade_folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: .*give another one"):
            serve([str(cascade_folder)], tmp_path / "out", port, print, read_still=read_upload)
    with pytest.raises(CheckpointError, match="no checkpoint-<step> folder"):
        serve([str(tmp_path)], tmp_path / "out", 0, print, read_still=read_upload)
    assert not (tmp_path / "out").exists()


def test_a_gallery_is_served_once_and_one_that_cannot_be_written_is_one_line(cascade_folder, tmp_path):
    out = tmp_path / "out"
    (out / "images").mkdir(parents=True)
    (out / "images/of-the-first.partial").touch()
    with alone(out), pytest.raises(ConfigError, match=f"^--out {out}: another lavie play draws into it: "):
        serve([str(cascade_folder / "base")], out, 0, print, read_still=read_upload)
    assert (out / "images/of-the-first.partial").exists()
    with alone(out):  # the lock ends with its server
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/out: cannot be written to: Not a directory: give another folder"):
        serve([str(cascade_folder / "base")], tmp_path / "file/out", 0, print, read_still=read_upload)


def ask(address, path, value=None):
    """Ask a running server as its page does."""
    root, _, token = address.partition("#")
    headers = {"X-Lavie-Token": token, "Origin": root.rstrip("/"), "Content-Type": "application/json"}
    data = None if value is None else json.dumps(value).encode()
    with urllib.request.urlopen(urllib.request.Request(root + path, data, headers), timeout=60) as reply:
        return json.loads(reply.read())


@pytest.mark.slow
def test_the_gallery_outlives_a_kill(cascade_folder, tmp_path):
    words = ("play", f"one={cascade_folder}", "--out", tmp_path / "gallery", "--port", 0)
    with command(*words) as (process, address):
        ask(address, "api/jobs", asked(stop_after="base"))
        end = time.monotonic() + 60
        while not (shown := ask(address, "api/gallery")["clips"]):
            assert time.monotonic() < end
            time.sleep(0.05)
        ask(address, "api/jobs", asked(stop_after="base", clips=16, stages={"base": {"num_inference_steps": 500}}))
        process.kill()
        process.wait()
    again = Gallery(tmp_path / "gallery")
    assert shown[0] in again.page(0, 60) and again.faults == []
