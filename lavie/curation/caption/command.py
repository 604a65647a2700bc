"""The captioner `command`: a program that reads questions and writes answers, a line of JSON each.

    {"clip": "0123456789abcdef", "film": "cats/a.mp4", "category": "cats", "t0": 3.0, "t1": 7.5, "prompt": "...",
     "pictures": ["<PNG in base64>", ...]}

is one question, written to the program's standard input. Its answer, on standard output, names the same clip:

    {"clip": "0123456789abcdef", "caption": "A cat sleeps."}   or   {"clip": "0123456789abcdef", "error": "too dark"}

The program is started once for many clips and ends when its input ends. Of what it writes to standard error, the end
is kept for the message of an error. If the program ends early, gives no answer for too long, or writes anything else to
standard output, it is stopped, the unit is not done, and the next one starts it anew.
"""

import base64
import contextlib
import io
import json
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import IO, Any

from PIL import Image

from ...config.curate_caption import CaptionConfig
from ...errors import ConfigError, DataError
from .base import Asked, NoCaption

LONGEST = 1 << 20
"""Most bytes of an answer."""
HEARD = 2000
"""Bytes of standard error that are kept."""
TOLD = ("clip", "film", "category", "t0", "t1", "duration", "fps", "width", "height")
"""Columns of a clip that a question holds."""


class CommandCaptioner:
    """Asks a program."""

    looks, cut_off, batch = True, False, 1

    def __init__(self, command: str, config: CaptionConfig) -> None:
        """Start nothing yet.

        Args:
            command: the program and its arguments, as in a shell; no shell reads it.
            config: its prompt and its patience.

        Raises:
            ConfigError: the command cannot be read.
        """
        self._words = command_words(command)
        script = next((word for word in self._words[1:] if os.path.isfile(word)), self._words[0])
        self.name = f"command:{os.path.basename(script)}"
        self._prompt, self._seconds = config.prompt, config.seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._rest = b""

    def __call__(self, asked: Sequence[Asked]) -> list[str | NoCaption]:
        """Return the program's answer for each clip.

        Raises:
            ConfigError: there is no such program.
            DataError: it ended, gave no answer in time, or said what is none; it has been stopped.
        """
        try:
            return [self._ask(one) for one in asked]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the program and all that it has started, if it runs."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._process, self._rest, self._heard = None, b"", b""

    def _ask(self, one: Asked) -> str | NoCaption:
        """Return the answer for one clip."""
        assert one.pictures is not None
        clip = one.row["clip"]
        question = {name: one.row[name] for name in TOLD} | {"prompt": self._prompt}
        question["pictures"] = [_png(picture) for picture in one.pictures]
        line = self._exchange(json.dumps(question, ensure_ascii=False).encode() + b"\n", clip)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or answer.get("clip") != clip:
            raise self._error(f"wrote {_shown(line)} for clip {clip}: wanted a line of JSON with clip and caption")
        if isinstance(caption := answer.get("caption"), str):
            return caption
        if "error" not in answer:
            raise self._error(f"wrote {_shown(line)}: wanted caption, a text, or error")
        return NoCaption("no caption", f"{self.name}: {answer['error']}")

    def _exchange(self, question: bytes, clip: str) -> bytes:
        """Write a question and return the line that comes back, without waiting for more than the patience."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        left, deadline = memoryview(question), time.monotonic() + self._seconds
        if self._rest:
            raise self._error(f"wrote {_shown(self._rest)} before it was asked about clip {clip}")
        with selectors.DefaultSelector() as pipes:
            pipes.register(process.stdin, selectors.EVENT_WRITE)
            pipes.register(process.stdout, selectors.EVENT_READ)
            pipes.register(process.stderr, selectors.EVENT_READ)
            while True:
                ready = pipes.select(max(0.0, deadline - time.monotonic()))
                if not ready or time.monotonic() > deadline:
                    raise self._error(f"gave no answer within {self._seconds:g} s at clip {clip} (caption.seconds)")
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        written = self._write(process.stdin, left)
                        left = left[written:]
                        if not left:
                            pipes.unregister(process.stdin)
                    elif key.fileobj is process.stderr:
                        if not self._hear(process.stderr):
                            pipes.unregister(process.stderr)
                    else:
                        part = os.read(process.stdout.fileno(), 1 << 16)
                        self._rest += part
                        line, newline, rest = self._rest.partition(b"\n")
                        if newline:
                            self._rest = rest
                            return line
                        if not part:
                            raise self._error(f"ended at clip {clip}")
                        if len(self._rest) > LONGEST:
                            raise self._error(f"wrote more than {LONGEST} bytes in one line at clip {clip}")

    def _write(self, pipe: IO[bytes], data: memoryview) -> int:
        """Write what a pipe takes now, and return how much that is; a program that does not listen is told by its end.

        Returns all where nobody reads any more: then its output says why.
        """
        try:
            return os.write(pipe.fileno(), data[: 1 << 16])
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)

    def _hear(self, pipe: IO[bytes]) -> bool:
        """Keep the end of what is written to standard error; return whether more may come."""
        part = os.read(pipe.fileno(), 1 << 16)
        self._heard = (self._heard + part)[-HEARD:]
        return bool(part)

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the program, which is started if it does not run."""
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    self._words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as error:
                raise ConfigError(f"caption.captioner command:{shlex.join(self._words)}: {error}") from None
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    def _error(self, what: str) -> DataError:
        """Return an error that says what the program did, how it ended, and its last words."""
        assert self._process is not None and self._process.stderr is not None
        ended = ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=1 if what.startswith("ended") else 0)
            ended = f", killed by {signal.Signals(-code).name}" if code < 0 else f", exit code {code}"
            os.set_blocking(self._process.stderr.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                while self._hear(self._process.stderr):
                    pass
        words = self._heard.decode("utf-8", "replace").strip()
        return DataError(
            f"caption.captioner {self.name} {what}{ended}" + (f"; its last words: {words}" if words else "")
        )


def command_words(command: str) -> list[str]:
    """Return the program and the arguments of a command.

    Raises:
        ConfigError: quotes are not closed, or there is no program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"caption.captioner command:{command}: {error}") from None
    if not words:
        raise ConfigError("caption.captioner command: names no program")
    return words


def _png(picture: Any) -> str:
    """Return a picture, uint8 (H, W, 3), as PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _shown(line: bytes) -> str:
    """Return the beginning of what a program wrote, for a message."""
    return repr(line[:100].decode("utf-8", "replace"))
