"""Train one stage of LaVie: deepspeed train.py --deepspeed configs/zero3.json [CONFIG.yaml] [key=value ...]"""

import argparse

from lavie.config.load import load_config
from lavie.training import stop

DEFAULT = "configs/base.yaml"


def main() -> None:
    """Read the command line and run the training, or print what it would run.

    The process leaves with 0 when the training is done, else with a code of lavie/training/stop.py, which says whether
    it stopped as asked or failed, and whether to try again.
    """
    stop.listen()  # first, so that a request to stop during the imports is not lost
    parser = argparse.ArgumentParser(description=__doc__, epilog="Every key of the configs can be overridden.")
    parser.add_argument(
        "run", nargs="*", metavar="CONFIG.yaml key=value", help=f"the run (default: {DEFAULT}) and its changes"
    )
    parser.add_argument(
        "--deepspeed", "--deepspeed_config", metavar="FILE", default="configs/zero3.json", help="default: %(default)s"
    )
    parser.add_argument("--local_rank", type=int, help="set by launchers; the environment decides")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    args = parser.parse_intermixed_args()  # key=value before or after the flags
    named = bool(args.run) and "=" not in args.run[0]
    path, overrides = (args.run[0], args.run[1:]) if named else (DEFAULT, args.run)
    try:
        config = load_config(path, overrides)
        if args.dry_run:
            from lavie.training.dry_run import dry_run_text

            print(dry_run_text(config, args.deepspeed))
            return
        stop.catch_interrupts()
        from lavie.inference.generate import validation_sampler
        from lavie.training.trainer import Trainer

        with Trainer(config, args.deepspeed, sample=validation_sampler(config)) as trainer:
            code = 0 if trainer.fit() else stop.STOPPED
    except KeyboardInterrupt:
        code = stop.INTERRUPTED
    except Exception as error:
        code = stop.report(error)
    stop.leave(code)


if __name__ == "__main__":
    main()
