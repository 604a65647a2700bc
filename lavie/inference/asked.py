"""The clips that a call asks of a cascade, checked before anything is drawn: on the meta device, before weights are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config.stages import STAGES
from ..errors import ConfigError
from ..models.prompt_syntax import parse_weights
from ..run_folder import PROMPTS
from .cascade import Cascade, CascadeClip
from .earlier import listed_stages
from .prompt_file import Request, as_requests, require_same_stages
from .settings import StageSettings
from .start import Start
from .work import Record, Work

WORK = "work"
"""The subfolder of the videos that keeps every stage without loss."""


def asked_clips(
    cascade: Cascade,
    prompts: Sequence[str | Request],
    out: Path | None,
    *,
    stop_after: str,
    starts: Sequence[Start] | None = None,
    num_per_prompt: int = 1,
    overwrite: bool = False,
) -> list[tuple[Request, CascadeClip]]:
    """Return every clip that `generate_cascade` is asked for, with its prompt; nothing is drawn or written.

    Args:
        cascade: on any device, the meta device too.
        prompts, starts, num_per_prompt, stop_after, overwrite: as for `generate_cascade`.
        out: the folder of the videos; None: it is not looked at.

    Raises:
        ConfigError: settings or prompts that cannot be sampled, or other clips in `out`.
    """
    if num_per_prompt < 1:
        raise ConfigError(f"num_per_prompt (--num): got {num_per_prompt}, wanted 1 or more")
    requests = as_requests(prompts)
    require_same_stages(requests, cascade.until(stop_after))
    if starts is not None and len(starts) != len(requests):
        raise ConfigError(f"got {len(requests)} prompts and {len(starts)} starts: wanted one for each")
    own: Sequence[Start | None] = starts or [None] * len(requests)
    asked: list[tuple[Request, CascadeClip]] = []
    for request, start in zip(requests, own, strict=True):
        settings = request.over(cascade.settings)
        for index in request.indices(len(asked), num_per_prompt):
            clip = CascadeClip(request.prompt, index, number=len(asked), settings=settings, start=start)
            asked.append((request, clip))
        for stage in cascade.until(stop_after):
            for text in clip.texts(stage):
                require_readable(text, getattr(settings, stage))
    cascade.require_clips([clip for _, clip in asked])

    # Finished clips that the call would replace are refused, too.
    if out is not None and not overwrite:
        _require_no_less(out, len(asked), cascade.until(stop_after))
        for index, (_, clip) in enumerate(asked):
            _require_own(out, Work(out / WORK), index, cascade.records(clip, stop_after=stop_after))
    return asked


def require_readable(prompt: str, settings: StageSettings) -> None:
    """Raise ConfigError if the brackets of a prompt, or of its negative one, cannot be read, or hold nothing at all."""
    if settings.prompt_syntax == "weights":
        spans = parse_weights(prompt)
        if prompt.strip() and not any(span.text.strip() for span in spans):
            raise ConfigError(
                f"prompt {prompt!r}: its brackets hold no word: wanted some, as in (fox:1.3), or "
                r"\( and \) for the brackets themselves"
            )
        parse_weights(prompt + settings.prompt_suffix)
        parse_weights(settings.negative_prompt)


def _require_no_less(out: Path, count: int, stages: Sequence[str]) -> None:
    """Raise ConfigError if `out` lists more clips, or more stages of them, than a call draws: its record would go."""
    either = "give another --out folder, or --overwrite"
    listed = listed_stages(out)
    more = [stage for stage in STAGES if stage not in stages and any(stage in of for of in listed.values())]
    if more:
        raise ConfigError(
            f"{out} holds finished clips of stage {more[-1]}, and this call stops after {stages[-1]}: "
            f"{out / PROMPTS} and the sheet would forget them: drop --stop-after, {either}"
        )
    if len(listed) > count:
        raise ConfigError(
            f"{out} holds {len(listed)} finished clips, and this call draws {count}: {out / PROMPTS} and the sheet "
            f"would forget the others: {either}"
        )


def _require_own(out: Path, work: Work, index: int, records: Mapping[str, Record]) -> None:
    """Raise ConfigError if clip `index` in `out` was made of anything else than `records` says, stage by stage."""
    either = "give another --out folder, or --overwrite"
    kept = {stage: found for stage in records if (found := work.record(index, stage))}
    if not kept and (lying := sorted(out.glob(f"{index:05d}*.mp4"))):
        raise ConfigError(f"{lying[0]} exists, and nothing in {work.folder} says what it was made of: {either}")
    for stage, found in kept.items():
        wanted = records[stage]
        if found["prompt"] != wanted["prompt"]:
            raise ConfigError(f"{out} holds clips of other prompts, as {index:05d} of {found['prompt']!r}: {either}")
        if found["settings"] != wanted["settings"]:
            keys = [key for key, value in wanted["settings"].items() if found["settings"].get(key) != value]
            raise ConfigError(
                f"{out} holds clips of other settings, as {index:05d} ({', '.join(f'{stage}.{key}' for key in keys)}): "
                f"{either}"
            )
        if found.get("start") != wanted.get("start"):
            raise ConfigError(
                f"{out} holds clips of another start (frames, strength or segments), as {index:05d}: {either}"
            )
        if found["weights"] != wanted["weights"]:
            raise ConfigError(f"{out} holds clips of other weights of stage {stage}, as {index:05d}: {either}")
