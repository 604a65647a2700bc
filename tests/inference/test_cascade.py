"""From a folder of three runs to videos: defaults, determinism, resuming, stopping early, refusals, the command."""

import json
import re
import shutil
import sys
from typing import NamedTuple

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lavie.cli import main as cli
from lavie.errors import CheckpointError, ConfigError, KernelError
from lavie.inference.cascade import Cascade
from lavie.inference.generate import generate_cascade
from lavie.inference.settings import CascadeSettings
from lavie.inference.work import Work
from lavie.run_folder import find_stage
from tests.cascades import seal


@pytest.fixture
def count(cascade_folder):
    """A function: a cascade -> how often each stage's network was called since."""

    def watch(cascade):
        calls = dict.fromkeys(cascade.stages, 0)
        for name, stage in cascade.stages.items():

            def called(*_, name=name):
                calls[name] += 1

            stage.network.register_forward_pre_hook(called)
        return calls

    return watch


@pytest.mark.slow
def test_one_prompt_becomes_a_large_clip(cascade_folder):
    cascade, seen = Cascade.from_pretrained(cascade_folder), []
    [clips] = cascade(["red"], progress=lambda *at: seen.append(at))
    assert {stage: clip.shape for stage, clip in clips.items()} == {
        "base": (3, 16, 24, 3),
        "interpolation": (9, 16, 24, 3),
        "vsr": (9, 64, 96, 3),
    }
    assert all(clip.dtype == np.uint8 and clip.std() > 1 for clip in clips.values())
    assert seen == [(stage, step, 3) for stage in clips for step in (1, 2, 3)]


@pytest.mark.slow
def test_words_that_a_stage_cuts_are_told_once(cascade_folder, caplog):
    """The networks read five words; the suffix of the second stage belongs to its prompt."""
    cascade = Cascade.from_pretrained(
        cascade_folder, stop_after="interpolation", overrides=["interpolation.prompt_suffix=', in 4k'"]
    )
    with caplog.at_level("WARNING", "lavie"):
        cascade(["a red fox", "a red fox runs in snow"], stop_after="base")
        assert [record.getMessage().split(", ")[-1] for record in caplog.records] == ["'snow'"]
        caplog.clear()
        cascade(["a red fox in snow"], stop_after="interpolation")
    assert [record.getMessage().split("end, ")[-1] for record in caplog.records] == ["'in 4k'"]


@pytest.mark.slow
def test_a_clip_depends_on_prompt_seed_and_index_not_on_its_batch(cascade_folder):
    cascade = Cascade.from_pretrained(cascade_folder, stop_after="interpolation")
    _, together = cascade(["red", "blue"])
    [alone] = cascade(["blue"], indices=[1])
    assert all(np.array_equal(together[stage], alone[stage]) for stage in ("base", "interpolation"))
    [other] = cascade(["blue"], indices=[0])
    assert not np.array_equal(other["base"], alone["base"])
    [seeded] = Cascade.from_pretrained(cascade_folder, stop_after="base", seed=5)(["blue"], indices=[1])
    assert not np.array_equal(seeded["base"], alone["base"])


def test_the_released_defaults(without_sampling):
    settings = Cascade.from_pretrained(without_sampling, device="meta").settings
    base, between, last = settings.base, settings.interpolation, settings.vsr
    assert all((s.scheduler, s.num_inference_steps) == ("ddim", 50) for s in (base, between, last))
    assert (base.guidance_scale, base.negative_prompt, base.prompt_suffix) == (7.5, "", "")
    assert (between.guidance_scale, between.negative_prompt, between.prompt_suffix) == (4.0, "None", ", 4k.")
    assert (last.guidance_scale, last.negative_prompt, last.noise_level) == (5.0, "blur, worst quality", 50)
    assert CascadeSettings().base.model_dump(include={"num_frames", "height", "width", "fps"}) == {
        "num_frames": 16,
        "height": 320,
        "width": 512,
        "fps": 8,
    }


