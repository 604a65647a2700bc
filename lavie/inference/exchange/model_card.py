"""The model card of an exported folder: what it is, how it was made, how it is used, what it cannot do."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ...config.stages import STAGES, Stage
from ...config.train import TrainConfig
from ..settings import StageSettings, resolve, run_defaults

PROMPT = "what the clip shows"
"""The prompt of the card's examples, where the run has no validation prompt."""
WEIGHTS = {
    "ema": "averaged over training (EMA, decay {decay:g})",
    "raw": "those of the last step, not averaged",
    "released": "those of a file in the layout of LaVie's released ones, bit for bit",
    "merged": "those of a network, with the difference of two others added to the spatial layers",
    "inflated": "spatial ones of a 2-D UNet; the temporal part is fresh, so far without effect",
}
USAGE = {
    "base": """\
from lavie.inference.generate import generate
from lavie.inference.load import load_pipeline
from lavie.inference.settings import BaseSettings

pipeline, config = load_pipeline(".")
generate(pipeline, [{prompt!r}], "samples", BaseSettings.of(config))
""",
    "interpolation": """\
import numpy as np

from lavie.inference.load import load_stage
from lavie.inference.video_io import write_mp4

interpolate, config = load_stage(".")
key_frames = np.zeros((1, {frames}, {height}, {width}, 3), np.uint8)  # yours: clips, frames, height, width, RGB
[clip] = interpolate(key_frames, [{prompt!r}], {settings})
write_mp4("interpolated.mp4", clip, {fps:g})
""",
    "vsr": """\
import numpy as np

from lavie.inference.load import load_stage
from lavie.inference.video_io import write_mp4

upscale, config = load_stage(".")
low_resolution = np.zeros((1, {frames}, {height}, {width}, 3), np.uint8)  # yours: clips, frames, height, width, RGB
[clip] = upscale(low_resolution, [{prompt!r}], {settings})
write_mp4("upscaled.mp4", clip, {fps:g})
""",
}
PORTABLE = """\
Without LaVie, where torch, diffusers and transformers are installed:

```python
{imports}from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".", trust_remote_code=True)
{lines}clip = pipeline([{prompt!r}]{video}, seed=0).frames[0]  # PIL pictures
clip[0].save("clip.gif", save_all=True, append_images=clip[1:], duration={duration}, loop=0)
```

`trust_remote_code` runs `lavie_pipeline.py` and `unet/lavie_unet.py` of this folder: read them first. They draw what
LaVie draws with the same prompt and seed{suffix}. `pipeline.load_lora_weights` takes LoRAs where peft is installed.
`save_pretrained` writes a folder without this code, which then does not load: copy this folder instead.
"""
GIVEN = "video = np.zeros((1, {frames}, {height}, {width}, 3), np.uint8)  # yours: clips, frames, height, width, RGB\n"
"""What stages that start from frames want besides."""
NOT_PORTABLE = """\
It lacks the autoencoder or the text encoder, so only LaVie can run it, beside the folder that has them.
"""
ORIGINS = {
    "stable-diffusion-v1-4": ("CompVis/stable-diffusion-v1-4", "creativeml-openrail-m"),
    "stable-diffusion-x4-upscaler": ("stabilityai/stable-diffusion-x4-upscaler", "openrail++"),
    "lavie_": ("Vchitect/LaVie", "other"),
}
"""The Hub's name and the licence of weights whose local name holds a word."""
CARD = """\
---
{metadata}---

# LaVie: {title}

The {stage} stage of LaVie, the cascade of latent diffusion networks from text to video (Wang et al., IJCV 2024), as a
folder for the LaVie trainer {version}.

| | |
|---|---|
| parameters | {parameters:,} |
| weights | {weights} |
| made from | {source} |
| training steps | {step} |
| trained on | {data} |
| clips | {clips} |
| predicts | {prediction} |

## Use

In this folder, with LaVie installed:

```python
{usage}```

With folders of all three stages as `base/`, `interpolation/` and `vsr/` in one folder `CASCADE`:

    lavie generate --cascade CASCADE --prompt {quoted} --out videos

A run goes on from these weights with `init_weights` set to this folder. Of this folder, diffusers and transformers open
{opens}; the network in `unet/` is LaVie's own. Its weights are plain safetensors.

{portable}
Sampling, unless asked otherwise:

{sampling}
## Limits

{limits}

## Licence

LaVie's code is Apache-2.0. The weights follow the licence of what they were made from, and of the data: Stable
Diffusion 1.4 and its x4 upscaler, where a run starts from them, bind derived weights to theirs (CreativeML OpenRAIL-M
and CreativeML Open RAIL++-M); LaVie's released networks have one of their own.
"""


