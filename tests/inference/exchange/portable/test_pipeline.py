"""An exported folder draws, without this project, what this project draws."""

import re

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from lavie.config.load import dump_yaml
from lavie.inference import interpolation, super_resolution, text_to_video
from lavie.inference.exchange.export import export_stage
from lavie.inference.load import load_stage
from lavie.inference.settings import arguments, resolve, run_defaults
from lavie.models.lora import load_lora, load_text_lora, read_lora, write_lora
from lavie.models.weights import save_network
from lavie.testing import ORACLE_ATOL, relative_error, tiny_unet
from tests.cascades import STAGE_MODELS, random_network, seal, stage_config
from tests.inference.exchange.exports import STAGES
from tests.inference.exchange.portable.bare import make_site, run_bare
from tests.models.lora.files import made, made_text, save_kohya

PROMPTS = ["a red circle", "a (blue:1.4) square"]
SEED = 3


@pytest.fixture
def draw(monkeypatch):
    """A function: a folder, frames to start from, a change -> the latents and the frames that this project draws."""
    kept = []
    for module in (text_to_video, interpolation, super_resolution):

        def keep(autoencoder, latents, tile, decode=module.decode):
            kept.append(latents)
            return decode(autoencoder, latents, tile)

        monkeypatch.setattr(module, "decode", keep)

    def drawn(folder, given, change=None, **changes):
        sampler, config = load_stage(folder)
        if change:
            change(sampler)
        settings = getattr(resolve({config.stage: run_defaults(config)}, seed=SEED), config.stage)
        frames = sampler(*given, PROMPTS, **arguments(settings) | changes)
        return kept.pop(), frames

    return drawn


def given(stage):
    """What each stage starts from: uint8 clips for two prompts, longer than a window; or nothing."""
    shape = {"base": None, "interpolation": (2, 4, 16, 24, 3), "vsr": (2, 11, 8, 12, 3)}[stage]
    return [] if shape is None else [np.random.default_rng(0).integers(0, 256, shape, np.uint8)]


def opened(folder):
    """The pipeline of a folder, run in this process."""
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def array(clips):
    """Clips of pictures as one array of whole numbers."""
    return np.stack([np.stack([np.asarray(picture).astype(int) for picture in clip]) for clip in clips])


def make_run(folder, stage, pretrained, seed=0, **changes):
    """Write a run of a tiny network between diffusers' autoencoder and CLIP, as the released networks are."""
    model = tiny_unet(**STAGE_MODELS[stage] | {"out_channels": 4, "cross_attention_dim": 32} | changes)
    config = stage_config(
        stage,
        model=model.model_dump(),
        autoencoder={"type": "diffusers"},
        text_encoder={"type": "clip"},
        pretrained_model_name_or_path=str(pretrained(4 if stage == "vsr" else 8)),
        condition="frames" if changes.get("in_channels") == 9 else "none",
    )
    save_network(folder / "checkpoint-3/unet", model, random_network(model, seed).state_dict())
    (folder / "checkpoint-3/config.yaml").write_text(dump_yaml(config))
    seal(folder / "checkpoint-3")
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory, pretrained):
    """Exports of the three stages between diffusers' autoencoder and CLIP."""
    root = tmp_path_factory.mktemp("released")
    for stage, channels in zip(STAGES, (4, 8, 7), strict=True):
        export_stage(make_run(root / "runs" / stage, stage, pretrained, in_channels=channels), root / stage)
        # Weights of words keep the mean of the features, which a fresh CLIP has at 0 up to rounding.
        file = root / stage / "text_encoder/model.safetensors"
        state = load_file(file)
        [name] = [name for name in state if name.endswith("final_layer_norm.bias")]
        save_file(state | {name: state[name] + 0.5}, file, metadata={"format": "pt"})
    return root


BARE = """
import numpy as np
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
for absent in ("lavie", "peft", "deepspeed"):
    try:
        __import__(absent)
    except ImportError as error:
        print(error)
given = np.load(ROOT + "/given.npz")
for stage in STAGES:
    folder = ROOT + "/" + stage
    try:
        DiffusionPipeline.from_pretrained(folder)
    except ValueError as error:
        print(str(error).splitlines()[-1])
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    video = [given[stage]] if stage in given else []
    latents = pipeline(PROMPTS, *video, seed=SEED, output_type="latent").frames
    frames = pipeline(PROMPTS, *video, seed=SEED).frames
    np.savez(f"{ROOT}/{stage}.npz", latents=latents.numpy(), frames=np.stack([np.stack(clip) for clip in frames]))
"""


@pytest.mark.slow
def test_the_three_stages_where_only_diffusers_and_transformers_are(released, draw, tmp_path):
    np.savez(released / "given.npz", **{stage: given(stage)[0] for stage in STAGES if given(stage)})
    site = make_site(tmp_path / "site", "torch", "diffusers", "transformers")
    values = f"ROOT, STAGES, PROMPTS, SEED = {str(released)!r}, {STAGES!r}, {PROMPTS!r}, {SEED}"
    done = run_bare(site, tmp_path / "home", f"{values}\n{BARE}")
    assert done.returncode == 0, done.stderr
    absent = [f"No module named '{name}'" for name in ("lavie", "peft", "deepspeed")]
    refused = "Pass `trust_remote_code=True` to allow loading remote code modules."
    assert done.stdout.splitlines() == [*absent, *[refused] * 3]
    for stage in STAGES:
        latents, frames = draw(released / stage, given(stage))
        found = np.load(released / f"{stage}.npz")
        assert relative_error(torch.from_numpy(found["latents"]), latents) <= ORACLE_ATOL, stage
        assert frames.std() > 10 and np.abs(found["frames"].astype(int) - frames).max() <= 1, stage  # a rounding


