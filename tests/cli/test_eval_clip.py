import json
from functools import partial

import pytest
import torch

from lavie.errors import ConfigError, DataError
from tests.cli.commands import run_lavie
from tests.evaluation.tiny_clip import OUT, write_clip, write_clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval_clip")
    write_clip(folder / "clip")
    for seed, name in enumerate(("before", "after")):
        frames = write_clips(folder / name, seed=seed)
        lines = [json.dumps({"name": clip, "prompt": f"a {clip}"}) for clip in frames]
        (folder / name / "prompts.jsonl").write_text("\n".join(lines))
    write_clips(folder / "own")
    torch.save({"weight": torch.ones(1, OUT), "bias": torch.ones(1)}, folder / "head.pth")
    videos = [{"video_id": f"clip{n}", "split": "test"} for n in range(5)]
    sentences = [{"caption": f"a {n}", "video_id": f"clip{n % 5}", "sen_id": n} for n in range(100)]
    (folder / "a.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    (folder / "w.pt").write_bytes(b"x")
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """Run `lavie eval` in the folder: what it printed."""
    monkeypatch.chdir(folder)

    return partial(run_lavie, "eval")


def test_two_checkpoints_are_scored_on_shared_features_and_compared(run, tmp_path):
    kept = tmp_path / "f.safetensors"
    for name in ("before", "after"):
        out = tmp_path / f"{name}.json"
        printed = run("clipsim", "--clips", name, "--weights", "clip", "--out", out, "--features", kept)
        result = json.loads(out.read_text())
        assert f"CLIPSIM {result['value']:.4f} (95 %" in printed and "5 clips" in printed
        assert result["protocol_hash"] in printed and "clips: 5 of 5" in printed
    assert "clipsim: " in run("compare", tmp_path / "before.json", tmp_path / "after.json")
    before = kept.read_bytes()
    words = ("--weights", "clip", "--head", "head.pth", "--out", tmp_path / "r.json", "--features", kept)
    printed = run("aesthetic", "--clips", "after", *words)
    assert "aesthetic (laion_v1_linear)" in printed and json.loads((tmp_path / "r.json").read_text())["n"] == 5
    assert kept.read_bytes() == before


def test_msrvtt(run, tmp_path):
    assert "5 jobs" in run("clipsim", "prompts", "a.json", "--out", tmp_path / "jobs.jsonl", "--seed", 4)
    jobs = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
    words = ("clipsim", "--clips", "own", "--weights", "clip", "--out")
    run(*words, tmp_path / "a.json", "--annotation", "a.json", "--seed", 4, "--frames", 2, "--fit", "stretch")
    run(*words, tmp_path / "b.json", "--captions", tmp_path / "jobs.jsonl", "--frames", 2, "--fit", "stretch")
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert a["scores"] == b["scores"] and a["protocol_hash"] == b["protocol_hash"]
    assert [f"a {a['data']['captions']['sen_ids'][job['name'][:5]]}" for job in jobs] == [job["prompt"] for job in jobs]
    assert "MSR-VTT has 2990" in a["notes"][0]
    run(*words, tmp_path / "c.json", "--annotation", "a.json", "--frames", 2, "--fit", "stretch")
    assert json.loads((tmp_path / "c.json").read_text())["protocol_hash"] != a["protocol_hash"]
    with pytest.raises(DataError, match="5 clips were drawn of other captions, as clip0 of 'a clip0', and not"):
        run("clipsim", "--clips", "before", "--weights", "clip", "--annotation", "a.json", "--out", tmp_path / "d.json")


@pytest.mark.parametrize(
    "words, error, match",
    (
        ((), ConfigError, "wanted --clips FOLDER"),
        (("--out", "x.txt"), ConfigError, "wanted a .json"),
        (("--out", "a.json"), ConfigError, "a.json exists"),
        (("--out", "x.json", "--features", "x"), ConfigError, "wanted a .safetensors"),
        (("--out", "x.json", "--captions", "c.csv", "--annotation", "a.json"), ConfigError, "give one of them"),
        (("--out", "x.json", "--clips", "own"), ConfigError, "holds no prompts.jsonl: wanted --captions"),
        (("--out", "x.json", "--weights", "w.pt"), ConfigError, "has no tokenizer: add --tokenizer"),
        (("--out", "x.json", "--captions", "c.csv"), DataError, "c.csv: cannot be read"),
    ),
)
def test_what_cannot_be_measured_is_said_before_anything_is_written(run, folder, words, error, match):
    before = sorted(folder.rglob("*"))
    usual = ("--clips", "before", "--weights", "clip") if words else ()
    with pytest.raises(error, match=match):
        run("clipsim", *usual, *words)  # of an option that is given twice the last counts
    assert sorted(folder.rglob("*")) == before
