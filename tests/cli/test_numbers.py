"""Numbers that no evaluation can have are answered by the option's name, before anything is read."""

import pytest
from typer.testing import CliRunner

from lavie.cli.main import app

FVD = ("eval", "fvd", "--real", "a", "--fake", "b", "--weights", "w", "--out", "x.json")
CLIPSIM = ("eval", "clipsim", "--clips", "c", "--weights", "w", "--out", "x.json")
MAKE = ("eval", "human", "make", "a", "b", "--prompts", "p.txt", "--out", "s")


@pytest.mark.parametrize(
    "words",
    (
        *((*FVD, "--frames", number) for number in ("0", "-1", "10001", "9" * 30, "1e3", "nan")),
        *((*FVD, "--seed", number) for number in (str(2**63), str(-(2**63) - 1), "0.5")),
        *((*CLIPSIM, "--frames", number) for number in ("0", "10001")),
        (*CLIPSIM, "--seed", str(2**63)),
        ("eval", "clipsim", "prompts", "a.json", "--out", "x.jsonl", "--seed", str(2**63)),
        *(("eval", "ucf101", "prompts", "--out", "x.jsonl", "--samples", number) for number in ("0", "10001")),
        *((*MAKE, "--fps", number) for number in ("nan", "inf", "1e300", "0", "-1", "1001")),
        (*MAKE, "--seed", "9" * 30),
        ("eval", "human", "analyse", "s", "--out", "o", "--seed", "9" * 30),
        *(("ablate", "table7", "o", "--steps", number) for number in ("0", "1000000001")),
        *(("ablate", "table7", "o", "--draws", number) for number in ("0", "1001")),
    ),
)
def test_the_option_is_named(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and f"Invalid value for '{words[-2]}'" in done.output
    assert list(tmp_path.iterdir()) == []
