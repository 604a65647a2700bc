"""The raters' answers: the CSV that the page writes, checked against the key of its study."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ...errors import DataError
from .key import CHOICES, LABELS, METRICS, NOT_APPLICABLE, OPTIONAL, OVERALL, Key, TrialKey

COLUMNS = ("study", "rater", "trial", "metric", "answer", "seconds", "answered_at")
"""The columns of an answer; lavie/pages/human/page.js writes the same."""
RATER = re.compile(r"[0-9a-f]{8,32}")
"""A rater's random name."""


@dataclass(frozen=True)
class Answer:
    """One vote, or one rating of a clip by one metric."""

    rater: str
    trial: str
    metric: str
    """A metric, or OVERALL for a pair."""
    answer: str
    seconds: float
    """From when the clips could be judged, that is, had been played to their end."""
    answered_at: str
    """The time by the rater's clock, ISO 8601 in UTC."""


@dataclass
class Answers:
    """The answers that count, and what was found while they were read."""

    found: list[Answer] = field(default_factory=list)
    """Sorted by rater and time, one for each rater, trial and metric."""
    twice: int = 0
    """Rows that stood in several files, or twice in one."""
    changed: int = 0
    """Answers that a later one of the same rater took the place of."""


def check_row(row: Sequence[str], key: Key) -> Answer:
    """Return the answer of a row of COLUMNS.

    Raises:
        ValueError: the row is of another study, or no answer to one of its trials.
    """
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} columns: wanted {len(COLUMNS)}")
    study, rater, trial, metric, answer, seconds, answered_at = row
    if study != key.study:
        raise ValueError(f"study {study[:20]!r}: the key is of {key.study}")
    if not RATER.fullmatch(rater):
        raise ValueError(f"rater {rater[:40]!r}: wanted 8 to 32 hexadecimal digits")
    known = key.trials.get(trial)
    if known is None:
        raise ValueError(f"trial {trial[:20]!r}: the key has none of that name")
    allowed = allowed_answers(known, metric)
    if answer not in allowed:
        raise ValueError(f"{metric[:40]!r} is {answer[:20]!r}: wanted one of {', '.join(allowed) or 'no such metric'}")
    try:
        taken = float(seconds)
        datetime.fromisoformat(answered_at)
    except ValueError:
        raise ValueError(f"{seconds[:20]!r}, {answered_at[:40]!r}: wanted seconds and a time") from None
    if not 0 <= taken < float("inf"):
        raise ValueError(f"seconds {seconds[:20]!r}: wanted 0 or more")
    return Answer(rater, trial, metric, answer, taken, answered_at)


def allowed_answers(trial: TrialKey, metric: str) -> tuple[str, ...]:
    """Return the answers that a trial takes for a metric; none where it has no such metric."""
    if trial.kind != "rating":
        return CHOICES if metric == OVERALL else ()
    if metric not in METRICS:
        return ()
    return (*LABELS, NOT_APPLICABLE) if metric in OPTIONAL else LABELS


def to_csv(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_answers(paths: Sequence[Path], key: Key) -> Answers:
    """Return the answers of several files. A rater's later answer to the same question takes the place of the earlier.

    Raises:
        DataError: a file cannot be read, or a row is no answer of this study; the message names the line.
    """
    latest: dict[tuple[str, str, str], Answer] = {}
    answers = Answers()
    for path in paths:
        try:
            rows = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
        if not rows or tuple(rows[0]) != COLUMNS:
            raise DataError(f"{path}: wanted the columns {','.join(COLUMNS)} in the first line")
        for number, row in enumerate(rows[1:], 2):
            if not row:
                continue
            try:
                answer = check_row(row, key)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
            place = answer.rater, answer.trial, answer.metric
            known = latest.get(place)
            if known == answer:
                answers.twice += 1
                continue
            answers.changed += known is not None
            if known is None or _time(answer) >= _time(known):
                latest[place] = answer
    if not latest:
        raise DataError(f"{', '.join(map(str, paths))}: no answers")
    answers.found = sorted(latest.values(), key=lambda a: (a.rater, _time(a), a.trial, a.metric))
    return answers


def _time(answer: Answer) -> float:
    """Return when an answer was given, in seconds; a time without a zone is UTC."""
    time = datetime.fromisoformat(answer.answered_at)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
