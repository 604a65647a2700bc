"""Measure what the page of `lavie play` costs the job beside it: `python -m lavie.bench.play CASCADE [PAIRS]`.

Starts the command over a cascade and draws the same clip again and again, by turns with nobody looking and with 2,000
requests in 60 s, as of several open pages. It prints the ratio of the times, what the requests took, how the memory
grew, and how long a cancelled job goes on beside the time of its step.
"""

import http.client
import itertools
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

RATE = 2000 / 60
"""Requests in a second."""
PAIRS = 6
"""Jobs with requests, and as many without: with the default, 2,000 requests are sent."""
SECONDS = 10.0
"""How long a job is to take, about."""
VISITORS = 4
"""Connections that send them."""
CANCELS = 8
"""Jobs that are cancelled."""
PROBE = 12
"""Steps of the first job, which tells how long a step takes."""


class Page:
    """What a browser asks of the server."""

    def __init__(self, address: str) -> None:
        """Take the address that the command printed."""
        parts = urlsplit(address)
        self.host, self.token = parts.netloc, parts.fragment
        self._connection = http.client.HTTPConnection(self.host, timeout=120)

    def ask(self, path: str, value: Any = None) -> bytes:
        """Return the answer to a request; a value makes it a POST."""
        headers = {"X-Lavie-Token": self.token}
        if value is not None:
            headers |= {"Origin": f"http://{self.host}", "Content-Type": "application/json"}
        body = None if value is None else json.dumps(value)
        method = "GET" if value is None else "POST"
        try:
            self._connection.request(method, path, body, headers)
            reply = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):  # the server closes what was idle for seconds
            self._connection.close()
            self._connection.request(method, path, body, headers)
            reply = self._connection.getresponse()
        content = reply.read()
        if reply.status >= 400:
            raise RuntimeError(f"{path}: {reply.status} {content.decode(errors='replace')}")
        return content

    def states(self) -> Any:
        """Yield the server's events for ever."""
        connection = http.client.HTTPConnection(self.host, timeout=120)
        connection.request("GET", f"/api/events?token={self.token}")
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


class Bench:
    """The jobs that are timed."""

    def __init__(self, page: Page) -> None:
        """Ask what there is to draw with, and how long a step takes."""
        self.page = page
        [source, *_] = json.loads(page.ask("/api/page"))["sources"]
        self.order = {"model": source["name"], "prompt": "a red circle moving left", "stop_after": "base"}
        self.states = page.states()
        seconds = [self.drawn(PROBE) for _ in range(2)][-1]
        self.step = seconds / PROBE

    def submit(self, steps: int) -> str:
        """Queue a job and return its name."""
        order = self.order | {"stages": {"base": {"num_inference_steps": steps}}}
        return json.loads(self.page.ask("/api/jobs", order))["id"]

    def until(self, name: str, *states: str) -> dict[str, Any]:
        """Return a job once it has one of some states."""
        for told in self.states:
            for job in told["jobs"]:
                if job["id"] == name and job["state"] in states:
                    return job
        raise RuntimeError("the server has ended")

    def drawn(self, steps: int) -> float:
        """Return the seconds that a clip took, as its entry in the gallery has them."""
        self.until(self.submit(steps), "done")
        [clip, *_] = json.loads(self.page.ask("/api/gallery"))["clips"]
        return clip["seconds"]


class Visitor(threading.Thread):
    """Asks for all that a page shows, at a steady rate."""

    def __init__(self, page: Page, clip: str, going: threading.Event) -> None:
        """Take a page of its own, the name of a clip, and what is set while requests are to be sent."""
        super().__init__(daemon=True)
        self._page = page
        self._paths = (
            "/",
            "/page.js",
            "/page.css",
            "/api/page",
            "/api/gallery",
            f"/clips/{clip}.mp4",
            f"/clips/{clip}.jpg",
        )
        self.times: list[float] = []
        self.going = going

    def run(self) -> None:
        """Send requests while they are wanted."""
        due = time.perf_counter()
        for path in itertools.cycle(self._paths):
            if not self.going.is_set():
                self.going.wait()
                due = time.perf_counter()
            due = max(due + VISITORS / RATE, time.perf_counter() - 1)
            time.sleep(max(0.0, due - time.perf_counter()))
            began = time.perf_counter()
            self._page.ask(path)
            self.times.append(time.perf_counter() - began)


def main(cascade: str, pairs: int = PAIRS) -> None:
    """Run the command and print what was measured."""
    with TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "lavie.cli", "play", cascade, "--out", f"{folder}/gallery", "--port", "0"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                raise SystemExit("lavie play did not start")
            measure(found[0], process.pid, pairs)
        finally:
            process.terminate()
            process.wait()


def measure(address: str, pid: int, pairs: int) -> None:
    """Time the jobs and print the table.

    Args:
        address: of the server, with its token.
        pid: the server's process.
        pairs: see PAIRS.
    """
    page, going = Page(address), threading.Event()
    bench = Bench(page)
    steps = max(PROBE, min(500, round(SECONDS / bench.step)))
    clip = json.loads(page.ask("/api/gallery"))["clips"][0]["id"]
    visitors = [Visitor(Page(address), clip, going) for _ in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    bench.drawn(steps)
    before, ratios, looked = resident(pid), [], 0.0
    for number in range(pairs):
        times = {}
        for busy in (True, False) if number % 2 else (False, True):
            if busy:
                going.set()
            began = time.perf_counter()
            times[busy] = bench.drawn(steps)
            looked += (time.perf_counter() - began) * busy
            going.clear()
        ratios.append(times[True] / times[False])
        print(f"{steps} steps: {times[False]:.2f} s alone, {times[True]:.2f} s beside requests", flush=True)
    sent = [seconds for visitor in visitors for seconds in visitor.times]
    usual = 1e3 * statistics.median(sent)
    print(f"requests: {len(sent)} in {looked:.0f} s, {usual:.1f} ms each (median)")
    print(f"a job beside them takes {statistics.median(ratios):.3f} of its time alone (median of {pairs} pairs)")
    print(f"memory of the server: {resident(pid) - before:+.1f} MB")

    late = []
    for number in range(CANCELS):
        name = bench.submit(500)
        bench.until(name, "drawing")
        time.sleep(bench.step * (3 + number / CANCELS))
        began = time.perf_counter()
        page.ask(f"/api/jobs/{name}/cancel", {})
        bench.until(name, "cancelled")
        late.append(time.perf_counter() - began)
    after = f"{statistics.median(late):.3f} s, {max(late):.3f} s at most"
    print(f"a step takes {bench.step:.3f} s; cancelled jobs ended after {after}")


def resident(pid: int) -> float:
    """Return the memory of a process that is resident, in MB."""
    [line] = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) / 1000


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
