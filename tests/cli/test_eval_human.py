import json

import pytest

from lavie.errors import ConfigError, DataError
from lavie.evaluation.human.answers import COLUMNS, to_csv
from lavie.evaluation.human.key import read_key
from tests.cli.commands import run_lavie
from tests.evaluation.human.folders import write_models
from tests.evaluation.human.studies import rng, rows, vote


def run(*words):
    return run_lavie("eval", "human", *words)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two models, and a study of them."""
    folder = tmp_path_factory.mktemp("human")
    models = write_models(folder)
    options = ("--raters", 4, "--pairs", 2, "--ratings", 4)
    printed = run("make", *models, "--prompts", folder / "prompts.txt", "--out", folder / "study", *options)
    return folder, models, printed


def test_a_study_is_made_and_analysed(made, tmp_path):
    folder, _, printed = made
    study = folder / "study"
    assert "2 models, 2 samples; each of 4 raters compares 4 pairs and rates 4 clips" in printed
    assert f"give raters the folder {study / 'page'}" in printed
    assert sorted(path.name for path in study.iterdir()) == ["key.json", "page"]

    key = read_key(study)
    answers = rows(key, vote(key, rng(), (3, 1)))
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for file, part in zip(files, (answers[:30], answers[30:]), strict=True):
        file.write_text(to_csv([COLUMNS, *part]))
    printed = run("analyse", study, *files, "--out", tmp_path / "out")
    assert "| secretA > secretB |" in printed and "Table 4" in printed
    result = json.loads((tmp_path / "out/human.json").read_text())
    assert result["metric"] == "human_preference" and result["n"] == {"raters": 4, "votes": 8}
    assert result["versions"]["lavie"] and result["protocol_hash"] == key.protocol_hash
    assert (tmp_path / "out/tables.md").read_text().strip() in printed and (tmp_path / "out/human.png").stat().st_size
    with pytest.raises(ConfigError, match=r"human\.json exists"):
        run("analyse", study, *files, "--out", tmp_path / "out")
    with pytest.raises(DataError, match=r"answers\.csv: cannot be read"):
        run("analyse", study, "--out", tmp_path / "other")


def test_a_study_is_not_replaced_unasked_nor_once_raters_have_answered(made):
    folder, models, _ = made
    words = ("make", *models, "--prompts", folder / "prompts.txt", "--out", folder / "study", "--raters", 2)
    before = read_key(folder / "study")
    with pytest.raises(ConfigError, match=r"key\.json exists"):
        run(*words)
    (folder / "study/answers.csv").write_text("")
    with pytest.raises(ConfigError, match="holds answers of raters"):
        run(*words, "--overwrite")
    assert read_key(folder / "study") == before
    (folder / "study/answers.csv").unlink()


def test_replacing_leaves_no_clip_of_before(made, tmp_path):
    folder, models, _ = made
    words = ("make", *models, "--prompts", folder / "prompts.txt", "--out", tmp_path, "--raters", 2, "--seed")
    run(*words, 1)
    first = read_key(tmp_path)
    run(*words, 2, "--overwrite")
    second = read_key(tmp_path)
    assert second.seed == 2 and not first.clips.keys() & second.clips.keys()
    assert {path.stem for path in (tmp_path / "page/clips").iterdir()} == set(second.clips)


@pytest.mark.parametrize(
    "option, words", ((("--raters", 3), "--raters: .*wanted an even number"), (("--pairs", 0), "--pairs"))
)
def test_a_design_that_cannot_be_is_refused(made, tmp_path, option, words):
    folder, models, _ = made
    with pytest.raises(ConfigError, match=words):
        run("make", *models, "--prompts", folder / "prompts.txt", "--out", tmp_path / "x", *option)
    assert not (tmp_path / "x").exists()


def test_a_study_that_fails_leaves_nothing(made, tmp_path):
    folder, models, _ = made
    (tmp_path / "bad").mkdir()
    for clip in models[0].iterdir():
        (tmp_path / "bad" / clip.name).write_bytes(b"junk")
    with pytest.raises(DataError, match=r"bad: 0000\d\.mp4: no mp4"):
        run("make", models[0], tmp_path / "bad", "--prompts", folder / "prompts.txt", "--out", tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []


def test_nothing_but_a_study_is_replaced(made, tmp_path):
    folder, models, _ = made
    words = ("--prompts", folder / "prompts.txt", "--out", tmp_path, "--raters", 2, "--overwrite")
    (tmp_path / "page").mkdir()
    (tmp_path / "page/mine.txt").write_text("a page of my own")
    with pytest.raises(ConfigError, match="page exists, and is nothing that --overwrite replaces"):
        run("make", *models, *words)
    (tmp_path / "page/mine.txt").unlink()
    (tmp_path / "page/clips").mkdir()
    (tmp_path / "page/clips/00000.mp4").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="page exists, and is nothing that --overwrite replaces"):
        run("make", *models, *words)
    assert (tmp_path / "page/clips/00000.mp4").read_bytes() == b"mine"


def test_a_study_stays_apart_from_the_clips_that_it_is_made_of(made, tmp_path):
    folder, models, _ = made
    prompts = ("--prompts", folder / "prompts.txt")
    with pytest.raises(ConfigError, match=r"--out .*x lies in .*secretA: its clips would be taken for"):
        run("make", *models, *prompts, "--out", models[0] / "x")
    run("make", *models, *prompts, "--out", tmp_path / "s", "--raters", 2)
    own = f"old={tmp_path / 's/page/clips'}"
    with pytest.raises(ConfigError, match=r"the clips of old, .* lie in what it replaces"):
        run("make", own, models[0], *prompts, "--out", tmp_path / "s", "--overwrite")
    assert len(list((tmp_path / "s/page/clips").iterdir())) > 2
