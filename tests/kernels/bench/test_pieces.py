"""Benchmarks in pieces: what is done is not done again, what dies is tried twice, and time that is up ends a piece."""

import json

import pytest

pytest.importorskip("triton")

from lavie.kernels.bench import log, pieces
from lavie.kernels.bench.harness import MORE
from lavie.kernels.bench.log import Log


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs pieces of three cases of each operation, by processes that end as `fates` says, with a clock by hand."""
    now, ran, fates = [1000.0], [], {}
    monkeypatch.setenv("LAVIE_BENCH_RESULTS", str(tmp_path / "results.csv"))
    monkeypatch.setattr(log.time, "time", lambda: now[0])
    monkeypatch.setattr(log, "code", lambda: "abc")
    monkeypatch.setattr(pieces, "OPS", ("first", "second"))

    def spawn(arguments, seconds):
        name, until = arguments[1].rpartition(".")[2], now[0] + seconds - pieces.REST / 2
        if name == "cascade":
            now[0] += 100
            ran.append(arguments[3])
            return fates.get(arguments[3], 0)
        mine = Log(tmp_path / "results.csv", until)
        for case in "abc":
            task = f"{name}, {case}"
            if not mine.wants(task):
                continue
            if not mine.has_room():
                return MORE
            mine.begin(task)
            ran.append(task)
            now[0] += 100
            if fates.get(task) == "dies":
                return -11
            mine.done(task, [f"{task}, eager"] if fates.get(task) == "fails" else [])
        mine.done(name, [])
        return 0

    monkeypatch.setattr(pieces, "spawn", spawn)

    def piece(minutes):
        ran.clear()
        return pieces.Pieces(minutes, dry=False).run(), [*ran]

    return piece, fates


STAGES = ["base", "interpolation", "vsr"]


def test_the_same_call_goes_on_where_the_last_one_ended(bench):
    piece, _ = bench
    told, ran = piece(6)  # 330 s: the fourth case would end after 400
    assert ran == ["first, a", "first, b", "first, c"]
    assert told == ["not done yet, the same call goes on there: second, " + ", ".join(f"cascade, {s}" for s in STAGES)]
    told, ran = piece(9)
    assert ran == ["second, a", "second, b", "second, c", "base", "interpolation"]
    told, ran = piece(9)
    assert (told, ran) == ([], ["vsr"])
    assert piece(9) == ([], [])


def test_what_fails_is_named_and_what_dies_is_tried_twice(bench):
    piece, fates = bench
    fates |= {"first, b": "dies", "second, c": "fails", "base": 1}
    told, ran = piece(25)
    assert ran == ["first, a", "first, b", "first, b", "first, c", "second, a", "second, b", "second, c", *STAGES]
    assert told == ["failed: second, c, eager", "failed: cascade, base, exit code 1", "cut off twice: first, b"]


def test_a_process_that_gets_to_no_case_is_not_started_for_ever(bench, monkeypatch):
    piece, _ = bench
    monkeypatch.setattr(pieces, "spawn", lambda *_: 1)
    told, _ = piece(25)
    assert told[:2] == ["failed: first, exit code 1", "failed: second, exit code 1"]


def test_all_pieces_together_have_a_limit(bench, monkeypatch):
    piece, _ = bench
    monkeypatch.setattr(pieces, "TOTAL", 10.0)
    piece(7)
    told, ran = piece(7)  # 600 s less the 300 that are used
    assert len(ran) < 4 and told[0].startswith("left out, for all 10 minutes are used up: ")


def test_other_code_begins_anew_and_a_torn_line_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "code", lambda: "abc")
    made = Log(tmp_path / "results.csv", 0.0)
    made.begin("a")
    made.done("a", [])
    with made.path.open("a") as file:
        file.write('{"code": "ab')
    assert not made.wants("a") and made.path.name == "results.jsonl"
    assert json.loads(made.path.read_text().splitlines()[0]) == {"code": "abc", "task": "a"}
    monkeypatch.setattr(log, "code", lambda: "other")
    assert Log(tmp_path / "results.csv", 0.0).wants("a")


def test_the_code_is_that_of_the_kernels_and_what_runs_them(tmp_path, monkeypatch):
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops/a.py").write_text("1")
    monkeypatch.setattr(log, "PROJECT", tmp_path)
    before = log.code()
    assert before == log.code()
    (tmp_path / "ops/a.py").write_text("2")
    assert log.code() != before


def test_a_process_that_takes_too_long_is_ended():
    assert pieces.spawn(["-c", "import sys; sys.exit(3)"], 60) == 3
    assert pieces.spawn(["-c", "import time; time.sleep(60)"], 0.1) == pieces.OUT_OF_TIME


@pytest.mark.parametrize("arguments, said", ((["--minutes", "1"], "wanted at least 3"), ([], "no CUDA device")))
def test_what_cannot_be_run_is_refused(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(pieces.sys, "argv", ["pieces", *arguments])
    monkeypatch.setattr(pieces.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        pieces.main()
    assert said in capsys.readouterr().err
