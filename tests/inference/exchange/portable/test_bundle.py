"""The files of an export are short, import no more than they say, and are the same each time."""

import ast
import math
import runpy
import subprocess
import sys

import pytest

from lavie.inference.exchange.portable import bundle as bundles
from lavie.inference.exchange.portable.bundle import bundle
from lavie.inference.exchange.portable.files import PIPELINE, UNET, pipeline_code, unet_code
from tests.doc_pages import ROOT

CODES = {UNET: unet_code, PIPELINE: pipeline_code}
LONGEST = 900
MAY_IMPORT = {"torch", "diffusers", "transformers", "numpy", "PIL"}
"""What a pipeline of diffusers has: it requires the last two itself."""


@pytest.mark.parametrize("name", CODES)
def test_files_are_short_and_stand_alone(name):
    text = CODES[name]()
    assert len(text.splitlines()) <= LONGEST
    assert text == CODES[name]()
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names) <= MAY_IMPORT


@pytest.mark.parametrize("command", (["check"], ["format", "--check"]))
def test_files_are_as_tidy_as_the_sources(command, tmp_path):
    for name, code in CODES.items():
        (tmp_path / f"{name}.py").write_text(code())
    ruff = [
        sys.executable,
        "-m",
        "ruff",
        *command,
        "--config",
        str(ROOT / "pyproject.toml"),
        "--no-cache",
        str(tmp_path),
    ]
    done = subprocess.run(ruff, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function: files by name -> they are the modules of a package of their own."""
    monkeypatch.setattr(bundles, "PACKAGE", tmp_path)

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)

    write.folder = tmp_path
    return write


SOURCE = """
import math
from .other import x

# Why.
USED = math.pi
\'\'\'Told.\'\'\'
FREE = 1


class Base:
    pass


class Kept(Base, Mixin):
    def called(self):
        return USED

    def replaced(self):
        return 1

    def idle(self):
        return FREE
"""
TEMPLATE = """
from . import source


class Kept(source.Kept):
    def replaced(self):
        return self.called()
"""


def test_only_what_is_needed_stays(package):
    package(source=SOURCE, template=TEMPLATE)
    text = bundle("One.", ["source.py"], "template.py", without=["Mixin"])
    assert "# Why.\nUSED = math.pi\n'''Told.'''" in text
    assert "class Kept(Base):" in text
    assert not any(word in text for word in ("Mixin", "FREE", "idle", "return 1", "other"))
    (package.folder / "made.py").write_text(text)
    made = runpy.run_path(str(package.folder / "made.py"))
    assert made["Kept"]().replaced() == made["USED"] == math.pi


def test_two_definitions_of_one_name_are_refused(package):
    package(
        a="def same():\n    return 1\n", b="def same():\n    return 2\n", template="def mine():\n    return same()\n"
    )
    with pytest.raises(ValueError, match=r"b\.py: same is defined by another module of the file too"):
        bundle("One.", ["a.py", "b.py"], "template.py")
