"""Measure what the page of `lavie play` costs the job beside it: `python -m lavie.bench.play CASCADE [PAIRS]`.

Starts the command over a cascade and draws. Every two seconds, by turns, nobody looks at the page, or several do
with 2,000 requests in 60 s. The steps of neighbouring spans are compared, so that what else the machine does counts
little. It prints the ratio, what the requests took, how the memory grew, and how long a cancelled job goes on beside
the time of its step.
"""

import contextlib
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
PAIRS = 30
"""Spans with requests, and as many without: with the default, 2,000 requests are sent."""
SPAN = 2.0
"""Seconds of a span."""
VISITORS = 4
"""Connections that send them."""
CANCELS = 8
"""Jobs that are cancelled."""
STEPS = 500
"""Steps of a clip, the most that a scheduler takes."""


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


class Watch(threading.Thread):
    """Follows the server's events, and notes when a job has done how many steps."""

    def __init__(self, page: Page) -> None:
        """Take a page."""
        super().__init__(daemon=True)
        self._page = page
        self.jobs: dict[str, Any] = {}
        self.steps: list[tuple[float, int]] = []
        """When an event came, and how many steps of the job that is drawn were done."""

    def run(self) -> None:
        """Read until the server ends."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            for told in self._page.states():
                self.jobs = {job["id"]: job for job in told["jobs"]}
                for job in told["jobs"]:
                    if job["state"] == "drawing":
                        self.steps.append((time.perf_counter(), STEPS * job["clip"] + job["stages"]["base"][0]))

    def until(self, name: str, state: str) -> None:
        """Wait until a job has a state."""
        while self.jobs.get(name, {}).get("state") != state:
            time.sleep(0.002)

    def rate(self, since: float, until: float) -> float:
        """Return steps in a second, from the first to the last event of a span."""
        span = [(when, steps) for when, steps in self.steps if since <= when <= until]
        (first, before), (last, after) = span[0], span[-1]
        return (after - before) / (last - first)


def submit(page: Page, clips: int) -> str:
    """Queue clips of STEPS steps of the first network's base stage, and return the job's name."""
    [source, *_] = json.loads(page.ask("/api/page"))["sources"]
    order = {"model": source["name"], "prompt": "a red circle moving left", "clips": clips, "stop_after": "base"}
    return json.loads(page.ask("/api/jobs", order | {"stages": {"base": {"num_inference_steps": STEPS}}}))["id"]


class Visitor(threading.Thread):
    """Asks for all that a page shows, at a steady rate."""

    def __init__(self, page: Page, job: str, going: threading.Event) -> None:
        """Take a page of its own, the name of the job, and what is set while requests are to be sent."""
        super().__init__(daemon=True)
        self._page = page
        self._paths = ("/", "/page.js", "/page.css", "/api/page", "/api/gallery", "/common.js", f"/jobs/{job}.png")
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
    page, watch, going = Page(address), Watch(Page(address)), threading.Event()
    watch.start()
    job = submit(page, 16)
    watch.until(job, "drawing")
    visitors = [Visitor(Page(address), job, going) for _ in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    time.sleep(SPAN)
    before, ratios, alone = resident(pid), [], []
    for number in range(pairs):
        rates = {}
        for busy in (True, False) if number % 2 else (False, True):
            (going.set if busy else going.clear)()
            began = time.perf_counter()
            time.sleep(SPAN)
            rates[busy] = watch.rate(began, time.perf_counter())
        ratios.append(rates[False] / rates[True])
        alone.append(rates[False])
        print(f"{rates[False]:.2f} steps a second alone, {rates[True]:.2f} beside requests", flush=True)
    going.clear()
    sent = [seconds for visitor in visitors for seconds in visitor.times]
    print(f"requests: {len(sent)} in {pairs * SPAN:.0f} s, {1e3 * statistics.median(sent):.1f} ms each (median)")
    low, middle, high = statistics.quantiles(ratios, n=4)
    spread = f"median of {pairs} pairs; quartiles {low:.3f}, {high:.3f}"
    print(f"a step beside them takes {middle:.3f} of its time alone ({spread})")
    print(f"memory of the server: {resident(pid) - before:+.1f} MB")
    page.ask(f"/api/jobs/{job}/cancel", {})

    step, late = 1 / statistics.median(alone), []
    for number in range(CANCELS):
        job = submit(page, 1)
        watch.until(job, "drawing")
        time.sleep(step * (3 + number / CANCELS))
        began = time.perf_counter()
        page.ask(f"/api/jobs/{job}/cancel", {})
        watch.until(job, "cancelled")
        late.append(time.perf_counter() - began)
    after = f"{statistics.median(late):.3f} s, {max(late):.3f} s at most"
    print(f"a step takes {step:.3f} s; cancelled jobs ended after {after}")


def resident(pid: int) -> float:
    """Return the memory of a process that is resident, in MB."""
    [line] = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) / 1000


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
