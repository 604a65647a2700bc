import pytest

from lavie.errors import DataError
from lavie.evaluation.human.answers import COLUMNS, read_answers, to_csv
from tests.evaluation.human.studies import rng, rows, some_key, vote


@pytest.fixture(scope="module")
def key():
    return some_key(raters=2, pairs=4, ratings=3)


@pytest.fixture(scope="module")
def answers(key):
    return vote(key, rng(), (1, 1, 1))


def write(path, lines):
    path.write_text(to_csv([COLUMNS, *lines]))
    return path


def test_answers_come_back(tmp_path, key, answers):
    found = read_answers([write(tmp_path / "a.csv", rows(key, answers))], key)
    assert sorted(found.found, key=lambda a: (a.trial, a.metric)) == sorted(answers, key=lambda a: (a.trial, a.metric))
    assert found.twice == found.changed == 0


def test_several_files_are_joined_and_the_last_answer_counts(tmp_path, key, answers):
    vote = next(a for a in answers if a.metric == "overall")
    later = ["tie" if vote.answer != "tie" else "left", "9.0", "2026-01-02T00:00:00Z"]
    changed = [key.study, vote.rater, vote.trial, vote.metric, *later]
    paths = [
        write(tmp_path / "later.csv", [changed]),
        write(tmp_path / "a.csv", rows(key, answers)),
        write(tmp_path / "b.csv", rows(key, answers[5:])),
    ]
    found = read_answers(paths, key)
    assert len(found.found) == len(answers)
    [kept] = [a for a in found.found if (a.rater, a.trial) == (vote.rater, vote.trial)]
    assert kept.answer == later[0]
    assert found.changed == 1 and found.twice >= len(answers) - 6


@pytest.mark.parametrize(
    "column, text, words",
    (
        ("study", "000000000000", "the key is of"),
        ("rater", "Robert", "hexadecimal digits"),
        ("trial", "9-9", "the key has none"),
        ("metric", "motion_smoothness", "no such metric"),
        ("answer", "good", "wanted one of left, tie, right"),
        ("seconds", "-1", "wanted 0 or more"),
        ("seconds", "nan", "wanted 0 or more"),
        ("seconds", "soon", "wanted seconds and a time"),
        ("answered_at", "today", "wanted seconds and a time"),
    ),
)
def test_a_row_that_is_no_answer_is_named(tmp_path, key, answers, column, text, words):
    row = rows(key, [a for a in answers if a.metric == "overall"][:1])[0]
    row[COLUMNS.index(column)] = text
    with pytest.raises(DataError, match=words) as error:
        read_answers([write(tmp_path / "a.csv", [row])], key)
    assert "a.csv, line 2" in str(error.value)


def test_only_faces_may_be_not_applicable(tmp_path, key, answers):
    by_metric = {a.metric: row for a, row in zip(answers, rows(key, answers), strict=True)}
    face, smooth = by_metric["face_body_hand"], by_metric["motion_smoothness"]
    face[4] = smooth[4] = "na"
    assert read_answers([write(tmp_path / "a.csv", [face])], key).found[0].answer == "na"
    with pytest.raises(DataError, match="wanted one of bad, normal, good"):
        read_answers([write(tmp_path / "a.csv", [smooth])], key)


def test_another_file_is_refused(tmp_path, key):
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="wanted the columns study,rater"):
        read_answers([tmp_path / "x.csv"], key)
    with pytest.raises(DataError, match="no answers"):
        read_answers([write(tmp_path / "y.csv", [])], key)
    with pytest.raises(DataError, match="cannot be read"):
        read_answers([tmp_path / "z.csv"], key)
