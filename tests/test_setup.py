"""The packaging, as pip sees it."""

import subprocess
import sys
from pathlib import Path

import lavie

ROOT = Path(__file__).resolve().parents[1]


def test_the_package_has_one_version():
    """setup.py does not import lavie, whose dependencies pip installs later."""
    printed = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines()[-1] == lavie.__version__
    assert lavie.__version__ not in (ROOT / "setup.py").read_text()