def test_a_runs_own_settings_come_first_and_overrides_before_them(cascade_folder):
    settings = Cascade.from_pretrained(
        cascade_folder, device="meta", overrides=["vsr.guidance_scale=6", "interpolation.seed=2"], seed=9
    ).settings
    assert (settings.base.num_frames, settings.base.height, settings.base.width) == (3, 16, 24)
    assert {s.scheduler for _, s in settings} == {"euler"}
    assert {s.num_inference_steps for _, s in settings} == {3}
    assert (settings.vsr.guidance_scale, settings.vsr.noise_level, settings.vsr.negative_prompt) == (6, 5, "")
    assert (settings.interpolation.guidance_scale, settings.interpolation.prompt_suffix) == (2, "")
    windows = {name: (s.window, s.overlap) for name, s in settings if name != "base"}
    assert windows == {"interpolation": (3, 1), "vsr": (9, 2)}  # as in training: 3 key frames of 9 frames, and 9 frames
    assert (settings.base.seed, settings.interpolation.seed, settings.vsr.seed) == (9, 2, 9)


@pytest.mark.slow
def test_a_finished_stage_is_not_made_again(cascade_folder, count, tmp_path):
    folder = {"folder": cascade_folder}
    cascade = Cascade.from_pretrained(**folder)
    calls = count(cascade)
    paths = generate_cascade(cascade, ["red", "blue"], tmp_path, stop_after="interpolation")
    assert calls == {"base": 6, "interpolation": 6, "vsr": 0}
    assert [p.name for p in paths] == [
        "00000-base.mp4",
        "00000-interpolation.mp4",
        "00000.mp4",
        "00001-base.mp4",
        "00001-interpolation.mp4",
        "00001.mp4",
        "sheet.png",
    ]
    kept = np.load(tmp_path / "work/00001-interpolation.npy")
    record = json.loads((tmp_path / "work/00001-interpolation.json").read_text())
    assert record["prompt"] == "blue"
    assert record["before"]["stage"] == "base"

    again = Cascade.from_pretrained(**folder)
    calls = count(again)
    generate_cascade(again, ["red", "blue"], tmp_path, stop_after="interpolation")
    assert calls == {"base": 0, "interpolation": 0, "vsr": 0}
    assert np.array_equal(np.load(tmp_path / "work/00001-interpolation.npy"), kept)

    # a clip that was cut off, then other settings of a later stage, then of the first
    (tmp_path / "work/00001-interpolation.npy").unlink()
    generate_cascade(again, ["red", "blue"], tmp_path, stop_after="interpolation")
    assert calls == {"base": 0, "interpolation": 3, "vsr": 0}
    assert np.array_equal(np.load(tmp_path / "work/00001-interpolation.npy"), kept)
    changed = Cascade.from_pretrained(**folder, overrides=["interpolation.guidance_scale=3"])
    calls = count(changed)
    generate_cascade(changed, ["red", "blue"], tmp_path, stop_after="interpolation", overwrite=True)
    assert calls == {"base": 0, "interpolation": 6, "vsr": 0}
    changed = Cascade.from_pretrained(**folder, overrides=["base.guidance_scale=1", "interpolation.guidance_scale=3"])
    calls = count(changed)
    generate_cascade(changed, ["red", "blue"], tmp_path, stop_after="interpolation", overwrite=True)
    assert calls == {"base": 6, "interpolation": 6, "vsr": 0}


def test_frames_are_dropped_when_all_is_written(cascade_folder, count, tmp_path):
    cascade = Cascade.from_pretrained(cascade_folder, stop_after="base")
    generate_cascade(cascade, ["red"], tmp_path, stop_after="base", drop_work=True)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["00000-base.json"]
    assert (tmp_path / "00000-base.mp4").is_file()
    with pytest.raises(ConfigError, match="holds clips of other prompts, as 00000 of 'red'"):
        generate_cascade(cascade, ["blue"], tmp_path, stop_after="base")
    calls = count(cascade)
    generate_cascade(cascade, ["red"], tmp_path, stop_after="base")  # drawn anew
    assert calls["base"] == 3
    assert Work(tmp_path / "work").size() == (tmp_path / "work/00000-base.npy").stat().st_size > 3 * 16 * 24 * 3


