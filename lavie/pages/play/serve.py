"""`lavie play` without its command line: sources, gallery and queue behind a page on this machine."""

import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..serving.listen import address_of, listen, require_pages, run
from .uploads import ReadStill


def serve(
    words: Sequence[str],
    out: Path,
    port: int,
    tell: Callable[[str], None],
    *,
    loras: Sequence[str] = (),
    read_still: ReadStill,
) -> None:
    """Serve the page on 127.0.0.1 until ^C.

    Args:
        words: cascades, runs and exports, each FOLDER or NAME=FOLDER.
        out: the folder of the gallery.
        port: 0 for any that is free.
        tell: called with the address, which holds the token, once it can be opened.
        loras: those that the page offers, as `find_loras` takes them.
        read_still: decodes uploaded images.

    Raises:
        ConfigError: the extra `pages` is missing, the port is taken, a name or LoRA is not right, or the gallery's
            folder is taken by another server or cannot be written to.
        CheckpointError: a folder is none that can be drawn from.
    """
    require_pages("lavie play")
    from .app import make_app
    from .gallery import Gallery, alone
    from .sources import find_loras, find_sources
    from .studio import Studio
    from .uploads import Uploads

    listening = listen(port)
    sources, choices = find_sources(words), find_loras(loras)
    token = secrets.token_urlsafe(24)
    with alone(out), tempfile.TemporaryDirectory(prefix="lavie-play-") as work:
        gallery, uploads = Gallery(out), Uploads(out / "images", read_still)
        studio = Studio(sources, gallery, uploads, choices, Path(work))
        app = make_app(studio, port=listening.getsockname()[1], token=token)
        tell(f"{address_of(listening)}#{token}")
        run(app, listening, ending=studio.changes.close)
