"""`lavie generate`: the whole cascade, from prompts to large videos."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress

from ..console import make_console
from ..errors import ConfigError
from .prompts import Prompt, PromptFile, read_prompts

if TYPE_CHECKING:
    import torch

    from ..inference.cascade import Cascade


CONFIGS = ("base.yaml", "interpolation.yaml", "vsr.yaml")
"""The shipped configs of the cascade at full size."""


def generate(
    cascade: Annotated[
        Path | None,
        typer.Option(help="A folder with base/, interpolation/ and vsr/: exported folders, runs, or checkpoints."),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            help="With --dry-run and without --cascade: a config of each stage, a file or the name of a shipped one; "
            "default: base.yaml, interpolation.yaml and vsr.yaml. Nothing need be trained."
        ),
    ] = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the videos go; the same folder goes on with a cut call.")
    ] = None,
    stop_after: Annotated[
        Literal["base", "interpolation", "vsr"], typer.Option(help="The last stage that runs.")
    ] = "vsr",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="STAGE.KEY=VALUE",
            help="A setting of one stage, as vsr.guidance_scale=6 or base.num_frames=24; may be given several times.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every stage's noise.")] = 0,
    num: Annotated[int, typer.Option(min=1, help="Clips per prompt.")] = 1,
    offload: Annotated[bool, typer.Option(help="Keep idle stages on the CPU.")] = False,
    sequential_guidance: Annotated[
        bool, typer.Option(help="Two calls of the network in place of one of twice the batch: less memory.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Print sizes and peak memory, and refuse what cannot fit.")] = False,
    overwrite: Annotated[
        bool, typer.Option(help="Replace clips of other prompts, settings or weights that lie in --out.")
    ] = False,
    drop_work: Annotated[
        bool, typer.Option(help="Delete the frames in OUT/work when the videos are written, about 480 MB for each.")
    ] = False,
) -> None:
    """Draw large videos from prompts: key frames, then the frames between them, then four times the size.

    Settings that are not given are those of the training runs.
    """
    from ..inference.cascade import Cascade
    from ..inference.generate import generate_cascade
    from ..inference.work import Work

    def load(device: "torch.device | None" = None) -> Cascade:
        """Return the cascade that the options ask for."""
        assert cascade is not None
        return Cascade.from_pretrained(
            cascade, overrides=set_ or [], seed=seed, stop_after=stop_after, device=device, offload=offload
        )

    if config and (cascade or not dry_run):
        raise ConfigError("--config is for --dry-run without --cascade: the runs of a cascade have their own configs")
    if dry_run:
        import torch

        from ..inference.memory import planned_cascade

        planned = load(torch.device("meta")) if cascade else None
        if planned is None:
            configs = config or CONFIGS
            planned = planned_cascade(configs, overrides=set_ or [], seed=seed, stop_after=stop_after)
        _print_estimate(planned, offload, sequential_guidance)
        if prompt or prompt_file:
            read_prompts(prompt, prompt_file)
        return
    if cascade is None:
        raise ConfigError("--cascade is missing: wanted a folder with base/, interpolation/ and vsr/")
    prompts = read_prompts(prompt, prompt_file)
    if out is None:
        raise ConfigError("--out is missing: wanted a folder for the videos")
    stages = load()
    with Progress(transient=True, console=make_console()) as progress:
        tasks = {name: progress.add_task(name, start=False, total=None) for name in stages.stages}

        def advance(stage: str, done: int, total: int) -> None:
            """Move the bar of a stage."""
            progress.start_task(tasks[stage])
            progress.update(tasks[stage], completed=done, total=total)

        paths = generate_cascade(
            stages,
            prompts,
            out,
            num_per_prompt=num,
            stop_after=stop_after,
            sequential_guidance=sequential_guidance,
            overwrite=overwrite,
            drop_work=drop_work,
            progress=advance,
        )
    typer.echo("\n".join(map(str, paths)))
    if kept := Work(out / "work").size():
        typer.echo(
            f"{out / 'work'} keeps {kept / 1e6:.1f} MB of frames, from which a later call goes on: --drop-work, or "
            "deleting the folder, frees them",
            err=True,
        )


def _print_estimate(cascade: "Cascade", offload: bool, sequential_guidance: bool) -> None:
    """Print the sizes and the peak of every stage; ConfigError if one does not fit in the present memory."""
    from ..inference.load import default_device
    from ..inference.memory import MARGIN, device_memory, peaks, require_fit
    from ..models.live_bytes import GIB

    estimates = peaks(cascade, offload=offload, sequential_guidance=sequential_guidance)
    for name, peak in estimates.items():
        windows, rows, columns = (axis.count for axis in peak.sizes.axes)
        parts = [f"{count} {part}" for count, part in ((windows, "windows"), (rows * columns, "tiles")) if count > 1]
        cut = f"up to {' of '.join(parts)} of" if parts else "at once,"
        typer.echo(
            f"{name}: {' x '.join(map(str, peak.sizes.pixels))} pixels; {cut} {' x '.join(map(str, peak.sizes.window))}"
            " latents\n"
            f"  weights {peak.weights / GIB:.2f} GiB; activations of the network {peak.network / GIB:.2f} GiB, of the "
            f"autoencoder {peak.autoencoder / GIB:.2f} GiB; clips {peak.clips / GIB:.2f} GiB\n"
            f"  peak, with a margin of {MARGIN - 1:.0%}: {peak.total / GIB:.2f} GiB"
        )
    memory = device_memory(default_device())
    typer.echo(f"device: {memory.name}, {memory.free / GIB:.2f} of {memory.total / GIB:.2f} GiB free")
    require_fit(cascade, estimates, memory.free, offload=offload, sequential_guidance=sequential_guidance)
