"""What the frames of a thread tell: the module it works for, and the collective or thread that it waits for."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType

import pytest

from lavie.cluster.sighting import Sighting, read_frames


def in_file(function: Callable, path: str, name: str) -> Callable:
    """Return a function as if it stood in another file under another name."""
    return FunctionType(function.__code__.replace(co_filename=path, co_name=name), function.__globals__)


FREE: list[bool] = []
"""Not empty as soon as the threads may end."""
THERE = threading.Event()


def wait_here() -> None:
    """Wait, without a call whose frame would be the innermost one."""
    THERE.set()
    while not FREE:
        time.sleep(0.01)


@contextmanager
def thread_in(deepest: Callable, *path: Callable) -> Iterator[int]:
    """Provide the identifier of a thread that waits in `deepest`, which the functions of a path have called."""
    FREE.clear()
    THERE.clear()

    def descend(functions: tuple[Callable, ...]) -> None:
        """Call the functions, each with what calls the rest."""
        functions[0](lambda: descend(functions[1:])) if functions else deepest()

    thread = threading.Thread(target=descend, args=(path,), daemon=True)
    thread.start()
    assert THERE.wait(20)
    time.sleep(0.05)  # until it is out of `set`
    try:
        yield thread.ident or 0
    finally:
        FREE.append(True)
        thread.join(20)


@pytest.mark.parametrize(
    "path, name, waits",
    (
        ("/x/torch/distributed/distributed_c10d.py", "barrier", "barrier"),
        ("/x/deepspeed/comm/comm.py", "log_wrapper", "a collective"),
        ("/x/deepspeed/runtime/zero/stage3.py", "wait", "a collective"),
        ("/x/deepspeed/runtime/zero/stage3.py", "step", ""),  # it computes
        ("/x/lavie/training/checkpoint/reports.py", "gather", "gather"),
        ("/x/lavie/training/trainer.py", "barrier", ""),
        ("/x/multiprocessing/connection.py", "wait", ""),  # for a loader's process
    ),
)
def test_a_wait_for_other_ranks_is_told_from_work(path, name, waits):
    with thread_in(in_file(wait_here, path, name)) as thread:
        assert read_frames(thread, {})["waits"] == waits


def test_our_own_innermost_frame_is_named():
    with thread_in(in_file(wait_here, "/x/lavie/training/update.py", "backward")) as thread:
        read = read_frames(thread, {})
    assert read["at"].startswith("lavie/training/update.py:") and read["at"].endswith(" backward")
    assert any("in backward" in line for line in read["stack"])


def test_the_module_is_that_of_the_innermost_frame_that_has_one():
    outer, inner = object(), object()

    def forward(inner_function: Callable) -> None:
        module = outer
        assert module
        inner_function()

    def hook(inner_function: Callable) -> None:
        sub_module = inner
        assert sub_module
        inner_function()

    names = {id(outer): "down", id(inner): "down.0"}
    with thread_in(wait_here, forward, hook) as thread:
        assert read_frames(thread, names)["module"] == "down.0"
        assert read_frames(thread, {id(outer): "down"})["module"] == "down"
        assert read_frames(thread, {})["module"] == ""


def test_a_thread_that_waits_for_the_end_of_another_is_where_that_one_is():
    with thread_in(in_file(wait_here, "/x/lavie/training/checkpoint/saver.py", "_write_files")) as writer:
        writing = next(thread for thread in threading.enumerate() if thread.ident == writer)
        main = threading.Thread(target=writing.join, daemon=True)
        main.start()
        while "_write_files" not in str(read_frames(main.ident or 0, {}).get("at")):
            pass
        assert read_frames(main.ident or 0, {})["waits"] == ""
    main.join(20)


def test_a_thread_that_has_ended_tells_nothing_and_a_sighting_is_read_as_it_was_written():
    assert read_frames(-1, {}) == {}
    seen = Sighting(3, "n1", 17, "save", 8, 2.5, "down.0", "barrier", "saver.py:8 save", ("frame",))
    assert Sighting.loads(seen.dumps().encode()) == seen
