"""The command `lavie data view`: a page that shows samples as training cuts them, and what to leave out."""

from pathlib import Path
from typing import Annotated

import typer

from ..console import make_console, progress_bar
from ..errors import ConfigError
from .runs import ShardWords

EXCLUDE = Path("exclude.txt")
"""The list of a call that names none."""


def view_command(
    shards: ShardWords = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="A run's YAML, or the name of a shipped config: samples are cut as it says, and its batches are shown."
            " Without SHARDS, its data.train."
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=1, help="Begin with the batch of this step, from 1; needs --config.")
    ] = None,
    world_size: Annotated[int, typer.Option(min=1, help="GPUs of the run.")] = 1,
    exclude: Annotated[
        Path | None,
        typer.Option(
            help="The file that marks are written to, a key a line, for data.exclude. Default: that of the config, or"
            f" {EXCLUDE}."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for any that is free.")] = 8767,
) -> None:
    """Look through a dataset in a browser: filter, sort, play, and mark what training is to leave out; until ^C."""
    from ..config.load import load_config
    from ..config.overrides import split_command_line
    from ..config.shipped import find_config
    from ..config.train import TrainConfig
    from ..data.check.scores import read_scores
    from ..data.shards.index import load_index
    from ..pages.data.serve import serve

    line = split_command_line(shards or [], TrainConfig)
    if not config and (line.overrides or step is not None):
        raise ConfigError("key=value and --step are of a run: wanted --config")
    run = load_config(find_config(config), line.overrides) if config else None
    paths = line.plain or (list(run.data.train_paths) if run else [])
    if not paths:
        raise ConfigError("SHARDS is missing: wanted a folder of shards, or --config")
    own = run.data.exclude if run else ()
    listed = exclude or (Path(own) if isinstance(own, str) else EXCLUDE)
    index = load_index(paths, remote=bool(run and run.data.remote))
    with progress_bar(make_console(stderr=True), "reading scores") as progress:
        scores = read_scores(index.shards, progress)

    def tell(address: str) -> None:
        """Print where the page is."""
        print(f"{address} shows {len(index)} samples of {', '.join(paths)}; ^C ends it", flush=True)

    serve(index, port, tell, exclude=listed, scores=scores, config=run, step=step, world_size=world_size)
