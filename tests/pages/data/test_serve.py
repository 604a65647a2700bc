"""The command's ways to end before it serves, each in one line."""

import socket

import pytest

pytest.importorskip("uvicorn")
from lavie.data.shards.index import load_index
from lavie.errors import ConfigError
from lavie.pages.data.serve import serve
from tests.cascades import stage_config


def test_a_taken_port_and_a_step_too_late_are_one_line(demo, tmp_path):
    index = load_index([str(demo / "train")])
    exclude = tmp_path / "exclude.txt"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: .*give another one"):
            serve(index, port, print, exclude=exclude)
    data = {"num_frames": 4, "num_images": 1, "height": 24, "width": 32, "fps": 8, "train": [str(demo / "train")]}
    run = stage_config("base", data=data, max_train_steps=9)
    with pytest.raises(ConfigError, match="--step 10: wanted a step from 1 to max_train_steps, 9"):
        serve(index, 0, print, exclude=exclude, config=run, step=10)
    assert not exclude.exists()
