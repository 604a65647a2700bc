"""The page: what was not run is said not to be, and what was run stands there with its numbers."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavie.errors import DataError
from lavie.evaluation.ablation.page import write_page
from lavie.evaluation.ablation.results import gather, line
from lavie.evaluation.ablation.tables import ABLATIONS, TABLE7
from tests.evaluation.ablation.made_up import result, shares

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/ablations.md"


def table7(seeds=5):
    """Results in which RoPE is better in colour, and as good in direction."""
    rng = np.random.default_rng(0)
    made = []
    for arm, right in (("rope", 44), ("absolute", 20)):
        for seed in range(seeds):
            scores = {
                "double.colour": shares(right + seed % 3),
                "double.direction": shares(int(rng.integers(20, 30))),
                "double.unsteadiness": [0.01 + 0.001 * seed if arm == "rope" else 0.05] * 48,
            }
            values = {name: float(np.mean(numbers)) for name, numbers in scores.items()}
            made.append(
                result(arm, seed, values=values | {"validation_loss": 0.05, "ms_per_step": 190.0}, scores=scores)
            )
    return made


def sections(text):
    return dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.M | re.S))


def test_without_results_nothing_is_claimed(tmp_path):
    write_page({}, tmp_path / "ablations.md")
    found = sections((tmp_path / "ablations.md").read_text())
    assert list(found) == [ablation.title for ablation in ABLATIONS.values()]
    for ablation, text in zip(ABLATIONS.values(), found.values(), strict=True):
        assert "**Not run yet.**" in text
        assert f"lavie ablate {ablation.name} " in text
        assert not re.search(r"seen\*\*|%\)|\.png|hardware", text)


def test_a_page_with_results(tmp_path):
    page = tmp_path / "ablations.md"
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations/by_hand.md").write_text("## What did not help\n\nThis and that.\n\n")
    made = table7()
    write_page({"table7": made}, page)
    text = page.read_text()
    found = sections(text)
    assert list(found)[-1] == "What did not help"
    own = found[TABLE7.title]
    assert "Not run yet" not in own
    assert "Not run yet" in found[ABLATIONS["table6"].title]
    rows = {cells[0]: cells[1:] for cells in (row.strip("| ").split(" | ") for row in own.splitlines())}
    colour = rows["RoPE keeps the subject: colour behind the trained length"]
    assert colour[:2] == ["**seen**: both intervals lie above the margin", "+50.0 %"]
    assert colour[-1] == "5 of 5; 0.0312"
    assert rows["RoPE moves more smoothly behind the trained length"][0].startswith("**seen**")
    assert (
        rows["RoPE keeps the subject: area behind the trained length"][0]
        == "**undecidable**: nothing could be measured"
    )
    assert "a machine, 2 cores" in own and "2026-01-02" in own and "10 trainings, 0.3 hours" in own
    kept = gather([tmp_path / "ablations"])["table7"]
    assert [*map(line, kept)] == [*map(line, sorted(made, key=lambda r: (r.seed, r.arm != "rope")))]
    with Image.open(tmp_path / "ablations/table7.png") as picture:
        assert picture.width > 800
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50

    # The page of what stands beside a page is that page.
    write_page(gather([tmp_path / "ablations"]), page)
    assert page.read_text() == text


def test_results_of_something_else_are_refused(tmp_path):
    with pytest.raises(DataError, match="results are of table9"):
        write_page({"table9": [result("a", 0, "table9")]}, tmp_path / "ablations.md")


def test_the_page_of_this_project_is_what_the_command_writes(tmp_path):
    folder = PAGE.with_suffix("")
    if folder.is_dir():
        shutil.copytree(folder, tmp_path / "ablations")
    files = sorted(folder.glob("*.jsonl"))
    write_page(gather(files), tmp_path / "ablations.md")
    assert PAGE.read_text() == (tmp_path / "ablations.md").read_text(), "lavie ablate page docs/ablations --overwrite"
    assert sorted(path.name for path in folder.glob("*")) == sorted(p.name for p in (tmp_path / "ablations").glob("*"))


def test_a_section_by_hand_that_cannot_be_read_is_named_before_anything_is_written(tmp_path):
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations/mine.md").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"mine\.md: no section of the page that can be read"):
        write_page({"table7": table7()}, tmp_path / "ablations.md")
    assert [path.name for path in tmp_path.rglob("*")] == ["ablations", "mine.md"]


def test_results_of_an_arm_that_there_is_none_of_are_refused(tmp_path):
    with pytest.raises(DataError, match="results are of table7, arm ropes: it has rope, absolute"):
        write_page({"table7": [result("ropes", 0)]}, tmp_path / "page.md")