@pytest.mark.slow
def test_a_stage_of_new_weights_is_made_again_with_those_after_it(cascade_folder, count, tmp_path):
    folder, out = tmp_path / "cascade", tmp_path / "out"
    shutil.copytree(cascade_folder, folder)
    first = Cascade.from_pretrained(folder)
    generate_cascade(first, ["red"], out, stop_after="interpolation")
    old = {stage: np.load(out / f"work/00000-{stage}.npy") for stage in ("base", "interpolation")}

    # The base stage is trained on: the same file name, other weights.
    [file] = find_stage(folder / "base").glob("unet/*.safetensors")
    save_file({name: value * 1.5 for name, value in load_file(file).items()}, file)
    seal(file.parents[1])
    second = Cascade.from_pretrained(folder)
    calls = count(second)
    with pytest.raises(ConfigError, match="other weights of stage base, as 00000"):
        generate_cascade(second, ["red"], out, stop_after="interpolation")
    assert not any(calls.values())
    generate_cascade(second, ["red"], out, stop_after="interpolation", overwrite=True)
    assert calls == {"base": 3, "interpolation": 3, "vsr": 0}
    assert not any(np.array_equal(np.load(out / f"work/00000-{stage}.npy"), frames) for stage, frames in old.items())

    # Another interpolation network leaves the base stage's clips as they are.
    [file] = find_stage(folder / "interpolation").glob("unet/*.safetensors")
    save_file({name: value * 1.5 for name, value in load_file(file).items()}, file)
    seal(file.parents[1])
    third = Cascade.from_pretrained(folder)
    calls = count(third)
    generate_cascade(third, ["red"], out, stop_after="interpolation", overwrite=True)
    assert calls == {"base": 0, "interpolation": 3, "vsr": 0}


def test_clips_of_other_settings_are_not_written_over_unasked(cascade_folder, tmp_path):
    generate_cascade(Cascade.from_pretrained(cascade_folder, stop_after="base"), ["red"], tmp_path, stop_after="base")
    before = (tmp_path / "00000-base.mp4").read_bytes()
    other = Cascade.from_pretrained(cascade_folder, stop_after="base", seed=1)
    with pytest.raises(ConfigError, match=r"other settings, as 00000 \(base.seed\): .* --overwrite"):
        generate_cascade(other, ["red"], tmp_path, stop_after="base")
    assert (tmp_path / "00000-base.mp4").read_bytes() == before
    generate_cascade(other, ["red"], tmp_path, stop_after="base", overwrite=True)
    assert (tmp_path / "00000-base.mp4").read_bytes() != before

    # Clips without a record of what they were made of, as after `rm -r work`.
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(ConfigError, match=r"nothing in .* says what it was made of"):
        generate_cascade(other, ["red"], tmp_path, stop_after="base")


def test_an_estimate_refuses_what_cannot_run(cascade_folder, tmp_path):
    shutil.copytree(cascade_folder, tmp_path / "cascade")
    config = find_stage(tmp_path / "cascade/base") / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("attention: sdpa", "attention: flash-attn"))
    with pytest.raises(KernelError, match="flash-attn"):
        Cascade.from_pretrained(tmp_path / "cascade", device="meta")
    config.write_text(text)
    [file] = config.parent.glob("unet/*.safetensors")
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        Cascade.from_pretrained(tmp_path / "cascade", device="meta")


def test_other_prompts_are_not_written_over_unasked(cascade_folder, tmp_path):
    cascade = Cascade.from_pretrained(cascade_folder, stop_after="base")
    generate_cascade(cascade, ["red"], tmp_path, stop_after="base")
    with pytest.raises(ConfigError, match="holds clips of other prompts, as 00000 of 'red'"):
        generate_cascade(cascade, ["blue"], tmp_path, stop_after="base")
    generate_cascade(cascade, ["blue"], tmp_path, stop_after="base", overwrite=True)
    assert json.loads((tmp_path / "work/00000-base.json").read_text())["prompt"] == "blue"


