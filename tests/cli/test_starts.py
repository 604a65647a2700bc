"""What clips start from: files are read once for clips that are alike, and prompts of segments as lines."""

import numpy as np
import pytest
from PIL import Image

from lavie.cli.starts import StartOptions, read_segment_prompts
from lavie.errors import ConfigError
from lavie.inference.settings import BaseSettings


def test_an_image_is_read_once_for_each_size(tmp_path, monkeypatch):
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(tmp_path / "a.png")
    read = []

    def read_still(path, height, width, *, flag):
        read.append((path.name, height, width, flag))
        return np.asarray(Image.open(path).resize((width, height)))

    monkeypatch.setattr("lavie.data.prepare.given_media.read_still", read_still)
    small, large = BaseSettings(height=8, width=8), BaseSettings(height=16, width=8)
    settings = [small, large, small.model_copy(update={"seed": 5})]
    starts = StartOptions(image=tmp_path / "a.png").starts(settings)
    assert read == [("a.png", 8, 8, "--image"), ("a.png", 16, 8, "--image")]
    assert [start.given.frames.shape for start in starts] == [(1, 8, 8, 3), (1, 16, 8, 3), (1, 8, 8, 3)]
    assert starts[2] is starts[0]


def test_prompts_of_segments_are_lines_and_clips_blocks(tmp_path):
    file = tmp_path / "segments.txt"
    file.write_text("\na\n b \n\n\nc\n\n")
    assert read_segment_prompts(file) == [["a", "b"], ["c"]]
    file.write_text(" \n\n")
    with pytest.raises(ConfigError, match="no line has a prompt"):
        read_segment_prompts(file)
    file.write_text("a\nb\0\n")
    with pytest.raises(ConfigError, match=r"segments.txt, line 2: 'b\\x00' holds a NUL character"):
        read_segment_prompts(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_segment_prompts(tmp_path / "none.txt")
