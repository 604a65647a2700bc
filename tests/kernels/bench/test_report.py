"""The report of the results: the latest times, what failed and why, and what to do where there are none."""

import pytest
from PIL import Image

pytest.importorskip("triton")

from lavie.kernels.bench import harness
from lavie.kernels.bench.report import renew
from tests.kernels.bench.results import failed_row, row, write_results


@pytest.mark.slow
def test_report(tmp_path):
    rows = []
    for ms in (9.0, 0.5):  # the later run counts
        rows += [row("triton", part, ms, 1) for part in harness.PARTS]
        rows += [row("eager", part, 5.0, 5.0 / ms) for part in harness.PARTS]
        rows += [failed_row("compile", part, "level 0, B=1", "OutOfMemoryError: too large") for part in harness.PARTS]
    rows += [failed_row("triton", part, "level 1", "OutOfResources: shared memory") for part in harness.PARTS]
    rows += [row("eager", part, 7.0, "", "level 1") for part in harness.PARTS]
    rows += [row("triton", "both, graph", 0.25, 1), row("eager", "both, graph", 5.0, 20.0)]
    results, readme = write_results(tmp_path, rows)
    picture = tmp_path / "results.png"
    renew(readme, results, picture)
    text = readme.read_text()
    assert text.startswith("Before\n") and text.endswith("After\n") and "old" not in text
    assert "| group_norm_silu | level 0, B=1, bfloat16 | 0.5 ms, 85% of copy" in text
    assert "| eager 10.0, compile failed | 0.25 ms, eager 20.0, compile not captured |" in text
    assert "level 1, bfloat16 | failed | failed | eager 7.0 ms | not captured, eager not captured |" in text
    assert "Failed: 2.\n\n- group_norm_silu, level 0, B=1, bfloat16, compile: OutOfMemoryError: too large\n" in text
    assert "- group_norm_silu, level 1, bfloat16, triton: OutOfResources: shared memory\n" in text
    assert "### GPU X" in text and "(results.png)" in text and Image.open(picture).size[0] > 500
    renew(readme, results, picture)  # again: nothing piles up
    assert readme.read_text() == text


def test_a_report_without_results_says_so(tmp_path):
    with pytest.raises(SystemExit, match=r"results.csv: no results yet"):
        renew(tmp_path / "README.md", tmp_path / "results.csv", tmp_path / "results.png")


def test_versions_are_listed_in_order(tmp_path):
    rows = []
    for number in range(8):
        case = [row("triton", part, 1.0, 1, f"case {number}") for part in harness.PARTS]
        rows += [values | {"date": f"2000-01-0{1 + (5 * number) % 8}"} for values in case]
    results, readme = write_results(tmp_path, rows)
    renew(readme, results, tmp_path / "results.png")
    assert "; ".join(f"torch 2, triton 3, 2000-01-0{day}" for day in range(1, 9)) + "." in readme.read_text()
