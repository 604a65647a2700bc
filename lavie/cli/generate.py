"""`lavie generate`: the whole cascade, from prompts to large videos."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress

from ..console import make_console
from ..errors import ConfigError
from .drift import DriftReport, require_rendered_prompts
from .fit import fit_limit, on_gpu, print_estimate
from .loras import Loras, LoraTextScale, read_loras
from .prompts import (
    Embedding,
    GridGuidance,
    GridSeeds,
    Preview,
    Prompt,
    PromptFile,
    on_grid,
    read_prompts,
    require_apart_from_grid,
    require_set_once,
)
from .starts import StartOptions, keys_given, read_segment_prompts

if TYPE_CHECKING:
    import torch

    from ..inference.cascade import Cascade
    from ..inference.prompt_file import Request
    from ..inference.start import Start


CONFIGS = ("base.yaml", "interpolation.yaml", "vsr.yaml")
"""The shipped configs of the cascade at full size."""
STRENGTH = (
    "Draw over --image or --from-video (SDEdit): the share of the denoising steps, 0 .. 1, that are taken from the "
    "noised clip. 0 gives the clip as the autoencoder gives it back, 1 the same as without it. Works with any base "
    "network. LaVie's noise grows faster than Stable Diffusion's: 0.05, 0.2, 0.35, 0.5, 0.6 are as noisy as 0.03, "
    "0.26, 0.5, 0.71, 0.84 there, and above 0.73 is more noise than it ever has."
)


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
    image: Annotated[
        Path | None,
        typer.Option(help="A jpg or png that the clip begins with; for a base network with condition: frames."),
    ] = None,
    to_image: Annotated[
        Path | None, typer.Option(help="A jpg or png that the clip ends with; with the same --image it is a loop.")
    ] = None,
    from_video: Annotated[
        Path | None,
        typer.Option(help="A video whose last frames (base.overlap of them) the clip goes on from; see --strength."),
    ] = None,
    strength: Annotated[float | None, typer.Option(help=STRENGTH)] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length of the clip, at base.fps; default: that of the training clips.")
    ] = None,
    method: Annotated[
        Literal["whole", "windows", "recursion"] | None,
        typer.Option(
            help="How a clip longer than in training is made: at once; in windows that are blended at every step, one "
            "scene by any network; or segment by segment, each given the last frames of the one before, by a network "
            "with condition: frames. Default with --seconds: recursion if the network can."
        ),
    ] = None,
    segment_prompts: Annotated[
        Path | None,
        typer.Option(
            help="A text file with the prompts of the segments of --method recursion, one a line; an empty line begins "
            "the next clip. The last one goes on. Later stages read the first. In place of --prompt."
        ),
    ] = None,
    judge: Annotated[
        bool, typer.Option(help="Let the demo's judge name colour and direction of each segment: rendered set only.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="STAGE.KEY=VALUE",
            help="A setting of one stage, as vsr.guidance_scale=6 or base.num_frames=24; may be given several times.",
        ),
    ] = None,
    negative_prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT|STAGE=TEXT",
            help="What to steer away from: of every stage, or of one, as vsr=blur; may be given several times.",
        ),
    ] = None,
    embedding: Embedding = None,
    grid_seeds: GridSeeds = None,
    grid_guidance: GridGuidance = None,
    preview: Preview = False,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of every stage's noise, but where --set STAGE.seed=... gives one its own; default: 0."),
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="Clips per prompt.")] = 1,
    lora: Loras = None,
    lora_text_scale: LoraTextScale = None,
    offload: Annotated[bool, typer.Option(help="Keep idle stages on the CPU.")] = False,
    sequential_guidance: Annotated[
        bool, typer.Option(help="Two calls of the network in place of one of twice the batch: less memory.")
    ] = False,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="GIB|free",
            help="Take what makes every stage fit into so many GiB, or into the memory that is free, mild means first: "
            "--offload, --sequential-guidance, then smaller tiles and windows. Prints what was taken.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print sizes and peak memory, and refuse what cannot fit.")] = False,
    overwrite: Annotated[
        bool, typer.Option(help="Replace clips of other prompts, settings or weights that lie in --out.")
    ] = False,
    drop_work: Annotated[
        bool, typer.Option(help="Delete the frames in OUT/work when the videos are written, about 480 MB for each.")
    ] = False,
) -> None:
    """Draw large videos from prompts: key frames, then the frames between them, then four times the size.

    Settings that are not given are those of the training runs. Of clips longer than in training, OUT/drift.json and a
    table say how far each segment drifts from the first.
    """
    from ..files import require_writable
    from ..inference.asked import WORK, asked_clips
    from ..inference.cascade import Cascade, stages_until
    from ..inference.generate import generate_cascade
    from ..inference.work import Work
    from ..models.prompt_reading import warn_of_uncalled
    from ..run_folder import PROMPTS

    loras = read_loras(lora, lora_text_scale)
    require_set_once(set_ or [])
    overrides = [*negative_prompts(negative_prompt or [], stages_until(stop_after)), *(set_ or [])]
    options = StartOptions(image, to_image, from_video, strength, seconds, method)
    options.check(overrides)
    _require_said_once(set_ or [], negative_prompt or [], grid_seeds, grid_guidance, seed)

    def load(device: "torch.device | None" = None) -> Cascade:
        """Return the cascade that the options ask for; on the meta device nothing of it is loaded."""
        if cascade is None:
            from ..inference.memory import planned_cascade

            return planned_cascade(
                config or CONFIGS,
                overrides=overrides,
                seed=seed or 0,
                stop_after=stop_after,
                loras=loras,
                embeddings=embedding or (),
            )
        return Cascade.from_pretrained(
            cascade,
            overrides=overrides,
            seed=seed or 0,
            stop_after=stop_after,
            device=device,
            offload=offload,
            loras=loras,
            embeddings=embedding or (),
        )

    if config and (cascade or not dry_run):
        raise ConfigError("--config is for --dry-run without --cascade: the runs of a cascade have their own configs")
    if cascade is None and not dry_run:
        raise ConfigError("--cascade is missing: wanted a folder with base/, interpolation/ and vsr/")

    # Prompts, files and settings are read and checked together before any weights are.
    of_prompts = judge or grid_seeds is not None or grid_guidance is not None
    requests, texts = _read_texts(prompt, prompt_file, segment_prompts, needed=not dry_run or of_prompts)
    columns = 1
    if requests:
        cells, columns = on_grid(requests, grid_seeds, grid_guidance, num, stage="base")
        texts = [clip for clip in texts for _ in range(len(cells) // len(requests))]
        requests = cells
    if judge:
        require_rendered_prompts(text for clip in texts for text in clip)
    if out is None and not dry_run:
        raise ConfigError("--out is missing: wanted a folder for the videos")
    if out is not None:
        require_writable(out / PROMPTS)
    import torch

    meta = torch.device("meta")
    planned = load(meta)
    if more := options.overrides(planned.stages["base"], planned.settings.base):
        overrides += more
        planned = load(meta)
    starts = _starts(options, planned, requests, texts, own_segments=segment_prompts is not None)
    limit = fit_limit(fit)
    if fit is not None:
        from ..inference.memory import OFFLOAD, SEQUENTIAL, flags_to_fit

        flags = flags_to_fit(planned, limit, offload=offload, sequential_guidance=sequential_guidance)
        typer.echo(f"to fit: {' '.join(flags) or 'nothing is needed'}", err=not dry_run)
        offload, sequential_guidance = offload or OFFLOAD in flags, sequential_guidance or SEQUENTIAL in flags
        overrides += [flag.removeprefix("--set ") for flag in flags if flag.startswith("--set ")]
        planned = load(meta)
    if requests:
        # Nothing says what the clips in --out were made of where there are configs alone.
        own_out = None if cascade is None else out
        asked = asked_clips(
            planned, requests, own_out, starts=starts, num_per_prompt=num, stop_after=stop_after, overwrite=overwrite
        )
    else:
        planned.require([planned.settings])
    if dry_run and requests:
        warn_of_uncalled(planned.texts_read(planned.stages, [clip for _, clip in asked]))
    if dry_run or fit is not None or on_gpu():
        _print_estimates(planned, requests, offload, sequential_guidance, limit, to_stderr=not dry_run)
    if dry_run:
        return
    assert out is not None
    stages = load()
    report = DriftReport(stages.stages["base"], judge=judge)
    with Progress(transient=True, console=make_console()) as progress:
        tasks = {name: progress.add_task(name, start=False, total=None) for name in stages.stages}

        def advance(stage: str, done: int, total: int) -> None:
            """Move the bar of a stage."""
            progress.start_task(tasks[stage])
            progress.update(tasks[stage], completed=done, total=total)

        paths = generate_cascade(
            stages,
            requests,
            out,
            starts=starts,
            num_per_prompt=num,
            stop_after=stop_after,
            sequential_guidance=sequential_guidance,
            overwrite=overwrite,
            drop_work=drop_work,
            columns=columns,
            preview=preview,
            progress=advance,
            finished=report.measure,
        )
    report.write(out)
    typer.echo("\n".join(map(str, paths)))
    if kept := Work(out / WORK).size():
        typer.echo(
            f"{out / WORK} keeps {kept / 1e6:.1f} MB of frames, from which a later call goes on: --drop-work, or "
            "deleting the folder, frees them",
            err=True,
        )


def negative_prompts(given: list[str], stages: Sequence[str]) -> list[str]:
    """Return --negative-prompt as settings: first what is given for every stage that runs, then for single ones.

    Raises:
        ConfigError: one is for a stage that does not run or is none, or two are for the same stage, or for every one.
    """
    from ..config.stages import STAGES

    found: dict[str, str] = {}
    for text in given:
        stage, sign, prompt = text.partition("=")
        known = bool(sign) and stage in STAGES
        if sign and not known and re.fullmatch(r"\s*[\w-]+\s*", stage):
            literal = f"--set STAGE.negative_prompt={json.dumps(text)}"
            raise ConfigError(
                f"--negative-prompt {text}: {stage.strip()!r} is no stage: wanted {', '.join(STAGES)}, or a text; "
                f"one that has = behind its first word is given as {literal}"
            )
        place, prompt = (stage, prompt) if known else ("", text)
        if place and place not in stages:
            raise ConfigError(
                f"--negative-prompt {text}: stage {place} does not run; drop it, or --stop-after a later stage"
            )
        if place in found:
            raise ConfigError(f"--negative-prompt {text}: {place or 'every stage'} was given one before: drop one")
        found[place] = prompt
    of_stages = dict.fromkeys(stages, found[""]) if "" in found else {}
    of_stages |= {stage: prompt for stage, prompt in found.items() if stage}
    # In quotes, so that brackets at its beginning are no list.
    return [f"{stage}.negative_prompt={json.dumps(text, ensure_ascii=False)}" for stage, text in of_stages.items()]


def _require_said_once(
    settings: list[str], negative: list[str], grid_seeds: str | None, grid_guidance: str | None, seed: int | None
) -> None:
    """Raise ConfigError if --set gives a stage what a flag gives it, or the grid varies."""
    given = keys_given(settings)
    seeds = {"seed"} if seed is not None or any("seed" in keys for keys in given.values()) else set()
    require_apart_from_grid(grid_seeds, grid_guidance, seeds | given.get("base", set()))
    for text in negative:
        stage = text.partition("=")[0]
        if "negative_prompt" in given.get(stage, set()):
            raise ConfigError(
                f"--negative-prompt {text} and --set {stage}.negative_prompt=... both say it: wanted one of them"
            )


def _print_estimates(
    planned: "Cascade",
    requests: "Sequence[Request]",
    offload: bool,
    sequential_guidance: bool,
    limit: float,
    *,
    to_stderr: bool,
) -> None:
    """Print the estimate of the cascade, and where prompts have settings that change it, theirs under the prompt.

    Raises:
        ConfigError: a stage takes more than `limit` bytes.
    """
    from ..inference.cascade import Cascade
    from ..inference.load import META

    def tell(cascade: Cascade) -> None:
        """Print the estimate of a cascade."""
        print_estimate(cascade, offload, sequential_guidance, limit, to_stderr=to_stderr)

    tell(planned)
    told = [planned.settings]
    for request in requests:
        settings = request.over(planned.settings)
        # Neither the seed nor the negative prompt changes sizes, which would be told again for every line.
        alike = settings.model_copy(
            update={
                name: stage.model_copy(
                    update={key: getattr(getattr(planned.settings, name), key) for key in ("seed", "negative_prompt")}
                )
                for name, stage in settings
            }
        )
        if alike not in told:
            told.append(alike)
            typer.echo(f"{request.source}: {request.prompt}", err=to_stderr)
            tell(Cascade(**planned.stages, settings=settings, device=META))


def _read_texts(
    prompt: list[str] | None, prompt_file: Path | None, segment_prompts: Path | None, *, needed: bool
) -> "tuple[list[Request], list[list[str]]]":
    """Return the prompt of each clip, and the prompts of its segments, which are that prompt unless a file says more.

    Args:
        prompt, prompt_file, segment_prompts: the options.
        needed: whether there must be one.
    """
    from ..inference.prompt_file import as_requests
    from ..inference.settings import CascadeSettings

    if segment_prompts:
        if prompt or prompt_file:
            raise ConfigError("--segment-prompts stands in place of --prompt and --prompt-file: wanted one of them")
        texts = read_segment_prompts(segment_prompts)
        return as_requests(clip[0] for clip in texts), texts
    if not (needed or prompt or prompt_file):
        return [], []
    requests = read_prompts(prompt, prompt_file, CascadeSettings)
    return requests, [[request.prompt] for request in requests]


def _starts(
    options: StartOptions,
    planned: "Cascade",
    requests: "Sequence[Request]",
    texts: Sequence[Sequence[str]],
    *,
    own_segments: bool,
) -> "list[Start] | None":
    """Return what each clip starts from, read and checked against a cascade on the meta device; None for prompts alone.

    Args:
        options: those of the command.
        planned: the cascade, with all settings.
        requests: the prompts, with settings of their own. A dry run may have none: the cascade's settings are checked.
        texts: the prompts of each clip's segments.
        own_segments: whether these are to stand in place of the clip's prompt.
    """
    settings = [request.over(planned.settings).base for request in requests] or [planned.settings.base]
    starts = options.starts(settings)
    if own_segments:
        starts = [replace(start, segments=tuple(clip)) for start, clip in zip(starts, texts, strict=True)]
    for start, own in zip(starts, settings, strict=True):
        planned.stages["base"].require(start, own)
    return starts if own_segments or options.reads_files else None
