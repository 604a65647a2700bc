"""`lavie ablate`: what its options mean, and what is refused before anything is trained."""

import pytest
from typer.testing import CliRunner

from lavie.cli.ablate import seeds_of
from lavie.cli.main import app
from lavie.errors import ConfigError
from lavie.evaluation.ablation.results import append
from lavie.evaluation.ablation.tables import ABLATIONS
from tests.evaluation.ablation.made_up import result


def call(*words):
    return CliRunner().invoke(app, ["ablate", *map(str, words)])


@pytest.mark.parametrize(
    "text, seeds", (("0-4", [0, 1, 2, 3, 4]), ("7", [7]), ("0,2, 7-8", [0, 2, 7, 8]), ("1,0-1", [1, 0]))
)
def test_seeds(text, seeds):
    assert seeds_of(text) == seeds


def test_as_many_seeds_as_a_call_may_have():
    assert seeds_of("5-1004") == list(range(5, 1005))
    assert seeds_of("9223372036854775807") == [2**63 - 1]


@pytest.mark.parametrize(
    "text, words",
    (
        *((text, "wanted numbers and ranges") for text in ("", "a", "3-1", "0,,1", "-1", "\u0663", "9" * 20)),
        ("0-1000", "wanted 1000 seeds or fewer"),
        ("0,1-1000", "wanted 1000 seeds or fewer"),
        ("0-9223372036854775807", "wanted 1000 seeds or fewer"),
        ("9223372036854775808", "wanted numbers up to 9223372036854775807"),
    ),
)
def test_what_names_no_seeds(text, words):
    with pytest.raises(ConfigError, match=f"--seeds .*{words}"):
        seeds_of(text)


def test_there_is_a_command_for_each_ablation():
    shown = call("--help").output
    assert all(name in shown for name in (*ABLATIONS, "page"))


@pytest.mark.parametrize(
    "words, said",
    (
        (("--arms", "ropes"), "--arms 'ropes': table7 has rope, absolute"),
        (("--arms", ","), "--arms '': table7 has rope, absolute"),
        (("--arms", "rope, absolut"), "--arms 'absolut': table7 has rope, absolute"),
        (("--seeds", "x"), "--seeds x"),
        (("--set", "learning_rat=1"), "learning_rate?"),
        (("--config", "smoke/vsr.yaml"), "the ablations train stage base"),
        (("--config", "nowhere.yaml"), "--config nowhere.yaml"),
        (("--set", "data.num_frames=9999999"), "data.num_frames is 9999999: rendered sets have 1024 or fewer"),
    ),
)
def test_mistakes_are_answered_before_anything_is_rendered(tmp_path, words, said):
    done = call("table7", tmp_path / "out", *words)
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_the_page_of_a_folder(tmp_path):
    for seed in (0, 1):
        for arm in ("rope", "absolute"):
            append(tmp_path / "results.jsonl", result(arm, seed, values={"double.colour": 0.5 + 0.1 * (arm == "rope")}))
    done = call("page", tmp_path, "--out", tmp_path / "page.md")
    assert done.exit_code == 0, done.output
    assert "**seen**" in (tmp_path / "page.md").read_text()
    assert (tmp_path / "page/table7.png").is_file()
    again = call("page", tmp_path, "--out", tmp_path / "page.md")
    assert "--overwrite" in str(again.exception)
    assert call("page", tmp_path, "--out", tmp_path / "page.md", "--overwrite").exit_code == 0


def test_a_page_is_markdown(tmp_path):
    assert "wanted a .md" in str(call("page", "--out", tmp_path / "page.html").exception)