def test_stopping_early_needs_no_later_stage(cascade_folder, tmp_path):
    (tmp_path / "base").symlink_to(cascade_folder / "base")
    cascade = Cascade.from_pretrained(tmp_path, stop_after="base")
    assert list(cascade.stages) == ["base"]
    with pytest.raises(CheckpointError, match=r"no folder interpolation/ in it.*--stop-after"):
        Cascade.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="stage vsr does not run"):
        Cascade.from_pretrained(tmp_path, stop_after="base", overrides=["vsr.guidance_scale=6"])
    (tmp_path / "interpolation").symlink_to(cascade_folder / "vsr")
    with pytest.raises(CheckpointError, match="is of stage vsr, wanted interpolation"):
        Cascade.from_pretrained(tmp_path, stop_after="interpolation")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, message",
    (
        ("base.height=15", r"got 15 x 24, wanted positive multiples of 2; change --set base.height="),
        ("base.num_frames=1", r"key frames: got 1.*change --set base.num_frames="),
        ("base.num_frames=5 interpolation.overlap=3", r"window.* 3 .*3.*interpolation.overlap="),
        (
            "base.num_frames=5 interpolation.cache_interval=2",
            r"cache_interval: got 2, .* windows, .*interpolation.window=",
        ),
        ("vsr.window=4 vsr.overlap=1 vsr.cache_interval=2", r"cache_interval: got 2, .* windows, .*vsr.window="),
        ("vsr.noise_level=11", r"noise_level: got 11, wanted 0 .. 10; change --set vsr.noise_level="),
        ("vsr.window=4 vsr.overlap=4", r"window: got windows of 4 that overlap by 4.*vsr.overlap="),
        ("vsr.guidence_scale=6", r"unknown key vsr.guidence_scale; did you mean vsr.guidance_scale"),
        ("vsr.scheduler=heun", r"vsr.scheduler: wanted .*unipc"),
    ),
)
def test_refusals_come_first_and_name_the_flag(cascade_folder, overrides, message):
    def look():
        cascade = Cascade.from_pretrained(cascade_folder, overrides=overrides.split(), device="meta")
        cascade.require([cascade.settings])

    with pytest.raises(ConfigError, match=message):
        look()


@pytest.mark.parametrize("setting", ("num_inference_steps=1", "clip_skip=9"))
def test_steps_and_layers_of_late_stages_are_looked_at_before_the_first_stage(cascade_folder, setting):
    planned = Cascade.from_pretrained(cascade_folder, overrides=[f"vsr.{setting}"], device="meta")
    with pytest.raises(ConfigError, match=f"stage vsr: {setting.partition('=')[0]}: "):
        planned.require([planned.settings])


def test_offloaded_stages_draw_the_same(cascade_folder):
    stay = Cascade.from_pretrained(cascade_folder, stop_after="base")
    leave = Cascade.from_pretrained(cascade_folder, stop_after="base", offload=True)
    assert np.array_equal(stay(["red"])[0]["base"], leave(["red"])[0]["base"])
    assert leave.stages["base"].device == torch.device("cpu")


# --- the command


