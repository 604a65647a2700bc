"""Teach a network a new subject from eight images or more by LoRA, and draw it at several strengths.

    python examples/lora.py my_images --base runs/base --out runs/subject --prompt "a photo of sks in the snow"

`my_images/` holds 1.jpg, with its caption beside it in 1.txt ("a photo of sks"), and so on. `lavie lora train` does the
same in one command; here each part of it can be changed. Keys of configs/lora.yaml may follow, as max_train_steps=400.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from lavie.config.load import load_config
from lavie.inference.generate import generate, validation_sampler
from lavie.inference.load import load_pipeline
from lavie.inference.settings import BaseSettings
from lavie.models.lora.choice import LoraChoice
from lavie.run_folder import newest_checkpoint
from lavie.training.trainer import Trainer

STRENGTHS = (0.0, 0.5, 1.0)
"""What the adapters are multiplied by in the samples: 0 is the base network itself."""


def main() -> None:
    """Pack the images, train the adapters, and draw the prompt without and with them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("changes", nargs="*", metavar="key=value")
    parser.add_argument("--base", required=True, help="a run or an exported folder of stage base")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--deepspeed", default="configs/zero2.json")
    given = parser.parse_intermixed_args()

    # 1. Data and config: the images in shards, and configs/lora.yaml with the base's network, encoders and sampling.
    lavie = [sys.executable, "-m", "lavie.cli.main"]
    words = ["--base", given.base, "--out", str(given.out), "--prepare", *given.changes]
    subprocess.run([*lavie, "lora", "train", str(given.images), *words], check=True)
    config = load_config(given.out / "lora.yaml")

    # 2. Adapters beside the spatial layers are trained; all else of the network stays as it is.
    with Trainer(config, given.deepspeed, sample=validation_sampler(config)) as trainer:
        trainer.fit()

    # 3. The same prompt from the same noise: what changes from folder to folder is the adapters' doing. Look at the
    # motion as well as at the subject. Where clips come to stand still, take a lower strength or an earlier checkpoint.
    adapters = newest_checkpoint(given.out) / "lora"
    for strength in STRENGTHS:
        loras = [LoraChoice(adapters, strength)] if strength else []
        pipeline, of_base = load_pipeline(given.base, loras=loras)
        for path in generate(pipeline, [given.prompt], given.out / f"strength-{strength:g}", BaseSettings.of(of_base)):
            print(path)

    # The file is in diffusers' layout: other programs for Stable Diffusion 1.x read it too, and so does the code of
    # an exported folder, as pipeline.load_lora_weights(file).
    print(adapters / "pytorch_lora_weights.safetensors")


if __name__ == "__main__":  # the loader starts processes, which import this file again
    main()
