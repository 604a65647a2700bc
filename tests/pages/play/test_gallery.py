"""The gallery outlives the process, and a damaged entry is told and stays where it is."""

import json
import logging
import re
import shutil

import numpy as np
import pytest

from lavie.pages.play.gallery import Gallery
from lavie.pages.play.order import read_order
from tests.pages.play.studios import asked

FRAMES = np.zeros((2, 16, 24, 3), np.uint8)
SETTINGS = {"num_inference_steps": 4, "guidance_scale": 2.0, "scheduler": "ddim", "negative_prompt": "", "own": 1}


def add(gallery, seed=0):
    order = read_order(asked(seed=seed))
    return gallery.add(FRAMES, order=order, settings={"base": SETTINGS}, weights={}, loras=[], fps=8, seconds=1)


def test_what_was_added_is_there_after_a_start(tmp_path):
    gallery = Gallery(tmp_path)
    made = [add(gallery, seed) for seed in range(3)]
    again = Gallery(tmp_path)
    assert again.page(0, 9) == gallery.page(0, 9) == [entry.model_dump(mode="json") for entry in made[::-1]]
    assert again.page(1, 1)[0]["order"]["seed"] == 1 and again.faults == []


def damage(path, entry):
    """What may be wrong with an entry: name -> the change, and what is told."""
    values = entry.model_dump(mode="json")
    other = "f" * 32
    return {
        "cut": (lambda: path.write_bytes(path.read_bytes()[:40]), "Expecting|Unterminated|delimiter"),
        "empty": (lambda: path.write_bytes(b""), "Expecting value"),
        "list": (lambda: path.write_text("[]"), "it: "),
        "key": (lambda: path.write_text(json.dumps(values | {"extra": 1})), "extra: "),
        "stage": (lambda: path.write_text(json.dumps(values | {"settings": {"upscaler": SETTINGS}})), "upscaler"),
        "steps": (
            lambda: path.write_text(json.dumps(values | {"settings": {"base": SETTINGS | {"guidance_scale": [7]}}})),
            "settings.base.guidance_scale: ",
        ),
        "lora": (lambda: path.write_text(json.dumps(values | {"loras": [{"lora": 7, "scale": 1}]})), "loras.0.lora: "),
        "surrogate": (lambda: path.write_text(json.dumps(values | {"made": "\ud800"})), "half of a character"),
        "binary": (lambda: path.write_bytes(b'{"\xff"}'), "no UTF-8"),
        "clip": (lambda: path.with_suffix(".mp4").unlink(), "mp4 is missing"),
        "name": (lambda: shutil.copy(path, path.with_name("note.json")), "its name is not of 32"),
        "moved": (lambda: shutil.copy(path, path.with_name(f"{other}.json")), "it is of the clip"),
        "link": (lambda: (path.unlink(), path.symlink_to("nowhere.json")), "No such file"),
        "folder": (lambda: (path.unlink(), path.mkdir()), "Is a directory"),
    }


KINDS = (
    "cut",
    "empty",
    "list",
    "key",
    "stage",
    "steps",
    "lora",
    "surrogate",
    "binary",
    "clip",
    "name",
    "moved",
    "link",
    "folder",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_entry_is_told_in_a_line_and_nothing_is_lost(tmp_path, caplog, kind):
    gallery = Gallery(tmp_path)
    kept, hurt = add(gallery, 1), add(gallery, 2)
    change, told = damage(tmp_path / f"{hurt.id}.json", hurt)[kind]
    change()
    before = sorted(tmp_path.iterdir())
    with caplog.at_level(logging.WARNING, "lavie"):
        again = Gallery(tmp_path)
    assert kept.id in [entry["id"] for entry in again.page(0, 9)]
    [fault] = again.faults
    assert len(fault.splitlines()) == 1 and re.search(told, fault) and len(caplog.records) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_files_are_reached_by_the_names_of_entries_alone(tmp_path):
    gallery = Gallery(tmp_path)
    entry = add(gallery)
    assert gallery.file(f"{entry.id}.mp4").is_file() and gallery.file(f"{entry.id}.jpg").is_file()
    for name in (f"{entry.id}.json", entry.id, f"../{entry.id}.mp4", f"{'0' * 32}.mp4", f"{entry.id}.mp4.mp4", ""):
        assert gallery.file(name) is None
