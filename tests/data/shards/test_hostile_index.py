"""What an index says opens no other file, URL or command, on a disk and behind a URL."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lavie.data.shards.index import load_index
from lavie.errors import DataError

LURES = ("pipe:touch CANARY", "file:///etc/passwd", "http://127.0.0.1:1/x", "s3://bucket/x", "memory://x")
"""Keys that a careless reader would open as a command or a URL."""

UNSAFE = ("../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "a\nb")
"""Keys that mean a place outside the shard, or garble a log."""

WATCH = """
import sys
seen = []
names = ("open", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")
from lavie.data.shards.index import load_index
from lavie.data.shards.remote import check_url
from lavie.data.shards.member import read_member
import fsspec.implementations.http
sys.addaudithook(lambda event, args: seen.append((event, str(args))) if event in names else None)
samples = list(load_index((sys.argv[1],), remote=True))
assert [read_member(s) for s in samples] and samples
for event, args in seen:
    print(event, args.replace("\\n", " "))
"""


def relabel(index: Path, keys) -> None:
    """Give the first samples of an index other keys."""
    header, *lines = map(json.loads, index.read_text().splitlines())
    for line, key in zip(lines, keys, strict=False):
        line["member"] = f"{key}.{line['member'].rpartition('.')[2]}"
        line["key"] = key
    index.write_text("".join(json.dumps(x) + "\n" for x in [header, *lines]))


@pytest.mark.slow
def test_names_inside_an_index_open_nothing(web, served_folder, tmp_path):
    relabel(served_folder / "00000.index.jsonl", [lure.replace("CANARY", str(tmp_path / "canary")) for lure in LURES])
    command = [sys.executable, "-c", WATCH, f"{web.url}/set"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [line.split(" ", 1) for line in result.stdout.splitlines()]
    assert {event for event, _ in events} <= {"open", "socket.connect", "socket.getaddrinfo"}, result.stdout
    connected = [args for event, args in events if event.startswith("socket")]
    assert connected
    assert all(f"'127.0.0.1', {web.port}" in args for args in connected)
    assert "/etc/passwd" not in result.stdout
    assert not (tmp_path / "canary").exists()
    assert {path for _, path, _ in web.requests} <= {
        "/set/",
        *(f"/set/0000{n}{end}" for n in range(2) for end in (".tar", ".index.jsonl")),
    }


@pytest.mark.parametrize("key", UNSAFE)
@pytest.mark.parametrize("served", (True, False))
def test_unsafe_keys_are_refused(web, served_folder, key, served):
    relabel(served_folder / "00000.index.jsonl", [key])
    with pytest.raises(DataError, match=r"00000.index.jsonl, line 2: the key .* an unsafe name"):
        load_index((f"{web.url}/set" if served else str(served_folder),), remote=True)


@pytest.mark.parametrize("tar", (*LURES, "/etc/passwd", "../../etc/passwd"))
@pytest.mark.parametrize("served", (True, False))
def test_the_tar_that_an_index_names_is_no_url_and_no_other_file(web, served_folder, tar, served):
    path = served_folder / "00000.index.jsonl"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | {"tar": tar}), *lines]) + "\n")
    with pytest.raises(DataError, match="lies beside another shard"):
        load_index((f"{web.url}/set" if served else str(served_folder),), remote=True)
    (served_folder / "00000.tar").unlink()
    (served_folder / "00001.tar").unlink()
    (served_folder / "00001.index.jsonl").unlink()  # a folder of indices, whose shards lie elsewhere
    before = len(web.requests)
    with pytest.raises(DataError, match=r"cannot be read|its index was made for"):
        load_index((str(served_folder),), remote=True)
    assert len(web.requests) == before
