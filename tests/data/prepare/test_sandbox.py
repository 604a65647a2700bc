"""The sandbox gives the same answers as decoding without it, and ends whatever crashes, hangs or grows."""

import io
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from lavie.data.media import decode
from lavie.data.media.encode import encode_mp4
from lavie.data.prepare import sandbox
from lavie.data.prepare.sandbox import Sandbox
from lavie.errors import DataError
from lavie.testing import SHARED
from tests.data.media.videos import encode
from tests.markers import requires_shared

NOISE = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
TRANSPARENT = np.full((4, 32, 32, 4), 90, np.uint8)
MP4 = encode_mp4(np.zeros((4, 32, 32, 3), np.uint8), 8)

FUNCTIONS = """
    import os, resource, socket, time
    import numpy as np
    from lavie.errors import DataError
    def echo(data, *args): return [len(data), *args]
    def same(data): return data
    def die(data, signal): os.kill(os.getpid(), signal)
    def leave(data): os._exit(3)
    def sleep(data): time.sleep(60)
    def spin(data):
        while True: pass
    def grow(data): return len(bytearray(8 << 30))
    def fail(data): return 1 / 0
    def read(data, path): return open(path).read()
    def write(data, path): open(path, "w").write("x")
    def limits(data, *names): return [resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names]
    def connect(data, port): socket.create_connection(("127.0.0.1", port))
    def pieces(file, size):
        while piece := file.read(size):
            yield piece
    def mixed(file):
        yield [file.tell(), file.read(2).decode()]
        yield np.arange(3)
        yield file.read()
        raise DataError("the rest is damaged")
    def descriptors(file): yield sorted(map(int, os.listdir("/proc/self/fd")))
    def opens(file, path):
        yield 1
        open(path)
    def burn(file, parts, seconds):
        for part in range(parts):
            end = time.process_time() + seconds
            while time.process_time() < end: pass
            yield part
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Return a module of functions that misbehave, importable here and in the child."""
    import importlib

    (tmp_path / "hostile_functions.py").write_text(textwrap.dedent(FUNCTIONS))
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("hostile_functions", None)
    return importlib.import_module("hostile_functions")


@pytest.fixture
def child():
    child = Sandbox()
    yield child
    child.close()


def image(format: str, mode: str = "RGB", **options) -> bytes:
    """Return an image of noise, 24 x 16 pixels, in a format and mode of Pillow."""
    file = io.BytesIO()
    Image.effect_noise((24, 16), 90).convert(mode).save(file, format, **options)
    return file.getvalue()