@pytest.mark.parametrize("stage", STAGES)
def test_small_runs_without_encoders_that_have_weights(exported, stage, draw):
    latents, frames = draw(exported / stage, given(stage))
    pipeline = opened(exported / stage)
    found = pipeline(PROMPTS, *given(stage), seed=SEED, output_type="latent").frames
    assert relative_error(found, latents) <= ORACLE_ATOL
    pixels = pipeline(PROMPTS, *given(stage), seed=SEED, output_type="np").frames
    assert np.abs(pixels * 255 - frames).max() <= 0.51
    # A clip is the same alone, and pictures do as well as an array.
    video = [
        [[diffusers.utils.numpy_to_pil(frame / 255.0)[0] for frame in clip] for clip in clips[1:]]
        for clips in given(stage)
    ]
    [alone] = pipeline(PROMPTS[1], *video, seed=SEED, indices=[1]).frames
    assert np.abs(array([alone]) - frames[1:]).max() <= 1


def test_images_and_changed_settings(released, draw):
    changes = {"num_frames": 1, "height": 24, "guidance_scale": 1.0, "num_inference_steps": 4}
    latents, _ = draw(released / "base", [], **changes)
    steps = []
    found = opened(released / "base")(
        PROMPTS, seed=SEED, output_type="latent", callback=lambda *step: steps.append(step), **changes
    )
    assert relative_error(found.frames, latents) <= ORACLE_ATOL
    assert steps == [(n, 4) for n in range(1, 5)]


def test_key_frames_may_be_latents(exported, draw):
    keys = torch.randn(2, 12, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    latents, _ = draw(exported / "interpolation", [keys])
    found = opened(exported / "interpolation")(PROMPTS, keys, seed=SEED, output_type="latent").frames
    assert relative_error(found, latents) <= ORACLE_ATOL


def test_a_network_that_takes_frames_is_given_none(pretrained, draw, tmp_path):
    export_stage(make_run(tmp_path / "run", "base", pretrained, in_channels=9), tmp_path / "out")
    latents, _ = draw(tmp_path / "out", [])
    assert (
        relative_error(opened(tmp_path / "out")(PROMPTS, seed=SEED, output_type="latent").frames, latents)
        <= ORACLE_ATOL
    )


@pytest.mark.parametrize("layout", ("kohya", "diffusers"))
def test_loras_of_diffusers_load(released, draw, tmp_path, layout):
    pytest.importorskip("peft", reason="peft is not installed")
    network = load_stage(released / "base")[0].network
    file = tmp_path / "lora.safetensors"
    read = read_lora(save_kohya(file, made(network), made_text(1)), network)
    if layout == "diffusers":
        [file] = write_lora(read, tmp_path / "out", layout)

    def change(sampler):
        load_lora(sampler.network, file)
        load_text_lora(sampler.text_encoder, file)

    plain, _ = draw(released / "base", [])
    latents, _ = draw(released / "base", [], change)
    pipeline = opened(released / "base")
    pipeline.load_lora_weights(file)
    found = pipeline(PROMPTS, seed=SEED, output_type="latent").frames
    assert relative_error(plain, latents) > 0.01
    assert relative_error(found, latents) <= ORACLE_ATOL


def test_what_does_not_fit_is_refused(released, exported):
    pipeline = opened(released / "base")
    for arguments_, options, wanted in (
        ([[]], {}, "got 0 prompts"),
        (["a"], {"video": given("vsr")[0]}, "draws from prompts alone"),
        (["a"], {"noise_level": 3}, "noise_level is no setting of this stage"),
        (["a"], {"height": 17}, "wanted multiples of 8"),
        (["a"], {"output_type": "mp4"}, "output_type 'mp4'"),
    ):
        with pytest.raises(ValueError, match=re.escape(wanted)):
            pipeline(*arguments_, **options)
    pipeline = opened(exported / "vsr")
    with pytest.raises(ValueError, match="video: got none, wanted a clip for each prompt"):
        pipeline("a")
    with pytest.raises(ValueError, match="wanted uint8"):
        pipeline("a", given("vsr")[0][:1] / 255)


def test_code_is_lost_by_save_pretrained(released, tmp_path):
    """The card says so: if diffusers should come to keep the code, it need not."""
    opened(released / "base").save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").rglob("*.py"))
    assert "`save_pretrained`" in (released / "base/README.md").read_text()


def test_without_its_encoders_a_folder_has_no_code(released, tmp_path):
    export_stage(released / "runs/base", tmp_path / "out", encoders=False)
    assert not list((tmp_path / "out").rglob("*.py")) and not (tmp_path / "out/model_index.json").exists()
    assert "only LaVie can run it" in (tmp_path / "out/README.md").read_text()
