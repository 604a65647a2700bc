"""The options of prompts, from the command line to the files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lavie.cli.generate import negative_prompts
from lavie.cli.prompts import on_grid
from lavie.config.overrides import parse_overrides
from lavie.errors import ConfigError
from lavie.inference.prompt_file import Request
from lavie.inference.settings import CascadeSettings
from tests.cascades import cascade_folder
from tests.cli.commands import run_lavie

__all__ = ["cascade_folder"]

GRID = ("--grid-seeds", "1", "--grid-guidance", "2")


def test_negative_prompts_are_of_every_stage_or_of_one():
    given = negative_prompts(["[a]: b, 'c' \"d\" été", "vsr=null", "base=1"], ["base", "interpolation", "vsr"])
    read = parse_overrides(given, CascadeSettings)
    assert read["interpolation"] == {"negative_prompt": "[a]: b, 'c' \"d\" été"}
    assert (read["base"], read["vsr"]) == ({"negative_prompt": "1"}, {"negative_prompt": "null"})
    assert negative_prompts([], ["base"]) == []
    with pytest.raises(ConfigError, match="--negative-prompt vsr=a: stage vsr does not run"):
        negative_prompts(["vsr=a"], ["base"])
    for literal in ("a cat, a=b", "(a=b)", "=b"):
        assert negative_prompts([literal], ["vsr"]) == [f'vsr.negative_prompt="{literal}"']
    for text, word in (("vrs=blur", "vrs"), ("VSR=blur", "VSR"), ("vsr =blur", "vsr")):
        told = f"{text}: '{word}' is no stage: wanted base, interpolation, vsr, .*--set STAGE.negative_prompt"
        with pytest.raises(ConfigError, match=told):
            negative_prompts([text], ["base", "interpolation", "vsr"])
    for twice in (["a", "b"], ["vsr=a", "vsr=b"]):
        with pytest.raises(ConfigError, match="was given one before"):
            negative_prompts(twice, ["base", "vsr"])


def test_a_grid_needs_both_and_no_number_of_clips():
    requests = [Request("a")]
    assert on_grid(requests, None, None, 3) == (requests, 1)
    cells, columns = on_grid(requests, "1,2", "3,4,5", 1)
    assert (len(cells), columns) == (6, 3)
    for seeds, scales in (("1", None), (None, "3")):
        with pytest.raises(ConfigError, match="a grid needs both"):
            on_grid(requests, seeds, scales, 1)
    with pytest.raises(ConfigError, match="--num 2: a grid has one clip"):
        on_grid(requests, "1", "3", 2)


def entries(out):
    """Return the lines of prompts.jsonl."""
    return [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_lines_of_a_file_have_settings_of_their_own(cascade_folder, tmp_path):
    base, out = cascade_folder / "base", tmp_path / "out"
    (tmp_path / "prompts.txt").write_text('red\n{"prompt": "red", "seed": 5, "guidance_scale": 1.5}\n(red:2) fox\n')
    run_lavie("sample", base, "--prompt-file", tmp_path / "prompts.txt", "--frames", 1, "--out", out)
    found = entries(out)
    assert [(e["seed"], e["guidance_scale"], e["index"]) for e in found] == [(0, 2.0, 0), (5, 1.5, 0), (0, 2.0, 2)]
    # A call that was cut short goes on: what is missing is drawn again, and nothing else.
    wanted, kept = pixels(out / "00001.png"), (out / "00002.png").stat().st_mtime_ns
    (out / "prompts.jsonl").unlink()
    (out / "00001.png").unlink()
    run_lavie("sample", base, "--prompt-file", tmp_path / "prompts.txt", "--frames", 1, "--out", out)
    assert (pixels(out / "00001.png") == wanted).all() and (out / "00002.png").stat().st_mtime_ns == kept
    assert entries(out) == found
    # A line with a seed is what a call with that seed draws; brackets change what is drawn.
    alone, plain = tmp_path / "alone", tmp_path / "plain"
    one = ("sample", base, "--prompt", "red", "--seed", 5, "--guidance", 1.5, "--frames", 1, "--out", alone)
    run_lavie(*one)
    assert (pixels(alone / "00000.png") == pixels(out / "00001.png")).all()
    (tmp_path / "plain.txt").write_text("red\nred\nred fox\n")
    run_lavie("sample", base, "--prompt-file", tmp_path / "plain.txt", "--frames", 1, "--out", plain)
    assert (pixels(plain / "00000.png") == pixels(out / "00000.png")).all()
    assert (pixels(plain / "00002.png") != pixels(out / "00002.png")).any()


@pytest.mark.slow
def test_a_grid_is_a_sheet_of_rows_and_columns(cascade_folder, tmp_path):
    out = tmp_path / "grid"
    words = ("--prompt", "red", "--frames", 1, "--grid-seeds", "0,1,2", "--grid-guidance", "1,3", "--preview")
    run_lavie("sample", cascade_folder / "base", *words, "--set", "cache_interval=2", "--out", out)
    assert [(e["seed"], e["guidance_scale"]) for e in entries(out)] == [(s, g) for s in (0, 1, 2) for g in (1, 3)]
    assert {e["cache_interval"] for e in entries(out)} == {2}
    height, width = pixels(out / "sheet.png").shape[:2]
    assert height > width  # three rows of two pictures
    assert not (out / "preview.png").exists()


@pytest.mark.slow
def test_learnt_words_reach_the_network(cascade_folder, tmp_path):
    vectors = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    torch.save({"string_to_param": {"*": vectors}}, tmp_path / "myfox.pt")
    base = cascade_folder / "base"
    for name, words in (("a", ("--embedding", tmp_path / "myfox.pt")), ("b", ())):
        run_lavie("sample", base, "--prompt", "a myfox", "--frames", 1, "--out", tmp_path / name, *words)
    assert (pixels(tmp_path / "a/00000.png") != pixels(tmp_path / "b/00000.png")).any()
    # The stages of the tiny cascade are all as wide; work/ knows by which words a clip was drawn.
    words = ("--cascade", cascade_folder, "--prompt", "a zorro", "--embedding", f"zorro={tmp_path / 'myfox.pt'}")
    run_lavie("generate", *words, "--stop-after", "base", "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out/work/00000-base.json").read_text())
    assert " with zorro " in record["weights"]


@pytest.mark.slow
def test_settings_of_stages_by_prompt_in_the_cascade(cascade_folder, tmp_path):
    lines = ({"prompt": "red", "seed": 3}, {"prompt": "red", "base": {"guidance_scale": 1.5}, "negative_prompt": "x"})
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("--cascade", cascade_folder, "--prompt-file", tmp_path / "p.jsonl", "--stop-after", "interpolation")
    run_lavie("generate", *words, "--negative-prompt", "base=fog", "--preview", "--out", tmp_path / "out")
    first, second = (entry["stages"] for entry in entries(tmp_path / "out"))
    assert (first["base"]["seed"], first["interpolation"]["seed"], first["base"]["negative_prompt"]) == (3, 3, "fog")
    assert (second["base"]["guidance_scale"], second["interpolation"]["negative_prompt"]) == (1.5, "x")
    assert not (tmp_path / "out/preview.png").exists()
    dry = run_lavie("generate", *words, "--dry-run")
    assert dry.count("base: 3 x 16 x 24 pixels") == 2 and "line 2: red" in dry


def test_faults_are_told_before_weights_are_read(tmp_path):
    (tmp_path / "p.txt").write_text('{"prompt": "red", "sed": 3}\n')
    faults = (
        (("--prompt-file", tmp_path / "p.txt"), r"line 1: unknown key sed; did you mean seed\?"),
        (("--prompt", "a", "--set", "clip_skip=0"), "clip_skip"),
        (("--prompt", "a", "--set", "seed=1", "--set", "guidance=2"), "guidance"),
        (("--prompt", "a", "--guidance", "2", "--set", "guidance_scale=3"), "a flag gives it too"),
        (("--prompt", "a", "--seed", "3", "--set", "seed=5"), "--set seed=...: a flag gives it too"),
        (("--prompt", "a", "--set", "clip_skip=2", "--set", "clip_skip=1"), "both give clip_skip: wanted one of them"),
        (("--prompt", "a", "--grid-seeds", "1"), "a grid needs both"),
        (("--prompt", "a", *GRID, "--seed", "3"), "seed is what the grid varies, and is given beside it"),
        (("--prompt", "a", *GRID, "--set", "guidance_scale=3"), "guidance_scale is what the grid varies"),
        (("--prompt", "a", "--set", "guidance_scale=1e30"), "guidance_scale: wanted 100 or less"),
        (("--prompt", "a", "--set", "freeu=[1,1]"), r"freeu: wanted 4 entries \(got \[1, 1\]\)$"),
        (("--prompt", "a", "--set", "fps=1e-30"), "fps: wanted 0.01 or more"),
    )
    for words, message in faults:
        with pytest.raises(ConfigError, match=message):
            run_lavie("sample", "nowhere", "--out", tmp_path / "out", *words)


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"clip_skip": 99}, "prompt 'fox': clip_skip: got 99"),
        ({"num_inference_steps": 1}, "prompt 'fox': num_inference_steps: .* cannot take 1 steps"),
        ({"height": 17}, "prompt 'fox': height x width: got 17"),
        ({"method": "recursion", "num_frames": 9}, "prompt 'fox': method recursion, which gives frames to each"),
    ),
)
def test_every_line_is_checked_before_the_first_is_drawn(cascade_folder, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("lavie.inference.text_to_video.TextToVideo.__call__", lambda *_, **__: pytest.fail("drawn"))
    (tmp_path / "p.txt").write_text("red\n" + json.dumps({"prompt": "fox"} | changes) + "\n")
    with pytest.raises(ConfigError, match=message):
        run_lavie("sample", cascade_folder / "base", "--prompt-file", tmp_path / "p.txt", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_call_that_cannot_write_or_read_its_prompt_reads_no_weights(cascade_folder, tmp_path, monkeypatch):
    from lavie.inference.load import META, load_stage

    def planned_only(*given, **options):
        if options.get("device") != META:
            pytest.fail("weights are read")
        return load_stage(*given, **options)

    monkeypatch.setattr("lavie.inference.load.load_stage", planned_only)
    base, out = cascade_folder / "base", tmp_path / "out"
    for prompt, told in (("(fox:1e9)", "the weight '1e9' is no number"), ("(:1.3)", "hold no word"), ("()", "no word")):
        with pytest.raises(ConfigError, match=told):
            run_lavie("sample", base, "--prompt", prompt, "--out", out)
    assert not out.exists()
    out.mkdir()
    (out / "00000.mp4").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 00000, and no 00000.json says what it was made of"):
        run_lavie("sample", base, "--prompt", "red", "--out", out)
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "a", "name": "00000.mp4", "index": 0}')
    with pytest.raises(ConfigError, match="holds samples of other settings or weights"):
        run_lavie("sample", base, "--jobs", tmp_path / "jobs.jsonl", "--out", out)
    assert [path.name for path in out.iterdir()] == ["00000.mp4"]