def upside_down() -> bytes:
    """Return a jpg whose EXIF data says that it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return image("jpeg", exif=exif)


MEDIA = {
    "mp4": MP4,
    "vfr mp4": encode_mp4(np.zeros((4, 32, 32, 3), np.uint8), times=[0, 0.1, 0.4, 0.5]),
    "jpg": image("jpeg"),
    "turned jpg": upside_down(),
    "progressive jpg": image("jpeg", progressive=True),
    "cmyk jpg": image("jpeg", "CMYK"),
    "grey jpg": image("jpeg", "L"),
    "png": image("png"),
    "palette png": image("png", "P", transparency=0),
    "alpha png": image("png", "RGBA"),
    "1-bit png": image("png", "1"),
    "gif": image("gif", "P"),
    "empty": b"",
    "anamorphic mp4": encode(NOISE, tags={"sample_aspect_ratio": Fraction(3, 2)}),
    "hlg mp4": encode(NOISE, tags={"color_trc": 18, "colorspace": 9, "color_primaries": 9}),
    "transparent webm": encode(TRANSPARENT, "libvpx-vp9", "yuva420p", source="rgba", container="webm"),
    "transparent mov": encode(TRANSPARENT, "png", "rgba", source="rgba", container="mov"),
    "cut mp4": MP4[:700],
    "cut png": image("png")[:60],
    "text": b"#EXTM3U\n",
}


@pytest.mark.parametrize("name", MEDIA)
def test_the_same_answer_as_in_this_process(name):
    def outcome(probe):
        try:
            return probe(MEDIA[name])
        except DataError as error:
            return str(error)

    assert outcome(sandbox.probe) == outcome(decode.probe)


@requires_shared
def test_the_same_answer_for_real_files():
    folder = SHARED / "assets"
    smallest = [
        min(folder.glob(f"*/*{end}"), key=lambda p: p.stat().st_size) for end in (".mp4", ".gif", ".jpg", ".png")
    ]
    for path in smallest:
        assert sandbox.probe(path.read_bytes()) == decode.probe(path.read_bytes())


def test_arrays_bytes_and_json_come_back(hostile, child):
    np.testing.assert_array_equal(
        child.call(decode.decode_frames, MP4, [0, 2]), decode.decode_frames(MP4, [0, 2]), strict=True
    )
    assert child.call(hostile.echo, b"abc", 1, None, "ä") == [3, 1, None, "ä"]
    blob = os.urandom(3 << 20)
    assert child.call(hostile.same, blob) == blob
    assert child.starts == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ("SIGSEGV", "SIGABRT", "SIGKILL"))
def test_a_crash_is_named_and_the_next_call_works(hostile, child, name):
    with pytest.raises(DataError, match=f"crashed with {name}"):
        child.call(hostile.die, b"", int(signal.Signals[name]))
    with pytest.raises(DataError, match="exit code 3"):
        child.call(hostile.leave, b"")
    assert child.call(hostile.echo, b"abc") == [3]
    assert child.starts == 3


@pytest.mark.slow
def test_hangs_end(hostile, child):
    with pytest.raises(DataError, match="more than 2 s and was stopped"):
        child.call(hostile.sleep, b"", seconds=0.5)
    with pytest.raises(DataError, match=r"more than .* s .*was stopped"):  # by whichever clock is first
        child.call(hostile.spin, b"", seconds=1)
    assert child.call(hostile.echo, b"") == [0]


@pytest.mark.slow
def test_processor_time_is_limited(hostile, child, monkeypatch):
    monkeypatch.setattr(sandbox, "PATIENCE", 100)
    with pytest.raises(DataError, match="more than 1 s of processor time"):
        child.call(hostile.spin, b"", seconds=1)


def test_the_time_of_earlier_calls_does_not_count(hostile, child):
    for _ in range(4):
        child.call(hostile.echo, b"", seconds=1)
    assert child.starts == 1


def test_memory_is_limited_and_the_child_lives_on(hostile, child):
    with pytest.raises(DataError, match="takes more than 4096 MiB"):
        child.call(hostile.grow, b"")
    assert child.call(hostile.echo, b"") == [0]
    assert child.starts == 1


def test_what_a_library_raises_is_the_inputs_fault(hostile, child):
    with pytest.raises(DataError, match="decoder failed: ZeroDivisionError"):
        child.call(hostile.fail, b"")


def test_no_file_and_no_socket_can_be_opened(hostile, child, tmp_path):
    secret, made = tmp_path / "secret", tmp_path / "made"
    secret.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        calls = ((hostile.read, str(secret)), (hostile.write, str(made)), (hostile.connect, server.getsockname()[1]))
        for function, target in calls:
            with pytest.raises(DataError, match="Too many open files"):
                child.call(function, b"", target)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not made.exists()


def test_the_child_reports_its_limits(hostile, child):
    """Writing to files that are open already, cores, memory, files and time, each as the kernel holds it."""
    file_size, core, memory, files, seconds = child.call(
        hostile.limits, b"", "FSIZE", "CORE", "AS", "NOFILE", "CPU", seconds=7
    )
    assert file_size == core == [0, 0]
    assert memory == [sandbox.MEMORY, sandbox.MEMORY]
    assert files[0] == 4  # the standard streams and the socket: none is left to open
    assert 7 < seconds[0] < 60


def test_threads_take_turns(hostile, child):
    results = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: child.call(hostile.echo, bytes(n))})) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [n] for n in range(8)}


def test_the_child_ends_with_its_parent(hostile):
    code = (
        "import os, sys; from lavie.data.prepare import sandbox; sandbox.probe(sys.stdin.buffer.read());"
        "print(next(iter(sandbox._sandboxes.values()))._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], input=MP4, stdout=subprocess.PIPE, env=env, timeout=60)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} is still there")


@pytest.fixture
def film(tmp_path):
    """Return an open file of 48 MiB of noise, read up to somewhere in its middle."""
    path = tmp_path / "film"
    path.write_bytes(np.random.default_rng(1).bytes(48 << 20))
    with path.open("rb") as file:
        file.seek(12345)
        yield file


def test_a_file_streams_through_little_memory(hostile, film):
    """The child reads the whole file through its descriptor, though no more than a part of it fits in its memory."""
    child = Sandbox(memory=-1)
    with closing(child):
        child.call(hostile.echo, b"")
        resource.prlimit(child._process.pid, resource.RLIMIT_DATA, (resident_data(child) + (8 << 20), -1))
        parts = list(child.stream(hostile.pieces, film, 1 << 20))
        assert [len(part) for part in parts] == [1 << 20] * 48
        film.seek(0)
        assert b"".join(parts) == film.read()
        with pytest.raises(DataError, match="decoding takes more than"):
            list(child.stream(hostile.pieces, film, 48 << 20))


def resident_data(child: Sandbox) -> int:
    """Return the bytes that count for RLIMIT_DATA of a sandbox's child."""
    with open(f"/proc/{child._process.pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData"))


def test_parts_of_all_kinds_come_before_the_error(hostile, child, tmp_path):
    path = tmp_path / "film"
    path.write_bytes(b"abcdef")
    with path.open("rb") as file:
        file.seek(3)
        parts = child.stream(hostile.mixed, file)
        assert next(parts) == [0, "ab"]
        np.testing.assert_array_equal(next(parts), np.arange(3), strict=True)
        assert next(parts) == b"cdef"
        with pytest.raises(DataError, match=r"^the rest is damaged$"):
            next(parts)
    assert child.call(hostile.echo, b"") == [0]
    assert child.starts == 1


def test_the_file_is_the_only_one_that_the_child_reads(hostile, child, film):
    # The standard streams, the socket, the film, and the listing of /proc, which can no longer be opened.
    with pytest.raises(DataError, match="Too many open files"):
        list(child.stream(hostile.descriptors, film))
    parts = child.stream(hostile.opens, film, film.name)
    assert next(parts) == 1
    with pytest.raises(DataError, match="Too many open files"):
        next(parts)
    assert child.call(hostile.limits, b"", "NOFILE")[0][0] == 4  # the film is closed again
    assert child.starts == 1


@pytest.mark.slow
def test_each_part_has_its_own_time(hostile, child, film, monkeypatch):
    monkeypatch.setattr(sandbox, "PATIENCE", 100)
    assert list(child.stream(hostile.burn, film, 5, 0.4, seconds=1)) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="more than 1 s of processor time"):
        list(child.stream(hostile.burn, film, 1, 5, seconds=1))
    assert child.call(hostile.echo, b"") == [0]


def test_a_stream_that_is_left_ends_the_child(hostile, child, film):
    parts = child.stream(hostile.pieces, film, 1 << 10)
    next(parts)
    parts.close()
    assert child.call(hostile.echo, b"abc") == [3]
    assert child.starts == 2
