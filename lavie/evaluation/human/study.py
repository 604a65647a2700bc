"""Making a study: blinded copies of clips, the worse copies of golden pairs, and the key."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ...errors import ConfigError, DataError
from ...inference.video_io import write_mp4
from ...seeds import numpy_generator
from ..clip_source import Clip
from .key import CLIPS, INDEX, KEY, PAGE, ClipKey, ItemKey, Key, TrialKey
from .plan import Design, plan
from .sources import Sources

NOISE = 0.75
"""The share of noise in a golden pair's copy: the clip can be made out, and nobody prefers it."""
BLINDED = re.compile(r"[0-9a-f]{8}\.mp4|\..*\.partial")
"""The name of a clip in a study, also while it is written."""
MOVES = 2.0
"""The mean change of levels, of 255, from which on a frozen copy differs visibly from its clip."""

Moved = Callable[[int, int], None]


def is_of_study(path: Path) -> bool:
    """Return whether what lies at a path is a study's key or its page, which a new study may replace."""
    if path.name == KEY:
        return path.is_file()
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else {""}
    clips = list((path / CLIPS).iterdir()) if (path / CLIPS).is_dir() else []
    return names <= {CLIPS, INDEX} and all(entry.is_file() and BLINDED.fullmatch(entry.name) for entry in clips)


def require_apart(out: Path, folders: Mapping[str, Path]) -> None:
    """Raise ConfigError if a study would lie among the clips of a model, or be made of clips that it replaces."""
    for model, folder in folders.items():
        if out.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"--out {out} lies in {folder}: its clips would be taken for clips of {model}")
        if folder.resolve().is_relative_to((out / PAGE).resolve()):
            raise ConfigError(f"--out {out}: the clips of {model}, {folder}, lie in what it replaces")


def make_study(
    out: Path, sources: Sources, design: Design, seed: int, *, fps: float, moved: Moved | None = None
) -> Key:
    """Write a study's clips below `out`, and return its key.

    Every clip is decoded and written anew in the same way, near lossless, so that neither its name nor its codec,
    container or metadata tells where it comes from.

    Args:
        out: gets page/clips/*.mp4.
        sources: the clips.
        design: what raters are asked.
        seed: of everything drawn at random. Whoever knows it, the design and the file names can tell the clips apart.
        fps: frames per second of folders of pictures, which do not say it.
        moved: called after each clip as moved(done, total).

    Raises:
        DataError: a clip cannot be read, has one frame, or is to be frozen and does not move.
    """
    key = blind(sources, design, seed)
    folder = out / PAGE / CLIPS
    folder.mkdir(parents=True, exist_ok=True)
    hashes: dict[tuple[str, int], str] = {}
    for done, (name, clip) in enumerate(key.clips.items(), 1):
        source = sources.clips[clip.model][clip.item]
        frames, rate, sha256 = _read(source, clip.model, fps)
        if clip.copied:
            frames = _worse(frames, clip.copied, source.name, numpy_generator(seed, "human golden", done))
        else:
            hashes[clip.model, clip.item] = sha256
        write_mp4(folder / f"{name}.mp4", frames, rate)
        if moved:
            moved(done, len(key.clips))
    return key.model_copy(update={"sources": {model: _joined(hashes, model) for model in key.models}})


def blind(sources: Sources, design: Design, seed: int) -> Key:
    """Return the key of a study: its trials, and new names of the clips that they show. No clip is opened."""
    models = list(sources.clips)
    places = plan(design, len(models), len(sources.items), seed)
    every = {clip for trials in places for trial in trials for clip in (trial.left, trial.right) if clip is not None}
    shown = sorted(every, key=lambda clip: (clip.item, clip.model, clip.copy))
    # Clips are written in random order, for the files' times would tell the models apart.
    shown = [shown[i] for i in numpy_generator(seed, "human order").permutation(len(shown))]
    names = dict(zip(shown, _random_names(len(shown), seed), strict=True))

    clips = {
        name: ClipKey(
            model=models[clip.model],
            item=clip.item,
            source=sources.clips[models[clip.model]][clip.item].name,
            copied=design.golden if clip.copy else "",
        )
        for clip, name in names.items()
    }
    trials = {
        f"{number}-{position}": TrialKey(
            place=number, kind=trial.kind, left=names[trial.left], right=names[trial.right] if trial.right else None
        )
        for number, place in enumerate(places)
        for position, trial in enumerate(place)
    }
    return Key(
        study=_study_name(seed, clips),
        seed=seed,
        design=design,
        models=tuple(models),
        sources={},
        items=tuple(ItemKey(prompt=item.prompt, index=item.index) for item in sources.items),
        clips=clips,
        trials=trials,
    )


def _study_name(seed: int, clips: dict[str, ClipKey]) -> str:
    """Return the name that a study's answers carry, 12 hexadecimal digits."""
    text = f"{seed} {sorted(clips)} {[clip.model_dump() for clip in clips.values()]}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _joined(hashes: dict[tuple[str, int], str], model: str) -> str:
    """Return the SHA-256 of the hashes of a model's clips, in the order of the items."""
    own = [digest for (name, _), digest in sorted(hashes.items()) if name == model]
    return hashlib.sha256("".join(own).encode()).hexdigest()


def _random_names(count: int, seed: int) -> list[str]:
    """Return distinct random names of eight hexadecimal digits."""
    generator = numpy_generator(seed, "human names")
    names: dict[str, None] = {}
    while len(names) < count:
        names[f"{int(generator.integers(2**32)):08x}"] = None
    return list(names)


def _read(clip: Clip, model: str, fps: float) -> tuple[np.ndarray, float, str]:
    """Return a clip's frames, uint8 (F, H, W, 3), its frames per second, and the SHA-256 of its bytes."""
    try:
        opened = clip.open()
        frames = opened.read(range(opened.frames))
    except (OSError, DataError) as error:
        raise DataError(f"{model}: {clip.name}: {error}") from None
    if len(frames) < 2:
        raise DataError(f"{model}: {clip.name}: one frame: wanted a clip")
    return frames, opened.fps or fps, opened.sha256


def _worse(frames: np.ndarray, how: str, name: str, generator: np.random.Generator) -> np.ndarray:
    """Return a copy of a clip that is worse beyond doubt."""
    if how == "frozen":
        change = np.abs(frames.astype(np.int16) - frames[0]).mean(axis=(1, 2, 3)).max()
        if change < MOVES:
            raise DataError(f"{name}: it hardly moves, and would not differ from a frozen copy: --golden noise")
        return np.repeat(frames[:1], len(frames), axis=0)
    noise = generator.integers(0, 256, frames.shape, dtype=np.uint8)
    return (frames * (1 - NOISE) + noise * NOISE).round().astype(np.uint8)
