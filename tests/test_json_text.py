"""JSON that was edited or damaged is read, or refused with a message: nothing else comes of it."""

import json

import numpy as np
import pytest

from lavie.errors import DataError
from lavie.evaluation.ablation.analysis import analyse
from lavie.evaluation.ablation.page import section
from lavie.evaluation.ablation.results import gather, line
from lavie.evaluation.ablation.tables import ABLATIONS
from lavie.evaluation.captions import draw_msrvtt, msrvtt_jobs, read_captions
from lavie.evaluation.human.analyse import analyse as analyse_study
from lavie.evaluation.human.answers import COLUMNS, read_answers, to_csv
from lavie.evaluation.human.key import KEY, read_key
from lavie.evaluation.measured import compare, read_result
from lavie.evaluation.vbench.suite import jobs, read_suite
from lavie.evaluation.vbench.totals import read_scores, totals
from lavie.json_text import parse_json, read_json
from tests.evaluation.ablation.made_up import judged
from tests.evaluation.hostile_json import survives
from tests.evaluation.human.studies import rng, rows, some_key, vote
from tests.evaluation.vbench.suites import ENTRIES

CLIPSIM = {
    "metric": "clipsim",
    "value": 0.3,
    "n": 3,
    "protocol_hash": "abc",
    "scores": {"a": 0.2, "b": 0.3, "c": 0.4},
    "data": {"real": {"hash": "x"}},
}
FVD = {
    "metric": "fvd",
    "value": 9.5,
    "n": {"real": 8, "fake": 8},
    "protocol_hash": "abc",
    "halves": [9.0, 10.0, 11.0],
    "data": {"real": {"hash": "x"}},
}


@pytest.mark.parametrize(
    "text, words",
    (
        (b"{", "property name"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b"1e400", "1e400 is too large"),
        (b"9" * 400, "too large"),
        (b"9" * 5000, "too large"),
        (b'{"a": 1, "a": 1}', "'a' stands there twice"),
        (b"[" * 100_000, "too deep"),
        (b'"\xe4"', "no UTF-8, at byte 1"),
    ),
)
def test_what_is_no_json_is_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(DataError, match=rf"^--in .*x\.json: cannot be read: .*{words}"):
        read_json(tmp_path / "x.json", "--in")


def test_what_is_json_is_read(tmp_path):
    content = {"a": [1, 2.5, None, True, "ä"], "b": {"a": -3}}
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
        assert read_json(tmp_path / "x.json") == content
    with pytest.raises(DataError, match=r"^/.*y\.json: cannot be read"):
        read_json(tmp_path / "y.json")


@pytest.mark.parametrize("document", (CLIPSIM, FVD))
def test_results_to_compare(tmp_path, document):
    (tmp_path / "whole.json").write_text(json.dumps(document))
    whole = read_result(tmp_path / "whole.json")

    def use(path):
        with np.errstate(all="ignore"):
            assert np.isfinite(compare(whole, read_result(path))["difference"])

    assert survives(tmp_path / "x.json", document, use) > 200


def test_results_of_an_ablation(tmp_path):
    other = tmp_path / "other.jsonl"
    scores = [1.0, None, 0.0]
    other.write_text("".join(line(judged("absolute", seed, "double.colour", scores)) for seed in (0, 1)))
    document = json.loads(line(judged("rope", 0, "double.colour", scores)))

    def use(path):
        results = gather([path, other])["table7"]
        with np.errstate(all="ignore"):
            analyse(ABLATIONS["table7"], results)
            section(ABLATIONS["table7"], results, "folder")

    assert survives(tmp_path / "x.jsonl", document, use) > 200


def test_tables_of_captions(tmp_path):
    assert survives(tmp_path / "x.jsonl", {"name": "a.mp4", "prompt": "a fox", "index": 0}, read_captions) > 60


def test_annotations_of_msrvtt(tmp_path):
    videos = [{"video_id": "video7010", "split": "test"}]
    sentences = [{"caption": "a fox", "video_id": "video7010", "sen_id": 3}]
    document = {"info": {}, "videos": videos, "sentences": sentences}

    def use(path):
        draw_msrvtt(path, 0)
        list(msrvtt_jobs(path, 0))

    assert survives(tmp_path / "x.json", document, use) > 150


def test_prompts_of_vbench(tmp_path):
    assert survives(tmp_path / "x.json", ENTRIES[:2], lambda path: list(jobs(read_suite(path), ["scene"]))) > 80


def test_scores_of_vbench(tmp_path):
    document = {"scene": [0.5, [{"video_path": "a-0.mp4", "video_results": 0.5}]], "color": 0.25, "other": 1}
    assert survives(tmp_path / "x.json", document, lambda path: totals(read_scores([path])[0])) > 50


def test_keys_of_studies(tmp_path):
    key = some_key(("a", "b"), prompts=2, raters=2, pairs=2, ratings=2)
    document = key.model_copy(update={"sources": {"a": "0", "b": "1"}}).model_dump(mode="json")
    answers = tmp_path / "answers.csv"
    answers.write_text(to_csv([COLUMNS, *rows(key, vote(key, rng(), (1, 1)))]))

    def use(path):
        found = read_key(path.parent)
        analyse_study(found, read_answers([answers], found))

    assert survives(tmp_path / KEY, document, use) > 500
