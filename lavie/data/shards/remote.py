"""Files behind URLs, through fsspec: listed, described, and read by ranges, where data.remote says so.

A URL comes from the configuration alone. The names that a store lists are joined to the folder that was asked for, and
lead nowhere else; what lies inside shards and indices is never opened as one. Every call has a limit of time, is tried
again where that may help, and ends in the bytes or in a StoreError. A store's own client is made in the process that
uses it, for its threads and sockets do not survive a fork.
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
"""The stores that are read, and what reads them. fsspec knows more; some of them run commands or open what their files
name (reference://), so that a new one is added here by hand."""
ATTEMPTS = 3
PAUSE = 1.0
"""Seconds before the second attempt, give or take a half; each later pause is twice as long."""
SECONDS = 60.0
"""For one attempt to list a folder, to describe a file, or to read an index."""
STAMPS = ("etag", "lastmodified", "mtime", "updated", "created", "blobid", "generation", "md5hash", "contentmd5")
"""By these a store tells one version of a file from the next; compared without case, hyphens and underscores."""
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError, ImportError)
"""Errors that the next attempt would only repeat."""
PASSING = (408, 425, 429)
"""Answers below 500 that a server gives when it is asked too early or too often."""

Result = TypeVar("Result")


class StoreError(OSError):
    """A remote file cannot be reached or read. Its text holds no credentials."""


@dataclass(frozen=True)
class Entry:
    """A file of a store."""

    url: str
    size: int
    stamp: str
    """Changes with its content; empty where the store does not tell."""


def is_url(path: str) -> bool:
    """Whether this names a store, or a command, and no local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", path) is not None


def redact(text: str) -> str:
    """A text without the credentials of its URLs: `user:password@`, and what follows a question mark or a hash."""
    text = re.sub(r"(:/+)[^/\s'\"]*@", r"\1***@", text)
    return re.sub(r"([A-Za-z][A-Za-z0-9+.-]+:/[^\s?#'\"]*)[?#][^\s'\")]*", r"\1?***", text)


def check_url(url: str) -> str:
    """The URL without a slash at its end. Raises DataError if it is none of a store that is read, or holds credentials.

    The resolved configuration is written beside the checkpoints, so that a secret in a URL would lie there too.
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


def list_folder(url: str) -> list[Entry]:
    """The files directly in a folder, by name. Raises StoreError if it cannot be listed."""

    def listed(store: Any, path: str) -> list[dict[str, Any]]:
        store.invalidate_cache()
        return store.ls(path + "/" if _is_web(url) else path, detail=True)

    found = {}
    for info in _call(url, listed, SECONDS):
        name = info["name"].rstrip("/").rpartition("/")[2]
        if info["type"] == "file" and not (_is_web(url) and re.search(r"[?#\s]", name)):
            found[name] = info
    return [_entry(f"{url}/{name}", found[name]) for name in sorted(found)]


def describe(url: str) -> Entry:
    """One file. Raises StoreError if it is not there, or the store does not tell its size."""
    entry = _entry(url, _call(url, lambda store, path: store.info(path), SECONDS))
    if entry.size < 0:
        raise StoreError(f"{url}: the server does not tell its size")
    return entry


def read_whole(entry: Entry) -> bytes:
    """All bytes of a file. Raises StoreError if it cannot be read, or has another size than it was described with."""
    return read_range(entry.url, 0, entry.size, SECONDS)


def read_range(url: str, offset: int, size: int, seconds: float) -> bytes:
    """The `size` bytes at `offset`, each attempt taking at most `seconds`. Raises StoreError if there are fewer."""

    def read(store: Any, path: str) -> bytes:
        if not _is_web(url):
            data = store.cat_file(path, start=offset, end=offset + size)
        else:  # its cat_file would take the whole of a shard into memory from a server that knows no ranges
            with store.open(path, "rb", size=offset + size, cache_type="none") as file:
                file.seek(offset)
                data = file.read(size)
        if len(data) != size:
            raise OSError(f"{len(data)} of {size} bytes came")
        return data

    return _call(url, read, seconds)


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _entry(url: str, info: dict[str, Any]) -> Entry:
    plain = {re.sub("[-_]", "", key).lower(): value for key, value in info.items()}
    stamp = " ".join(f"{key}={plain[key]}" for key in STAMPS if plain.get(key))
    return Entry(url, -1 if info.get("size") is None else int(info["size"]), stamp)


_down: set[str] = set()
"""Stores that did not answer the last time: a dead one gets a single attempt a file, until it answers again."""


def _call(url: str, function: Callable[[Any, str], Result], seconds: float) -> Result:
    """`function(store, path)` within `seconds`, tried again after errors that may pass. Raises StoreError."""
    start, where = time.monotonic(), url[: len(url) - len(urlsplit(url).path)]
    attempts = 1 if where in _down else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            result = _limited(lambda: function(*_store(url)), seconds)
            _down.discard(where)
            return result
        except Exception as raised:  # each store raises errors of its own
            error: BaseException = raised
            if _is_web(url) and isinstance(raised, FileNotFoundError) and raised.__cause__:
                error = raised.__cause__  # fsspec calls what it cannot describe "not found", whatever was answered
            if _is_final(error):
                raise StoreError(f"{redact(url)}: {_told(error, seconds)}") from None
            if attempt == attempts:
                _down.add(where)
                raise StoreError(
                    f"{redact(url)}: {attempt} attempts in {time.monotonic() - start:.0f} s, the last: "
                    f"{_told(error, seconds)}"
                ) from None
        time.sleep(PAUSE * 2 ** (attempt - 1) * (0.5 + uniform(0, f"pause {url}", attempt)))
    raise AssertionError("the last attempt has returned or raised")


def _limited(function: Callable[[], Result], seconds: float) -> Result:
    """What `function` returns or raises, or TimeoutError. Then its thread is left to the limits of the store's client.

    Not all file systems can be given a limit, and a client that waits in C cannot be interrupted.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="store").start()
    return future.result(seconds)


def _store(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path there. fsspec keeps one for each process and kind."""
    import fsspec

    scheme = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImportError(f"{scheme}:// needs a package: pip install {PACKAGES[scheme]} ({error})") from None


def _is_final(error: BaseException) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in PASSING
    return isinstance(error, FINAL)


def _told(error: BaseException, seconds: float) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {seconds:.3g} s"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return redact(f"{type(error).__name__}: {error}")  # the repr of aiohttp's errors holds the headers of the request
