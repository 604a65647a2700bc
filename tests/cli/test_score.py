"""The tables of `lavie score` show every prompt, and every accuracy beside chance."""

import io

from lavie.cli.score import print_accuracies, print_verdicts
from lavie.console import make_console
from lavie.evaluation.judge import Verdict
from lavie.evaluation.score_base import JudgedSet

TRUTHS = [Verdict("red", "left"), Verdict("blue", "up"), Verdict("green", None), Verdict("cyan", "down")]
SEEN = [Verdict("red", "left"), Verdict("blue", "down"), Verdict("green", "up"), Verdict(None, None)]


def test_every_prompt_and_the_chance_are_shown(capsys):
    out = io.StringIO()
    judged = JudgedSet(["one", "two", "[three]", "four"], SEEN, TRUTHS)
    print_verdicts(judged, make_console(file=out, width=100))
    text = out.getvalue()
    for part in ("one", "[three]", "down, wanted up", "none, wanted cyan", "3 / 4", "75%", "17%", "25%"):
        assert part in text
    print_accuracies({"clips": judged})
    assert "clips: colour 75% (3/4), chance 17%\n" in capsys.readouterr().out
