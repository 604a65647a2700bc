"""`lavie generate` from images, from videos and for long clips: what it writes, and what it refuses before any work."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from lavie.cli.generate import STRENGTH
from lavie.data.media.encode import encode_mp4
from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import CheckpointError, ConfigError
from lavie.files import sha256_of
from lavie.models.weights import save_network
from tests.cascades import cascade_folder, pretrained, random_network, seal, stage_config
from tests.cli.commands import run_lavie

__all__ = ["cascade_folder", "pretrained"]

SECONDS = 7 / 8
"""A clip of 7 frames by windows of 3."""


@pytest.fixture(scope="session")
def frames_folder(tmp_path_factory):
    """A cascade whose base network takes frames, with random weights: clips of 3 frames of 16 x 24 pixels."""
    from lavie.config.load import dump_yaml

    config = stage_config(
        "base", condition="frames", model=stage_config("base").model.model_dump() | {"in_channels": 25}
    )
    folder = tmp_path_factory.mktemp("frames")
    checkpoint = folder / "base" / "checkpoint-3"
    save_network(checkpoint / "unet", config.model, random_network(config.model).state_dict())
    (checkpoint / "config.yaml").write_text(dump_yaml(config))
    seal(checkpoint)
    return folder


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """A folder with a.png, b.png and a.mp4 of 12 frames at 8 per second."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    frames = rng.integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    (folder / "a.mp4").write_bytes(encode_mp4(frames, 8, lossless=True))
    return folder


def generate(folder, out, *words):
    return run_lavie("generate", "--cascade", folder, "--stop-after", "base", "--out", out, *words)


def kept(out, index=0):
    return np.load(out / f"work/{index:05d}-base.npy")


@pytest.mark.slow
def test_an_image_begins_a_clip_and_another_ends_it(frames_folder, media, tmp_path):
    plain = ["--prompt", "red"]
    generate(frames_folder, tmp_path / "text", *plain)
    told = generate(
        frames_folder, tmp_path / "image", *plain, "--image", media / "a.png", "--to-image", media / "b.png"
    )
    assert "given frames: PSNR" in told
    assert not np.array_equal(kept(tmp_path / "image"), kept(tmp_path / "text"))
    report = json.loads((tmp_path / "image/drift.json").read_text())
    assert len(report["clips"][0]["given_psnr_db"]) == 2
    assert not (tmp_path / "text/drift.json").exists()

    # Another image is another start, of which the folder holds none.
    with pytest.raises(ConfigError, match="clips of another start"):
        generate(frames_folder, tmp_path / "image", *plain, "--image", media / "b.png")
    again = generate(
        frames_folder, tmp_path / "image", *plain, "--image", media / "a.png", "--to-image", media / "b.png"
    )
    assert "00000-base.mp4" in again


@pytest.mark.slow
def test_a_clip_goes_on_from_a_video_for_seconds(frames_folder, media, tmp_path):
    words = ["--prompt", "red", "--from-video", media / "a.mp4", "--seconds", SECONDS, "--num", 2]
    told = generate(frames_folder, tmp_path, *words)
    assert kept(tmp_path).shape == kept(tmp_path, 1).shape == (7, 16, 24, 3)
    assert "Drift from segment 1, 2 clips" in told
    report = json.loads((tmp_path / "drift.json").read_text())
    assert (report["method"], report["window"], report["overlap"]) == ("recursion", 3, 1)
    assert [(row["begin"], row["stop"]) for row in report["mean"]] == [(0, 3), (2, 5), (4, 7)]
    for name in ("latent_std_ratio", "laplacian_ratio", "motion_ratio"):
        assert report["mean"][0][name] == pytest.approx(1)
        assert report["mean"][2][name] > 0
    assert report["mean"][1]["joint_jump"] > 0


