"""`lavie eval clipsim` and `lavie eval aesthetic`: what CLIP says of clips."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import ConfigError
from ..files import require_free, require_writable
from ..run_folder import PROMPTS
from .progress import tell
from .ranks import ranks
from .results import MOST_FRAMES, SEEDS, print_origin, require_places, with_interval
from .runs import Overwrite

if TYPE_CHECKING:
    from ..evaluation.captions import Captions
    from ..evaluation.clip_source import Clip

clipsim_app = typer.Typer(name="clipsim")

CLIPS = "A folder of videos, GIFs or folders of frames, or .tar shards."
Weights = Annotated[
    Path | None, typer.Option(help="CLIP: a folder of transformers' CLIPModel, or OpenAI's .pt (nothing in it is run).")
]
Frames = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_FRAMES, help="So many frames of a clip, spread evenly from the first to the last; default: all."
    ),
]
Fit = Annotated[
    Literal["crop", "stretch"],
    typer.Option(help="Short side to CLIP's size and the middle of it, as CLIP was trained; or both sides, all of it."),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="A .safetensors that keeps the embeddings of the clips: a call that was cut goes on with it, and"
        " clipsim and aesthetic of the same weights share it."
    ),
]
Annotation = Annotated[Path | None, typer.Option(help="MSR-VTT's test_videodatainfo.json; clips are named as videos.")]
Seed = Annotated[int, typer.Option(help="Of the draw of one caption of each video of MSR-VTT.", **SEEDS)]


@clipsim_app.callback(invoke_without_command=True)
def clipsim_command(
    context: typer.Context,
    clips: Annotated[Path | None, typer.Option(help=CLIPS)] = None,
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(help="The result, a .json.")] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            help="A .jsonl or .csv with a column name (or video, file) and a column prompt (or caption, text): the jobs"
            " of lavie sample --jobs, or a table of your own. Default: CLIPS/prompts.jsonl, as lavie sample writes it,"
            " or the captions of shards."
        ),
    ] = None,
    annotation: Annotation = None,
    seed: Seed = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="A folder with vocab.json and merges.txt. Default: --weights, if it is a folder."),
    ] = None,
    frames: Frames = None,
    fit: Fit = "crop",
    long_captions: Annotated[
        Literal["cut", "refuse"],
        typer.Option(help="Captions of more than CLIP's 77 tokens: read as far as that, and counted; or an error."),
    ] = "cut",
    features: Features = None,
    overwrite: Overwrite = False,
) -> None:
    """How well clips show their captions: the cosine of CLIP's embeddings, a mean over frames, then over clips.

    Under torchrun the ranks share the clips. With --annotation it is the protocol of MSR-VTT: one caption of each test
    video, drawn by the seed.
    """
    if context.invoked_subcommand:
        return
    if clips is None or weights is None or out is None:
        raise ConfigError("wanted --clips FOLDER, --weights CLIP and --out RESULT.json; or the word prompts")
    require_places(out, features, overwrite)
    if captions and annotation:
        raise ConfigError(f"--captions {captions} and --annotation {annotation}: give one of them")
    if tokenizer is None and weights.is_file():
        raise ConfigError(
            f"--weights {weights} has no tokenizer: add --tokenizer FOLDER, with vocab.json and merges.txt"
        )
    from ..evaluation.clip_network.network import ClipTokens, load_clip
    from ..evaluation.clip_source import find_clips
    from ..evaluation.clipsim import clipsim
    from ..inference.load import default_device

    found = find_clips(clips)
    asked = _captions(clips, found, captions, annotation, seed)
    with ranks():
        network = load_clip(weights, default_device())
        result = clipsim(
            found,
            asked,
            network.frame_protocol(frames, fit),
            network,
            ClipTokens(tokenizer or weights, network),
            source=str(clips),
            long_captions=long_captions,
            keep=features,
            moved=tell("clips"),
        )
        _finish(result, out, "CLIPSIM")


@clipsim_app.command("prompts")
def clipsim_prompts(
    annotation: Annotated[Path, typer.Argument(help="MSR-VTT's test_videodatainfo.json.")],
    out: Annotated[Path, typer.Option(help="The jobs, a .jsonl for `lavie sample --jobs`.")],
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write the jobs of MSR-VTT's protocol: one caption of each test video, drawn by the seed, as video7010.mp4."""
    from ..evaluation.captions import msrvtt_jobs
    from ..inference.jobs import write_jobs

    require_free(out, overwrite=overwrite)
    require_writable(out)
    typer.echo(f"{out}: {write_jobs(out, msrvtt_jobs(annotation, seed))} jobs")


def aesthetic_command(
    clips: Annotated[Path, typer.Option(help=CLIPS)],
    weights: Annotated[Path, typer.Option(help="CLIP ViT-L/14, as for clipsim.")],
    head: Annotated[
        Path,
        typer.Option(help="LAION's V1 linear head for ViT-L/14, or sac+logos+ava1; told by the names of its weights."),
    ],
    out: Annotated[Path, typer.Option(help="The result, a .json.")],
    frames: Frames = None,
    fit: Fit = "crop",
    features: Features = None,
    overwrite: Overwrite = False,
) -> None:
    """LAION's aesthetic rating, about 1 to 10: mean over frames, then clips. Under torchrun the ranks share."""
    require_places(out, features, overwrite)
    from ..evaluation.aesthetic import AestheticHead, aesthetic
    from ..evaluation.clip_network.network import load_clip
    from ..evaluation.clip_source import find_clips
    from ..inference.load import default_device

    rating = AestheticHead(head)
    found = find_clips(clips)
    with ranks():
        network = load_clip(weights, default_device())
        result = aesthetic(
            found,
            network.frame_protocol(frames, fit),
            network,
            rating,
            source=str(clips),
            keep=features,
            moved=tell("clips"),
        )
        _finish(result, out, f"aesthetic ({rating.kind})")


def _captions(
    folder: Path, clips: "list[Clip]", captions: Path | None, annotation: Path | None, seed: int
) -> "Captions":
    """Return the captions that a call asks for."""
    from ..evaluation.captions import msrvtt_captions, own_captions, read_captions, require_drawn_of

    if captions:
        return read_captions(captions)
    drawn = read_captions(folder / PROMPTS) if (folder / PROMPTS).is_file() else own_captions(clips, folder)
    if annotation:
        asked = msrvtt_captions(annotation, seed)
        if drawn:
            require_drawn_of(drawn, asked)
        return asked
    if drawn is None:
        raise ConfigError(f"{folder} holds no {PROMPTS}: wanted --captions TABLE or --annotation JSON")
    return drawn


def _finish(result: dict[str, Any], out: Path, what: str) -> None:
    """Write a result and print what it says, on rank 0."""
    from ..distributed import is_main
    from ..evaluation.measured import write_result

    if not is_main():
        return
    write_result(out, result)
    typer.echo(f"{with_interval(what, result)}, {result['n']} clips")
    print_origin(result, out)
