"""Commands of Python in processes of their own, and of `lavie` in this one."""

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from lavie.cli.main import app

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> subprocess.CompletedProcess:
    """Run Python with arguments in the repository's root, and return its exit code and what it printed."""
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)


def run_lavie(*words: object) -> str:
    """Run a command of `lavie` that must succeed, and return what it printed; its errors are raised as they are."""
    done = CliRunner().invoke(app, [*map(str, words)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output
