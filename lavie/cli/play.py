"""`lavie play`: a page on this machine that draws with cascades, and keeps what it drew."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np


def play(
    cascade: Annotated[
        list[str],
        typer.Argument(
            metavar="CASCADE...",
            help="What the page draws with: folders of cascades, runs of stage base, checkpoints or exported folders, "
            "each FOLDER or NAME=FOLDER. Nothing else on the disk can be reached from the page.",
        ),
    ],
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:SCALE]",
            help="A LoRA that the page offers, with the scale (default 1) that it begins with; several times.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the gallery, which a later call shows again.")] = Path(
        "runs/play"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for any that is free.")] = 8766,
) -> None:
    """Draw in a browser, at http://127.0.0.1: prompts and settings, a queue, and a gallery on disk; until ^C.

    The printed address ends with a token, which the page needs.
    """
    from ..pages.play.serve import serve

    def tell(address: str) -> None:
        """Print where the page is."""
        print(f"{address} draws with {', '.join(cascade)} into {out}; ^C ends it", flush=True)

    serve(cascade, out, port, tell, loras=lora or (), read_still=read_upload)


def read_upload(path: Path, height: int, width: int) -> "np.ndarray":
    """Return an uploaded image, decoded in the sandbox: uint8 (height, width, 3). Raises ConfigError if it is none."""
    from ..data.prepare.given_media import read_still

    return read_still(path, height, width, flag="the image")
