"""What is asked for, prompt by prompt: a text, and settings of its own over those of the call.

A file of prompts has one a line, as a plain text or as a JSON object; the two may be mixed.

    a fox in the snow
    {"prompt": "a (red:1.3) fox", "seed": 7, "guidance_scale": 9}
    {"prompt": "a lake", "seed": 3, "negative_prompt": "fog", "vsr": {"noise_level": 80}}

For `lavie sample` the other keys are those of `BaseSettings`. For `lavie generate` they are `seed` and
`negative_prompt`, of all stages, and the names of stages, whose values are objects of their settings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..config.base import Strict
from ..config.load import validate
from ..config.overrides import merge
from ..errors import ConfigError
from ..json_text import parse_json
from .settings import CascadeSettings

Given = TypeVar("Given", bound=Strict)
OF_ALL_STAGES = ("seed", "negative_prompt")
"""Keys of a line that all stages of a cascade take."""


@dataclass(frozen=True)
class Request:
    """A prompt with settings of its own."""

    prompt: str
    """What to draw."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings by name, or by stage and name, that take precedence."""
    source: str = "the prompt's settings"
    """Where it was written, for messages."""
    caption: str | None = None
    """What stands over it on a contact sheet; None: the prompt."""

    def over(self, settings: Given) -> Given:
        """Return the settings with its changes. Raises ConfigError for those that are unknown or out of range."""
        if not self.changes:
            return settings
        return validate(type(settings), merge(settings.model_dump(), self.changes_of(type(settings))), self.source)

    def changes_of(self, kind: type[Strict]) -> dict[str, Any]:
        """Return the changes of settings of a kind: what all stages of a cascade take is given to each."""
        if not issubclass(kind, CascadeSettings):
            return dict(self.changes)
        shared = {name: self.changes[name] for name in OF_ALL_STAGES if name in self.changes}
        own = {name: value for name, value in self.changes.items() if name not in shared}
        return merge({stage: dict(shared) for stage in kind.model_fields} if shared else {}, own)

    def indices(self, place: int, count: int) -> range:
        """Return the numbers that decide the noise of so many clips of it.

        With a seed of its own it draws the same clips in any file and at any place of it: they are numbered from 0.

        Args:
            place: how many clips all prompts before it have.
            count: clips of a prompt.
        """
        first = 0 if "seed" in self.changes else place
        return range(first, first + count)


def as_requests(prompts: Iterable[str | Request]) -> list[Request]:
    """Return prompts as requests, plain texts without changes."""
    return [Request(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def read_requests(path: Path, kind: type[Strict]) -> list[Request]:
    """Return the prompts of a file, in order.

    Args:
        path: UTF-8 text, as above.
        kind: the settings that its lines change, `BaseSettings` or `CascadeSettings`.

    Raises:
        ConfigError: the file cannot be read, holds no prompt, or a line is faulty.
    """
    option = f"--prompt-file {path}"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: cannot be read: {error}") from None
    found = [_read_line(line.strip(), f"{option}, line {n}", kind) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ConfigError(f"{option}: no line has a prompt")
    return found


def require_text(prompt: str, source: str) -> None:
    """Raise ConfigError if a prompt holds NUL characters: what it was read from is no text in UTF-8."""
    if "\0" in prompt:
        raise ConfigError(f"{source}: {prompt[:40]!r} holds a NUL character: wanted a text in UTF-8")


def _read_line(line: str, source: str, kind: type[Strict]) -> Request:
    """Return the prompt of a line. Raises ConfigError if it is a faulty object."""
    if not line.startswith("{"):
        require_text(line, source)
        return Request(line, source=source)
    try:
        values = parse_json(line)
    except ValueError as error:
        raise ConfigError(
            f'{source}: no JSON: {error}; wanted {{"prompt": "...", "seed": 7}}, as a prompt that begins with a brace '
            "needs it too"
        ) from None
    prompt = values.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigError(f"{source}: prompt is {prompt!r}, wanted a text")
    require_text(prompt, source)
    if name := _true_or_false(values):
        raise ConfigError(f"{source}: {name} is true or false: wanted a number or a text")
    request = Request(prompt, values, source)
    validate(kind, request.changes_of(kind), source)  # so that the last line is refused before the first is drawn
    return request


def _true_or_false(values: Any, name: str = "") -> str:
    """Return the name of the first setting that is a boolean, of which no stage has any; an empty text without one."""
    if isinstance(values, bool):
        return name
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return next((found for key, value in inner if (found := _true_or_false(value, f"{name}.{key}".lstrip(".")))), "")


def require_same_stages(requests: Sequence[Request], stages: Iterable[str]) -> None:
    """Raise ConfigError if a request changes the settings of a stage that does not run."""
    running = set(stages)
    for request in requests:
        for name in request.changes_of(CascadeSettings):
            if name in CascadeSettings.model_fields and name not in running and name in request.changes:
                raise ConfigError(
                    f"{request.source}: stage {name} does not run; drop it, or --stop-after a later stage"
                )