def model_card(
    config: TrainConfig, about: Mapping[str, Any], encoders: Sequence[str] = (), *, portable: bool = False
) -> str:
    """Return the README.md of an exported folder.

    Args:
        config: the folder's.
        about: the content of its export.json.
        encoders: the subfolders of the autoencoder and the text encoder that it holds.
        portable: whether it holds the code that runs it without this project.
    """
    stage, data = STAGES[config.stage], config.data

    # How it samples, and the code that does so with frames of the size that the stage is given.
    settings = getattr(resolve({stage.name: run_defaults(config)}), stage.name)
    shown = settings.model_dump(
        include={"num_inference_steps", "guidance_scale", "scheduler", "negative_prompt", "noise_level"}
    )
    prompt = config.validation_prompts[0] if config.validation_prompts else PROMPT
    height, width = stage.given_size(data.height, data.width, config.latent_stride)
    given = {"frames": stage.given_frames(data.num_frames, config.keyframe_interval), "height": height, "width": width}
    usage = USAGE[stage.name].format(
        **given,
        prompt=prompt,
        fps=getattr(settings, "fps", 24),
        settings=", ".join(f"{name}={value!r}" for name, value in shown.items()),
    )

    # What it was trained on.
    rate = f"{data.fps:g} frames a second" if data.fps else f"frame stride {data.frame_stride}"
    sizes = [f"{size.num_frames} frames of {size.height} x {size.width}" for size in data.sizes]
    clips = f"{' or '.join(sizes)}, {rate}"
    trained = about["step"] is not None
    if trained and data.num_images:
        clips += f", joined by {data.num_images} images"

    return CARD.format(
        metadata=_metadata(stage, about, portable),
        portable=_portable(stage, settings, prompt, given) if portable else NOT_PORTABLE,
        title=stage.title,
        stage=stage.name,
        version=about["lavie"],
        parameters=about["parameters"],
        weights=_weights(config, about),
        source=_source(about),
        data=", ".join(about["data"]) or "not told",
        quoted=shlex.quote(prompt),
        opens=" and ".join(f"`{part}/`" for part in ("scheduler", *encoders)),
        step=f"{about['step']:,}" if trained else "none in this trainer",
        clips=clips,
        prediction=config.prediction_type,
        usage=usage,
        sampling="\n".join(f"    {line}" for line in yaml.safe_dump(shown, sort_keys=False).splitlines()) + "\n",
        limits=_limits(config, trained),
    )


def _metadata(stage: Stage, about: Mapping[str, Any], portable: bool) -> str:
    """Return the card's head for the Hugging Face Hub, in YAML."""
    start = str(about["started_from"] if about["step"] is not None else about["source"])
    name, licence = next((origin for word, origin in ORIGINS.items() if word in start), (None, "other"))
    values = {
        "library_name": "diffusers" if portable else "lavie",
        "pipeline_tag": "text-to-video" if stage.draws_from_prompt else "video-to-video",
        "license": licence,
        "tags": ["lavie", stage.title.replace(" ", "-")],
    }
    # The Hub takes its own names only: a run of a folder that it does not know has no base model there.
    return yaml.safe_dump(values | ({"base_model": name} if name else {}), sort_keys=False)


def _portable(stage: Stage, settings: StageSettings, prompt: str, given: Mapping[str, int]) -> str:
    """Return how the folder is run without this project; `given`: the size of the frames that the stage starts from."""
    suffix = settings.prompt_suffix
    return PORTABLE.format(
        imports="" if stage.draws_from_prompt else "import numpy as np\n",
        lines="" if stage.draws_from_prompt else GIVEN.format(**given),
        video="" if stage.draws_from_prompt else ", video",
        prompt=prompt,
        duration=round(1000 / getattr(settings, "fps", 24)),
        suffix=f"; `lavie generate` joins {suffix!r} to the prompt" if suffix else "",
    )


def _weights(config: TrainConfig, about: Mapping[str, Any]) -> str:
    """Return what the weights are, with the LoRAs that were merged into them."""
    told = WEIGHTS[about["weights"]].format(decay=config.ema_decay)
    return f"{told}; merged in: {', '.join(about['loras'])}" if about.get("loras") else told


def _source(about: Mapping[str, Any]) -> str:
    """Return what the weights were made from."""
    if about["step"] is None:
        return str(about["source"])
    start = about["started_from"]
    return f"run {about['source']}, which started from {start or 'fresh weights'}"


def _limits(config: TrainConfig, trained: bool) -> str:
    """Return the list of what the network cannot do; `trained`: whether a run of ours made its weights."""
    lines = [
        "Trained for the size and rate above: other sizes and longer clips are possible, and less tried.",
        "It shows what its training data shows, biases included. Text, faces and hands come out poorly in networks of "
        "this kind.",
    ]
    if config.text_encoder.type == "hash":
        lines.append("Captions are read word by word by a text encoder without weights: it knows no synonyms.")
    if not trained:
        lines.append("Nothing was trained here; see where the weights come from.")
    return "\n".join(f"- {line}" for line in lines)