def run(monkeypatch, capsys, *arguments):
    """What `lavie generate` printed, or its message."""
    monkeypatch.setattr(sys, "argv", ["lavie", "generate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return capsys.readouterr().out if stop.value.code in (None, 0) else stop.value.code


@pytest.mark.slow
def test_the_command(cascade_folder, tmp_path, monkeypatch, capsys):
    arguments = "--cascade", cascade_folder, "--prompt", "a/red thing", "--out", tmp_path / "out"
    printed = run(monkeypatch, capsys, *arguments, "--set", "vsr.num_inference_steps=2", "--sequential-guidance")
    names = re.findall(r"[\w-]+\.\w+$", printed, re.MULTILINE)
    assert names == ["00000-base.mp4", "00000-interpolation.mp4", "00000-vsr.mp4", "00000.mp4", "sheet.png"]
    with av.open(str(tmp_path / "out/00000-vsr.mp4")) as video:
        assert (video.streams.video[0].frames, video.streams.video[0].height) == (9, 128)  # small clips are enlarged
    assert json.loads((tmp_path / "out/work/00000-vsr.json").read_text())["prompt"] == "a/red thing"
    [line] = (tmp_path / "out/prompts.jsonl").read_text().splitlines()
    index = json.loads(line)
    assert (index["name"], index["prompt"]) == ("00000", "a/red thing")
    assert index["stages"]["vsr"]["num_inference_steps"] == 2
    assert index["stages"]["base"]["seed"] == 0


def test_the_command_refuses(cascade_folder, monkeypatch, capsys):
    assert "wanted --prompt or --prompt-file" in run(monkeypatch, capsys, "--cascade", cascade_folder)
    assert "--out is missing" in run(monkeypatch, capsys, "--cascade", cascade_folder, "--prompt", "x")
    assert "no folder base/ in it" in run(monkeypatch, capsys, "--cascade", "/nowhere", "--prompt", "x", "--out", "y")


def test_the_dry_run_takes_configs_where_nothing_is_trained(monkeypatch, capsys):
    """The smoke configs, which are small: their encoders have no weights, and their runs are not there."""
    configs = [word for name in ("base", "interpolation", "vsr") for word in ("--config", f"smoke/{name}.yaml")]
    printed = run(monkeypatch, capsys, "--dry-run", *configs)
    assert printed.count("peak, with a margin of 10%") == 3
    assert "--config is for --dry-run" in run(monkeypatch, capsys, *configs)
    assert "--cascade is missing" in run(monkeypatch, capsys, "--prompt", "x", "--out", "y")


def test_the_dry_run_tells_sizes_and_memory(cascade_folder, monkeypatch, capsys):
    printed = run(monkeypatch, capsys, "--cascade", cascade_folder, "--dry-run", "--set", "vsr.window=4")
    assert "vsr: 9 x 64 x 96 pixels; up to 4 windows of 4 x 16 x 24 latents" in printed
    assert printed.count("peak, with a margin of 10%") == 3


@pytest.mark.slow
def test_the_dry_run_refuses_what_does_not_fit(cascade_folder, monkeypatch, capsys):
    class Memory(NamedTuple):
        available: int = 2**20
        total: int = 2**30

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("psutil.virtual_memory", Memory)
    message = run(monkeypatch, capsys, "--cascade", cascade_folder, "--dry-run")
    assert "stage base would take" in message
    assert "of 0.00 GiB" in message


def test_a_longer_record_is_not_replaced_unasked(cascade_folder, tmp_path, caplog):
    whole = Cascade.from_pretrained(cascade_folder, stop_after="interpolation")
    generate_cascade(whole, ["red", "blue"], tmp_path, stop_after="interpolation")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    first = Cascade.from_pretrained(cascade_folder, stop_after="base")
    with pytest.raises(
        ConfigError, match=r"clips of stage interpolation, and this call stops after base: .*prompts.jsonl"
    ):
        generate_cascade(first, ["red", "blue"], tmp_path, stop_after="base")
    with pytest.raises(ConfigError, match="holds 2 finished clips, and this call draws 1"):
        generate_cascade(whole, ["red"], tmp_path, stop_after="interpolation")
    assert {path: path.read_bytes() for path in before} == before

    # Asked to, it leaves nothing between its own files that its record does not list.
    generate_cascade(first, ["red"], tmp_path, stop_after="base", overwrite=True)
    assert "not draw are deleted, of 2 clips of an earlier one" in caplog.text
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["00000-base.mp4"]
    assert {path.name[:5] for path in (tmp_path / "work").iterdir()} == {"00000"}
