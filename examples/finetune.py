"""Fine-tune a base network on your own clips, fifty are enough, on one GPU of 24 GB.

    python examples/finetune.py my_clips runs/mine

`my_clips/` holds boat.mp4, with its caption beside it in boat.txt, and so on. Every tenth clip is held out. The run is
configs/finetune.yaml, whose start is LaVie's released network: docs/finetune.md says what to download for it. Keys of
the config may follow, as max_train_steps=500. Called again, the run goes on where it stopped.
"""

import argparse
import json
from pathlib import Path

from lavie.config.load import load_config
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.inference.generate import validation_sampler
from lavie.training.trainer import Trainer

HELD_OUT = 10
"""One clip in so many is kept from training: what the network says of it shows whether it learns or memorises."""


def captioned(folder: Path) -> list[CaptionedFile]:
    """Return the clips of a folder, each with the caption that lies beside it, in an order that stays the same."""
    return [
        CaptionedFile(
            name=str(path), stem=path.stem, load=path.read_bytes, caption=path.with_suffix(".txt").read_text()
        )
        for path in sorted(folder.glob("*.mp4"))
    ]


def pack(clips: list[CaptionedFile], out: Path, num_frames: int, fps: float | None) -> None:
    """Check every clip in a sandbox, and write those that can train into shards; the others are named."""
    report = pack_files(clips, out, num_frames=num_frames, fps=fps)
    print(f"{out}: {report.videos} clips, {len(report.rejected)} left out")
    for item in report.rejected:
        print(f"  {item.name}: {item.reason}. {item.detail}")


def main() -> None:
    """Pack the clips, train, and tell which checkpoint was best on the clips held out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("changes", nargs="*", metavar="key=value")
    parser.add_argument("--config", default="configs/finetune.yaml")
    parser.add_argument("--deepspeed", default="configs/zero2.json")
    given = parser.parse_intermixed_args()

    # What the config says of clips decides which of them are long enough, so it is read first.
    data = {name: given.out / "data" / name for name in ("train", "validation")}
    places = [f"data.{name}=[{path}]" for name, path in data.items()]
    resume = f"output_dir={given.out}", "resume_from_checkpoint=auto"
    config = load_config(given.config, [*places, *resume, *given.changes])

    # What is packed already is not packed again.
    clips = captioned(given.clips)
    held_out = clips[::HELD_OUT]
    train = [clip for clip in clips if clip not in held_out]
    for part, path in ((train, data["train"]), (held_out, data["validation"])):
        if not any(path.glob("*.tar")):
            pack(part, path, config.data.num_frames, config.data.fps)

    # Validation draws the prompts of the config into runs/mine/samples, before the first step too.
    with Trainer(config, given.deepspeed, sample=validation_sampler(config)) as trainer:
        trainer.fit()

    # The held-out loss falls, and rises again once the network learns the clips by heart.
    records = [json.loads(line) for line in (given.out / "metrics.jsonl").read_text().splitlines()]
    losses = {record["step"]: record["validation_loss"] for record in records if "validation_loss" in record}
    best = min(losses, key=losses.__getitem__)
    print(f"held-out loss {losses[min(losses)]:.4f} before, {losses[best]:.4f} at its lowest, step {best}")
    print(f'lavie sample --checkpoint {given.out} --prompt "..." --out samples')


if __name__ == "__main__":  # the loader starts processes, which import this file again
    main()
