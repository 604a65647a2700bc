"""The reading of files behind URLs, through fsspec, where data.remote allows it: listing, sizes, and ranges of bytes.

- A URL comes from the configuration alone. The names that a store lists are joined to the folder that was asked for,
  and lead nowhere else; no text inside a shard or an index is ever opened as a URL.
- Every call has a time limit, is tried again where that may help, and either succeeds or raises StoreError.
- A store's own client is made in the process that uses it, for its threads and sockets do not survive a fork.
"""

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...errors import DataError
from ...seeds import uniform

PACKAGES = {
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
    "hf": "huggingface_hub",
    "file": "fsspec",
    "memory": "fsspec",
}
"""The schemes that are read, and the package that reads each. fsspec knows more schemes; some of them run commands or
open what their files name (reference://), so that a new one is added here by hand."""
ATTEMPTS = 3
"""How often a call is tried before it fails."""
PAUSE = 1.0
"""Seconds before the second attempt, plus or minus a half of them at random; each later pause is twice as long."""
SECONDS = 60.0
"""The time limit of one attempt to list a folder, to look up a file, or to read an index."""
STAMPS = ("etag", "lastmodified", "mtime", "updated", "created", "blobid", "generation", "md5hash", "contentmd5")
"""The fields by which stores tell one version of a file from the next, without case, hyphens and underscores."""
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError, ImportError)
"""The errors that another attempt would only repeat."""
PASSING = (408, 425, 429)
"""The HTTP statuses below 500 that are worth another attempt: a server was asked too early or too often."""

Result = TypeVar("Result")

_down: set[str] = set()
"""Hidden state: the stores, by scheme and host, that failed all attempts of a call in this process. A call to one of
them gets a single attempt. As many as data.train names at most; a store leaves the set when it answers again."""


class StoreError(OSError):
    """A remote file cannot be reached or read. The message holds no credentials."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a store."""

    url: str
    size: int
    """Bytes; -1 where the store has not told it yet."""
    stamp: str
    """Changes with the content of the file; empty where the store tells no versions."""


def is_url(path: str) -> bool:
    """Return whether a text names a store or a command rather than a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", path) is not None


def redact(text: str) -> str:
    """Return a text without the credentials of its URLs: `user:password@`, and what follows a question mark or hash."""
    text = re.sub(r"(:/+)[^/\s'\"]*@", r"\1***@", text)
    return re.sub(r"([A-Za-z][A-Za-z0-9+.-]+:/[^\s?#'\"]*)[?#][^\s'\")]*", r"\1?***", text)


def check_url(url: str) -> str:
    """Return a URL of the configuration without the slash at its end.

    Raises:
        DataError: the URL is of no store that is read, or holds credentials. The resolved configuration is written
            beside the checkpoints, and a secret in a URL would be written with it.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in PACKAGES or not rest.strip("/") or "::" in url:
        raise DataError(
            f"{redact(url)}: wanted a local path, or a URL of {', '.join(f'{s}://' for s in PACKAGES)}; commands and "
            "chains of URLs are never read. Correct data.train or data.validation"
        )
    if "@" in urlsplit(url).netloc or "?" in rest or "#" in rest:
        raise DataError(
            f"{redact(url)}: a URL with credentials or a query. Take them out, and give credentials where the store's "
            "library looks for them: the environment, its own files, or ~/.config/fsspec/*.json"
        )
    return url.rstrip("/")


def list_folder(url: str) -> list[RemoteFile]:
    """Return the files that lie directly in a folder, by name. Raises StoreError if it cannot be listed."""

    def list_in_store(store: Any, path: str) -> list[dict[str, Any]]:
        """Return what the store says of each file of the folder now, not what it said at an earlier call."""
        store.invalidate_cache()
        return store.ls(path + "/" if _is_web(url) else path, detail=True)

    found = {}
    for info in _call(url, list_in_store, SECONDS):
        name = info["name"].rstrip("/").rpartition("/")[2]
        if info["type"] == "file" and not (_is_web(url) and re.search(r"[?#\s]", name)):
            found[name] = info
    return [_remote_file(f"{url}/{name}", found[name]) for name in sorted(found)]


def stat_file(url: str) -> RemoteFile:
    """Return a file with its size. Raises StoreError if it is not there, or the store does not tell its size."""
    file = _remote_file(url, _call(url, lambda store, path: store.info(path), SECONDS))
    if file.size < 0:
        raise StoreError(f"{url}: the server does not tell its size")
    return file


