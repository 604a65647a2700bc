"""Train one stage of LaVie.

This is `lavie train`, and train.py of a checkout. Launchers start it as a module where there is no checkout:
`deepspeed --module lavie.train --deepspeed zero3.json base.yaml`, `torchrun -m lavie.train base.yaml`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lavie.environment import prepare_environment
from lavie.training import signals, stop

DEFAULT = "configs/base.yaml"
DEEPSPEED = "configs/zero3.json"
USAGE = "%(prog)s [CONFIG.yaml] [key=value ...] [--deepspeed FILE] [--dry-run | --replay STEP]"
OWN = {
    "--deepspeed": True,
    "--deepspeed_config": True,
    "--local_rank": True,
    "--local-rank": True,
    "--dry-run": False,
    "--replay": True,
    "--version": False,
    "--help": False,
    "-h": False,
}
"""The options that are no keys of the config, and whether each takes a value."""


def main(words: Sequence[str] | None = None, program: str | None = None) -> None:
    """Read the command line and run the training, or print what it would run.

    The process leaves with 0 when the training is done, else with a code of lavie/training/stop.py, which says whether
    it stopped as asked or failed, and whether to try again.

    Args:
        words: the command line; default: that of the process.
        program: the name of the command in its help; default: that of the process.
    """
    prepare_environment()
    signals.listen()  # before all that takes long, so that a request to stop during the imports is not lost
    parser = _parser(program)
    run: Path | None = None
    try:
        from lavie.config.load import load_config
        from lavie.config.overrides import require_paths, split_command_line
        from lavie.config.shipped import find_config
        from lavie.config.train import TrainConfig

        line = split_command_line(sys.argv[1:] if words is None else words, TrainConfig, OWN)
        args = parser.parse_args(line.own)
        require_paths(line.plain, ("CONFIG.yaml",), optional=True)
        config = load_config(find_config(*line.plain or (DEFAULT,)), line.overrides)
        deepspeed = find_config(args.deepspeed, "--deepspeed")
        if not args.dry_run:
            signals.catch()
        if args.replay is not None:
            from lavie.distributed import is_main
            from lavie.training.replay import replay

            text = replay(config, deepspeed, args.replay)
            if is_main():
                print(text)
            stop.leave(0)
        from lavie.inference.generate import validation_sampler

        sample, measure = validation_sampler(config), None
        if config.eval.steps:
            from lavie.evaluation.during import TrainingMeasure

            measure = TrainingMeasure(config)
        if args.dry_run:
            from lavie.training.dry_run import dry_run_text

            print(dry_run_text(config, deepspeed))
            return
        from lavie.pages.report.build import write_last_report  # now: its code may be another when the run ends
        from lavie.training.trainer import Trainer

        with Trainer(config, deepspeed, sample=sample, measure=measure) as trainer:
            run = Path(config.output_dir)  # from here on the folder is this run's
            code = 0 if trainer.fit() else stop.STOPPED
    except KeyboardInterrupt:
        code = signals.INTERRUPTED
    except Exception as error:
        code = stop.report(error)
    if run:
        signals.ignore_termination()  # launchers end a rank as soon as another has left
        write_last_report(run)
    stop.leave(code)


def _parser(program: str | None) -> argparse.ArgumentParser:
    """Return the parser of the options that are no keys of the config."""
    from lavie import __version__

    parser = argparse.ArgumentParser(
        prog=program,
        usage=USAGE,
        description="Train one stage of LaVie. CONFIG.yaml is a file or the name of a shipped config (default: "
        f"{DEFAULT}).",
        epilog="Every key of the config can be overridden, as learning_rate=1e-5, --learning_rate 1e-5 or "
        "--learning_rate=1e-5, before or after it. `lavie config list` names the configs, `lavie config keys` prints "
        "their keys.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--deepspeed", "--deepspeed_config", metavar="FILE", default=DEEPSPEED, help="default: %(default)s"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help="set by launchers; the environment decides")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    parser.add_argument(
        "--replay", type=int, metavar="STEP", help="compute a step again, sample by sample, save nothing, and stop"
    )
    parser.add_argument("--version", action="version", version=f"lavie {__version__}")
    return parser


if __name__ == "__main__":
    main()
