"""The table and the picture of a recording, from events whose times are known."""

import re
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from lavie.training.profile_report import draw_timeline, profile_text, timed_events


def event(name, start, end, own=None, *, gpu=False, asynchronous=False):
    """An event as PyTorch's profiler has it; times in microseconds."""
    return SimpleNamespace(
        name=name,
        device_type=DeviceType.CUDA if gpu else DeviceType.CPU,
        time_range=SimpleNamespace(start=start, end=end),
        self_cpu_time_total=end - start if own is None else own,
        is_async=asynchronous,
        thread=1,
    )


EVENTS = [
    event("run::step", 1000, 11000, 0),
    event("run::data", 1000, 3000, 2000),
    event("run::forward", 3000, 8000, 0),
    event("aten::linear", 3000, 5000, 500),
    event("lavie::geglu", 3500, 5000, 1500),
    event("aten::copy_", 5000, 6000),
    event("aten::_local_scalar_dense", 6000, 6500),
    event("gloo:all_gather", 6500, 7500, 0, asynchronous=True),
    event("c10d::allreduce_", 7500, 7600),
    event("Memcpy HtoD (Pinned -> Device)", 5000, 5400, gpu=True),
    event("run::forward", 3000, 8000, gpu=True),
    event("sm90_gemm", 5400, 9400, gpu=True),
]


@pytest.mark.parametrize(
    "line, ms, share, calls",
    (
        ("computation", 2.0, "20.0%", 2),
        ("ZeRO gathers", 1.0, "10.0%", 1),
        ("other collectives", 0.1, "1.0%", 1),
        ("synchronisations", 0.5, "5.0%", 1),
        ("copies", 1.0, "10.0%", 1),
        ("lavie::geglu", 1.5, "15.0%", 1),
        ("sm90_gemm", 4.0, "40.0%", 1),
    ),
)
def test_time_counts_once_by_kind_and_name(line, ms, share, calls):
    text = profile_text(timed_events(EVENTS), 1)
    found = re.search(rf"^{line} +([\d.]+) +([\d.]+%) +([\d.]+)$", text, re.M)
    assert (float(found[1]), found[2], float(found[3])) == (ms, share, calls)


def test_the_parts_of_a_step_add_up():
    """All numbers are means of a step."""
    text = profile_text(timed_events(EVENTS), 2)
    assert text.startswith("2 steps, 5.0 ms each")
    parts = dict(re.findall(r"^(wait for data|forward|between these) +([\d.]+) ", text, re.M))
    assert parts == {"wait for data": "1.00", "forward": "2.50", "between these": "1.50"}
    assert "geglu" not in text[: text.index("kind, on the host")], "an operation of ours is no part of the step"


def test_the_picture_has_the_whole_recording(tmp_path):
    draw_timeline(timed_events(EVENTS), tmp_path / "a.png")
    draw_timeline([], tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
