"""Where results cannot be written is said before anything is read or trained: none of what is named here exists."""

import pytest

from lavie.errors import ConfigError
from tests.cli.commands import run_lavie

COMMANDS = {
    "compare": ("eval", "compare", "a.json", "b.json", "--out", "{}/x.json"),
    "ucf101": ("eval", "ucf101", "prompts", "--out", "{}/x.jsonl"),
    "clipsim": ("eval", "clipsim", "--clips", "c", "--weights", "w", "--out", "{}/x.json"),
    "clipsim prompts": ("eval", "clipsim", "prompts", "a.json", "--out", "{}/x.jsonl"),
    "vbench prepare": ("eval", "vbench", "prepare", "--prompts", "p.json", "--out", "{}"),
    "vbench score": ("eval", "vbench", "score", "clips", "--out", "{}/x.json"),
    "human make": ("eval", "human", "make", "a", "b", "--prompts", "p.txt", "--out", "{}"),
    "human analyse": ("eval", "human", "analyse", "study", "--out", "{}"),
    "table7": ("ablate", "table7", "{}"),
    "page": ("ablate", "page", "nowhere", "--out", "{}/x.md"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place, words", (("file", "file is no folder"), ("/proc/deep", "/proc/deep.*cannot be")))
def test_a_place_that_cannot_be_written_is_said_before_any_work(tmp_path, monkeypatch, command, place, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=words):
        run_lavie(*(word.format(place) for word in COMMANDS[command]))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_in_place_of_the_pages_folder_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page").touch()
    with pytest.raises(ConfigError, match="page is no folder"):
        run_lavie("ablate", "page", "nowhere", "--out", "page.md")


def test_a_file_in_place_of_the_raters_folder_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study/page").touch()
    with pytest.raises(ConfigError, match="study/page exists, and is nothing that --overwrite replaces"):
        run_lavie("eval", "human", "make", "a", "b", "--prompts", "p.txt", "--out", "study", "--overwrite")
    assert (tmp_path / "study/page").is_file()