@pytest.mark.slow
def test_prompts_of_segments_and_the_judge(frames_folder, tmp_path):
    (tmp_path / "segments.txt").write_text(
        "a red circle moving left\na red circle moving up\n\na blue square turning\n"
    )
    words = ["--segment-prompts", tmp_path / "segments.txt", "--seconds", SECONDS, "--judge"]
    generate(frames_folder, tmp_path / "out", *words)
    report = json.loads((tmp_path / "out/drift.json").read_text())
    prompts = [[part["prompt"] for part in clip["segments"]] for clip in report["clips"]]
    assert prompts == [
        ["a red circle moving left", "a red circle moving up", "a red circle moving up"],
        ["a blue square turning"] * 3,
    ]
    assert {"colour", "direction"} <= report["mean"][2].keys()
    record = json.loads((tmp_path / "out/work/00000-base.json").read_text())
    assert record["prompt"] == "a red circle moving left"
    assert record["start"]["segments"] == ["a red circle moving left", "a red circle moving up"]


@pytest.mark.slow
def test_windows_and_strength_need_no_frames(cascade_folder, media, tmp_path):
    told = generate(cascade_folder, tmp_path / "long", "--prompt", "red", "--seconds", SECONDS, "--method", "windows")
    assert kept(tmp_path / "long").shape == (7, 16, 24, 3)
    assert "Drift from segment 1" in told
    generate(cascade_folder, tmp_path / "text", "--prompt", "red")
    hashes = {}
    for strength in (0, 0.5, 1):
        out = tmp_path / f"{strength}"
        generate(cascade_folder, out, "--prompt", "red", "--from-video", media / "a.mp4", "--strength", strength)
        hashes[strength] = sha256_of(out / "work/00000-base.npy")
    assert hashes[1] == sha256_of(tmp_path / "text/work/00000-base.npy")
    assert len(set(hashes.values())) == 3


@pytest.mark.slow
def test_lines_with_settings_of_their_own_start_from_an_image(frames_folder, media, tmp_path):
    own = {"num_frames": 5, "method": "recursion", "cache_interval": 2, "freeu": [1.1, 1.2, 0.9, 0.5]}
    (tmp_path / "p.txt").write_text("red\n" + json.dumps({"prompt": "(blue:1.2)", "seed": 3, "base": own}))
    image = ["--image", media / "a.png", "--preview"]
    told = generate(frames_folder, tmp_path / "both", "--prompt-file", tmp_path / "p.txt", *image)
    assert "Drift from segment 1, 1 clips" in told
    assert (len(kept(tmp_path / "both")), len(kept(tmp_path / "both", 1))) == (3, 5)
    report = json.loads((tmp_path / "both/drift.json").read_text())
    assert (report["method"], report["mean"], [clip["name"] for clip in report["clips"]]) == ("whole", [], ["00000"])
    [other] = report["others"]
    assert (other["method"], [clip["name"] for clip in other["clips"]]) == ("recursion", ["00001"])
    assert [(row["begin"], row["stop"]) for row in other["mean"]] == [(0, 3), (2, 5)]
    # The line is what a call of its own draws.
    settings = [word for name, value in own.items() for word in ("--set", f"base.{name}={json.dumps(value)}")]
    generate(frames_folder, tmp_path / "one", "--prompt", "(blue:1.2)", "--seed", 3, *settings, *image)
    assert np.array_equal(kept(tmp_path / "one"), kept(tmp_path / "both", 1))


@pytest.mark.slow
def test_each_cell_of_a_grid_has_its_segments(frames_folder, tmp_path):
    (tmp_path / "segments.txt").write_text("a\nb\n\nc\n")
    words = ["--segment-prompts", tmp_path / "segments.txt", "--seconds", SECONDS]
    generate(frames_folder, tmp_path / "out", *words, "--grid-seeds", "4,5", "--grid-guidance", "2")
    records = [json.loads((tmp_path / f"out/work/{index:05d}-base.json").read_text()) for index in range(4)]
    found = [(record["settings"]["seed"], record["start"]["segments"]) for record in records]
    assert found == [(4, ["a", "b"]), (5, ["a", "b"]), (4, ["c"]), (5, ["c"])]


def test_a_dry_run_counts_the_long_clip(cascade_folder):
    words = ["generate", "--cascade", cascade_folder, "--dry-run", "--stop-after", "base", "--seconds", 25]
    assert "base: 200 x 16 x 24 pixels; up to" in run_lavie(*words, "--method", "windows")


