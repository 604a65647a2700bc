"""The grid of what validation drew: which cells it has, and where their files are."""

import re

import pytest

from lavie.pages.report import samples
from lavie.pages.report.read import read
from lavie.pages.report.samples import Grid
from tests.pages.report.folders import PROMPTS, drawn, lines, some_run


@pytest.fixture
def folder(tmp_path):
    return some_run(tmp_path / "run")


def sources(markup):
    return re.findall(r'<(?:video|img) src="([^"]*)"', markup)


def test_prompts_are_rows_and_steps_are_columns(folder):
    grid = Grid(read([folder]))
    assert grid.steps == [0, 8] and grid.prompts == [(prompt, 1) for prompt in PROMPTS] and grid.hidden == []
    table = grid.table(None)
    labels = re.findall(r'aria-label="([^"]*)"', table)
    assert labels == [f"run, step {step}: {prompt}" for prompt in PROMPTS for step in (0, 8)]
    assert all(source.startswith("data:video/mp4;base64,") for source in sources(table))


def test_links_lead_to_the_files(folder, tmp_path):
    (tmp_path / "pages").mkdir()
    grid = Grid(read([folder]))
    found = sources(grid.table(tmp_path / "pages"))
    assert found[0] == "../run/samples/step-000000/00000.mp4"
    assert all((tmp_path / "pages" / source).is_file() for source in found) and len(found) == 4
    assert grid.size() == sum((tmp_path / "pages" / source).stat().st_size for source in found)


def test_runs_share_rows_of_a_prompt(folder, tmp_path):
    other = some_run(tmp_path / "other", steps=4, prompts=(PROMPTS[1], "alone", "alone"))
    grid = Grid(read([folder, other]))
    assert grid.steps == [0, 4, 8] and grid.prompts == [(PROMPTS[0], 1), (PROMPTS[1], 1), ("alone", 1), ("alone", 2)]
    table = grid.table(None)
    assert table.count("not drawn") == 5 and "alone (2)" in table
    assert re.findall(r'<tr class="run-(\d)">', table) == ["0", "0", "1", "1", "1"]


def test_a_long_run_shows_its_ends_and_says_what_it_leaves_out(folder):
    for step in (*range(1, 8), *range(9, 40)):
        (folder / f"samples/step-{step:06d}").symlink_to(folder / "samples/step-000008")
    grid = Grid(read([folder]))
    assert len(grid.steps) == samples.MOST_STEPS and grid.steps[0] == 0 and grid.steps[-1] == 39
    assert grid.hidden == ["12 of 40 steps are shown; all lie in samples/."]
    assert grid.hidden[0] in samples.section(grid, None)


def test_very_many_prompts_are_cut_and_that_is_said(tmp_path):
    folder = some_run(tmp_path / "run")
    for path in folder.glob("samples/*/prompts.jsonl"):
        names = ({"name": f"{n:05d}", "prompt": f"prompt {n}", "num_frames": 4} for n in range(60))
        lines(path, *names)
    grid = Grid(read([folder]))
    assert len(grid.prompts) * len(grid.steps) <= samples.MOST_CLIPS
    assert grid.hidden == ["48 of 60 prompts are shown; all lie in samples/."]


def test_a_file_that_is_gone_is_said(folder):
    (folder / "samples/step-000008/00001.mp4").unlink()
    for beside in (None, folder):
        table = Grid(read([folder])).table(beside)
        assert table.count("00001.mp4 is missing") == 1 and len(sources(table)) == 3


def test_pictures_stand_in_the_grid_too(folder):
    drawn(folder, 8, PROMPTS, frames=1)
    for name in ("00000.png", "00001.png"):
        (folder / "samples/step-000008" / name).write_bytes(b"\x89PNG")
    table = Grid(read([folder])).table(None)
    assert [source.partition(";")[0] for source in sources(table)] == ["data:video/mp4", "data:image/png"] * 2


def test_a_run_without_samples_says_so(folder):
    for path in folder.glob("samples/*/prompts.jsonl"):
        path.unlink()
    assert "not measured: validation has drawn no samples" in samples.section(Grid(read([folder])), None)
