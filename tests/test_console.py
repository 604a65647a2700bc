"""Texts are printed as they are: no markup, no emoji, no colours of their own."""

import ast
import io
import re
from pathlib import Path

import pytest
from rich.table import Table

from lavie.console import make_console, progress_bar

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ("00000.tar:dog: caption without media", "pip install 'lavie[dali]'", "a [bold]red[/bold] :fire: \\[x]")


@pytest.mark.parametrize("text", TEXTS)
def test_texts_titles_and_cells_are_printed_as_they_are(text):
    file = io.StringIO()
    console = make_console(file=file, width=100, force_terminal=True, color_system="truecolor")
    console.print(text)
    assert file.getvalue() == f"{text}\n"
    table = Table(text, title=text)
    table.add_row(text)
    console.print(table)
    plain = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
    assert plain.count(text) == 4


def test_the_product_makes_consoles_in_one_place():
    """A console of rich's own would turn `:dog:` into a picture and drop `[dali]`."""
    found = []
    for path in sorted((ROOT / "lavie").rglob("*.py")):
        if path.name == "console.py" or "kernels" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        of_rich = {name.name for node in imports if (node.module or "").startswith("rich") for name in node.names}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", "")
            given_one = any(keyword.arg == "console" for keyword in call.keywords)
            if name in of_rich & {"Console", "get_console"} or (
                name in of_rich & {"Progress", "track"} and not given_one
            ):
                found.append(f"{path.relative_to(ROOT)}:{call.lineno}: {name}")
    assert found == []


def test_progress_off_a_terminal_is_a_line_for_each_twentieth():
    file = io.StringIO()
    with progress_bar(make_console(file=file, width=80), "packing") as move:
        for done in range(1, 1001):
            move(done, 1000)
    assert file.getvalue().splitlines() == [f"packing: {50 * part:,} of 1,000" for part in range(1, 21)]
