"""`lavie data view` without its command line: the samples, the batches and the list behind a page on this machine."""

import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ...config.train import TrainConfig
from ...data.shards.index import Index
from ..serving.listen import address_of, listen, require_pages, run


def serve(
    index: Index,
    port: int,
    tell: Callable[[str], None],
    *,
    exclude: Path,
    scores: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
    config: TrainConfig | None = None,
    step: int | None = None,
    world_size: int = 1,
) -> None:
    """Serve the page on 127.0.0.1 until ^C.

    Args:
        index: the samples.
        port: 0 for any that is free.
        tell: called with the address, which holds the token, once it can be opened.
        exclude: the file that marks are written to.
        scores: numbers of samples, by shard and key.
        config: the run whose cuts and batches are shown.
        step: the step that the page begins with, from 1.
        world_size: ranks of the run.

    Raises:
        ConfigError: the extra `pages` is missing, the port is taken, the list cannot be read, or there is no such step.
        DataError: the datasets cannot serve the run.
    """
    require_pages("lavie data view")
    from .app import Browsing, make_app
    from .batch import RunBatches
    from .clips import Shown
    from .excluded import Excluded
    from .table import SampleTable

    batches = RunBatches(config, world_size) if config else None
    if batches and step is not None:
        batches.require(step)
    excluded, table = Excluded(exclude), SampleTable(index, scores)
    listening = listen(port)
    token = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix="lavie-view-") as folder:
        browsing = Browsing(table, excluded, Shown(Path(folder)), batches, step)
        app = make_app(browsing, port=listening.getsockname()[1], token=token)
        tell(f"{address_of(listening)}#{token}")
        run(app, listening)