def read_whole(file: RemoteFile) -> bytes:
    """Return all bytes of a file. Raises StoreError if it cannot be read, or is shorter than `file.size`."""
    return read_range(file.url, 0, file.size, SECONDS)


def read_range(url: str, offset: int, size: int, seconds: float) -> bytes:
    """Return the `size` bytes at `offset` of a file.

    Args:
        url: the file.
        offset: where the bytes begin.
        size: how many bytes are wanted.
        seconds: the time limit of each attempt.

    Raises:
        StoreError: the file cannot be read, or holds fewer bytes there.
    """

    def read_from_store(store: Any, path: str) -> bytes:
        """Return the bytes in one attempt. Raises OSError if fewer come."""
        if not _is_web(url):
            data = store.cat_file(path, start=offset, end=offset + size)
        else:
            # The web client's cat_file would take a whole shard into memory from a server that knows no ranges.
            with store.open(path, "rb", size=offset + size, cache_type="none") as file:
                file.seek(offset)
                data = file.read(size)
        if len(data) != size:
            raise OSError(f"{len(data)} of {size} bytes came")
        return data

    return _call(url, read_from_store, seconds)


def _is_web(url: str) -> bool:
    """Return whether a URL is served over HTTP."""
    return url.startswith(("http://", "https://"))


def _remote_file(url: str, info: dict[str, Any]) -> RemoteFile:
    """Return a file from what fsspec says of it."""
    plain = {re.sub("[-_]", "", key).lower(): value for key, value in info.items()}
    stamp = " ".join(f"{key}={plain[key]}" for key in STAMPS if plain.get(key))
    return RemoteFile(url, -1 if info.get("size") is None else int(info["size"]), stamp)


def _call(url: str, function: Callable[[Any, str], Result], seconds: float) -> Result:
    """Call `function(store, path)`, and again after errors that may pass.

    Args:
        url: the file or folder; its store and its path there are handed to `function`.
        function: what to do.
        seconds: the time limit of each attempt.

    Raises:
        StoreError: all attempts failed, or one failed in a way that another attempt would only repeat.
    """
    # A store that is down gets one attempt, so that each sample there costs one time limit and not three.
    start, store = time.monotonic(), url[: len(url) - len(urlsplit(url).path)]
    attempts = 1 if store in _down else ATTEMPTS

    for attempt in range(1, attempts + 1):
        try:
            result = _limited(lambda: function(*_open_store(url)), seconds)
            _down.discard(store)
            return result
        except Exception as raised:  # each store raises errors of its own
            error: BaseException = raised
            # fsspec calls what it cannot look up "not found", whatever the server has answered.
            if _is_web(url) and isinstance(raised, FileNotFoundError) and raised.__cause__:
                error = raised.__cause__
            if _is_final(error):
                raise StoreError(f"{redact(url)}: {_reason(error, seconds)}") from None
            if attempt == attempts:
                _down.add(store)
                raise StoreError(
                    f"{redact(url)}: {attempt} attempts in {time.monotonic() - start:.0f} s, the last: "
                    f"{_reason(error, seconds)}"
                ) from None

        # Workers that failed at the same moment ask again at different ones.
        time.sleep(PAUSE * 2 ** (attempt - 1) * (0.5 + uniform(0, f"pause {url}", attempt)))
    raise AssertionError("the last attempt has returned or raised")


def _limited(function: Callable[[], Result], seconds: float) -> Result:
    """Return what `function` returns, or raise what it raises, or TimeoutError after `seconds`.

    Not every file system can be given a time limit, and a client that waits in C cannot be interrupted: `function` runs
    in a thread, which after a timeout is left to the limits of the store's own client.
    """
    future: Future[Result] = Future()

    def run() -> None:
        """Call `function`, and hand its result or error to the thread that waits."""
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="store").start()
    return future.result(seconds)


def _open_store(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, which fsspec keeps for each process and kind, and the path there."""
    import fsspec

    scheme = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImportError(f"{scheme}:// needs a package: pip install {PACKAGES[scheme]} ({error})") from None


def _is_final(error: BaseException) -> bool:
    """Return whether another attempt would end in the same error."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in PASSING
    return isinstance(error, FINAL)


def _reason(error: BaseException, seconds: float) -> str:
    """Return why an attempt failed, in words without credentials."""
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {seconds:.3g} s"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return redact(f"{type(error).__name__}: {error}")  # the repr of aiohttp's errors holds the headers of the request