def test_fit_takes_what_makes_the_stages_fit_and_tells_the_peaks(cascade_folder, tmp_path):
    words = ["generate", "--cascade", cascade_folder]
    peak = float(re.findall(r"peak, .*: (.*) GiB", run_lavie(*words, "--dry-run", "--fit", 1))[-1])
    assert peak > 0
    (found,) = re.findall(r"to fit: (.*)", run_lavie(*words, "--dry-run", "--fit", 0.7 * peak))
    assert found.startswith("--")
    with pytest.raises(ConfigError, match="no flag makes it fit"):
        run_lavie(*words, "--dry-run", "--fit", 1e-6)
    for wrong in ("-1", "0", "all", "nan"):
        with pytest.raises(ConfigError, match=f"--fit {wrong}: wanted a number of GiB, as 22 for a GPU of 24 GB"):
            run_lavie(*words, "--dry-run", "--fit", wrong)

    output = run_lavie(*words, "--stop-after", "base", "--prompt", "a", "--fit", "free", "--out", tmp_path / "out")
    assert "to fit: nothing is needed" in output and "peak, with a margin" in output
    assert (tmp_path / "out/00000-base.mp4").exists()


@pytest.mark.parametrize(
    "words, message",
    (
        (
            ["--image", "{media}/a.png"],
            "given frames: the base network takes none; .* condition: frames, or --strength",
        ),
        (["--image", "{media}/none.png"], "--image .*none.png: cannot be read"),
        (
            ["--image", "{media}/a.mp4", "--strength", "0.5"],
            "--image .*a.mp4: 12 frames, where an image is wanted: --from-video takes it",
        ),
        (["--from-video", "{media}/a.png"], "--from-video .*a.png: an image, where a video is wanted"),
        (["--image", "a", "--from-video", "b"], "--image and --from-video both say"),
        (["--image", "a", "--strength", "1.5"], r"--strength: got 1.5, wanted 0 \(keeps the clip\) .. 1"),
        (["--strength", "0.5"], "--strength draws over --image or --from-video"),
        (["--image", "a", "--to-image", "b", "--strength", "0.5"], "--strength draws over .* and no --to-image"),
        (["--seconds", "0"], "--seconds: got 0, wanted more than 0"),
        (["--seconds", "nan"], "--seconds: got nan, wanted more than 0"),
        (["--seconds", "inf"], "--seconds: got inf, wanted more than 0"),
        (["--seconds", "1e9", "--method", "windows"], "--seconds 1e.09: .* wanted 0.125 to 2500 seconds"),
        (["--set", "base.num_inference_steps=1"], "num_inference_steps: .* cannot take 1 steps"),
        (["--set", "base.clip_skip=9"], "clip_skip: got 9"),
        (["--seconds", "1", "--set", "base.num_frames=9"], "--seconds and --set base.num_frames"),
        (["--seconds", "1"], "--seconds 1: 8 frames, and the base network was trained on 3: wanted --method windows"),
        (["--method", "windows", "--set", "base.overlap=3", "--seconds", "1"], "base.window: .* overlap of 0 .. 2"),
        (
            ["--method", "windows", "--seconds", "1", "--set", "base.cache_interval=2"],
            "cache_interval: got 2, and the clip is cut into windows",
        ),
        (["--seconds", "1e-9"], "--seconds 1e-09: 0 frames at 8 frames per second: wanted 0.125 to"),
        (["--set", "base={num_frames: 9}", "--seconds", "1"], "--seconds and --set base.num_frames"),
        (["--seed", "1", "--grid-seeds", "1", "--grid-guidance", "2"], "seed is what the grid varies"),
        (["--set", "base.seed=1", "--grid-seeds", "1", "--grid-guidance", "2"], "seed is what the grid varies"),
        (
            ["--negative-prompt", "base=a", "--set", "base.negative_prompt=b"],
            "--negative-prompt base=a and --set base.negative_prompt=... both say it",
        ),
        (["--embedding", "{media}/nope.pt"], "--embedding .*nope.pt: cannot be read"),
        (["--lora", "{media}/nope.safetensors"], "nope.safetensors: no such file"),
        (["--prompt", "(fox:nan)"], "the weight 'nan' is no number"),
        (["--num", "2", "--grid-seeds", "1", "--grid-guidance", "2"], "--num 2: a grid has one clip"),
        (["--judge"], "--judge: 'red' is no caption of the rendered set"),
    ),
)
def test_bad_input_is_refused_before_weights_are_read(cascade_folder, media, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr("lavie.inference.load.load_network", lambda *_: pytest.fail("weights were read"))
    words = [word.replace("{media}", str(media)) for word in words]
    for more in ((), ("--dry-run",)):
        with pytest.raises((ConfigError, CheckpointError), match=message) as caught:
            generate(cascade_folder, tmp_path / "out", "--prompt", "red", *words, *more)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_configs_looks_at_all_that_it_is_given(tmp_path, caplog):
    (tmp_path / "vsr.yaml").write_text("unused: 1")
    words = ("generate", "--dry-run", "--stop-after", "base")
    for more, message in (
        (("--lora", tmp_path / "vsr.yaml"), "vsr.yaml: no complete safetensors file"),
        (("--embedding", "nope.pt"), "--embedding nope.pt: cannot be read"),
        (("--judge",), "got no prompt"),
        (("--grid-seeds", "1", "--grid-guidance", "2"), "got no prompt"),
        (("--prompt", "a <lora:x:1>"), "is no text: give networks by an option"),
        (("--prompt", "a", "--out", tmp_path / "vsr.yaml"), "vsr.yaml is no folder"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match=message):
            run_lavie(*words, *more)
    torch.save({"string_to_param": {"*": torch.zeros(1, 768)}}, tmp_path / "zorro.pt")
    with caplog.at_level("WARNING", "lavie"):
        run_lavie(*words, "--prompt", "a fox", "--embedding", tmp_path / "zorro.pt")
    assert "--embedding: no prompt has 'zorro': it changes nothing" in caplog.messages


def test_a_dry_run_tells_of_clips_that_would_be_replaced(cascade_folder, tmp_path):
    generate(cascade_folder, tmp_path, "--prompt", "red")
    generate(cascade_folder, tmp_path, "--prompt", "red", "--dry-run")
    with pytest.raises(ConfigError, match="holds clips of other prompts"):
        generate(cascade_folder, tmp_path, "--prompt", "blue", "--dry-run")
    assert len(list(tmp_path.glob("*.mp4"))) == 1


def test_a_noise_level_that_is_too_high_is_named_alone(cascade_folder):
    with pytest.raises(ConfigError) as caught:
        run_lavie("generate", "--cascade", cascade_folder, "--dry-run", "--set", "vsr.noise_level=11")
    assert str(caught.value) == "stage vsr: noise_level: got 11, wanted 0 .. 10; change --set vsr.noise_level=..."


def test_too_many_given_frames_are_refused_before_weights_are_read(frames_folder, media, tmp_path, monkeypatch):
    monkeypatch.setattr("lavie.inference.load.load_network", lambda *_: pytest.fail("weights were read"))
    common = ["--prompt", "red", "--set", "base.overlap=3"]
    with pytest.raises(ConfigError, match=r"got 3 given frames, and the clip has 3: .*base.overlap"):
        generate(frames_folder, tmp_path, *common, "--from-video", media / "a.mp4")
    with pytest.raises(ConfigError, match=r"base.overlap: got 3 frames .* wanted 1 .. 2"):
        generate(frames_folder, tmp_path, *common, "--seconds", SECONDS)


def test_the_help_compares_timesteps_with_those_of_stable_diffusion():
    numbers = [float(number) for number in re.findall(r"0\.\d+", STRENGTH)]
    ours, theirs, highest = numbers[:5], numbers[5:10], numbers[10]
    lavie = NoiseSchedule().alphas_cumprod.double()
    diffusion = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()).cumprod(0)
    for strength, same in zip(ours, theirs, strict=True):
        nearest = (diffusion - lavie[round(1000 * strength)]).abs().argmin()
        assert nearest.item() / 1000 == pytest.approx(same, abs=0.006)
    assert lavie[round(1000 * highest)] < diffusion[-1] < lavie[round(1000 * highest) - 10]
