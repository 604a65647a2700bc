"""Server-sent events: a state that threads change and browsers follow."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

STREAMS = 32
"""Browsers that may follow at a time."""
PAUSE = 0.1
"""Seconds between two events at least: what changes faster is told together."""
SILENCE = 15.0
"""Seconds after which the state is told again, so that a browser that is gone is noticed."""


class Changes:
    """Tells those who listen, in any event loop, that something has changed; any thread may say so."""

    def __init__(self) -> None:
        """Begin with nobody who listens."""
        self._lock = threading.Lock()
        self._listening: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether as many listen as may."""
        return len(self._listening) >= STREAMS

    def tell(self) -> None:
        """Say that something has changed."""
        with self._lock:
            for event, loop in self._listening.items():
                with suppress(RuntimeError):  # a loop that has ended
                    loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self.tell()

    async def stream(self, state: Callable[[], Any]) -> AsyncIterator[str]:
        """Yield the state as server-sent events: now, and whenever it may have changed."""
        with self._listen() as event:
            while not self._closed:
                event.clear()
                yield f"data: {json.dumps(state(), ensure_ascii=False)}\n\n"
                with suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), SILENCE)
                await asyncio.sleep(PAUSE)

    @contextmanager
    def _listen(self) -> Iterator[asyncio.Event]:
        """Give an event that is set at each change."""
        event = asyncio.Event()
        with self._lock:
            self._listening[event] = asyncio.get_running_loop()
        try:
            yield event
        finally:
            with self._lock:
                self._listening.pop(event)
