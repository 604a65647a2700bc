"""Hostile and broken data, built by formula: CLASSES of bad samples, and WHOLE archives that are damaged.

`tests/data/prepare/fuzz.py` puts the samples among good ones and says what must hold. All randomness comes from the
generator that a function is given, so a case is the same every time.
"""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from lavie.data.media.encode import encode_mp4
from lavie.seeds import numpy_generator

Rng = np.random.Generator


# --- good media


def _pixels(frames: int = 4) -> np.ndarray:
    return numpy_generator(0, "fuzz pixels").integers(0, 256, (frames, 32, 32, 3), np.uint8)


@cache
def good(kind: str) -> bytes:
    """Return a small sound file: mp4, webm, or a format of Pillow."""
    if kind == "mp4":
        return encode_mp4(_pixels(), 8)
    file = io.BytesIO()
    if kind == "webm":
        with av.open(file, "w", format="webm") as container:
            stream = container.add_stream("libvpx-vp9", rate=Fraction(8), options={"cpu-used": "8"})
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for pixels in _pixels():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    else:
        Image.fromarray(_pixels()[0]).save(file, {"jpg": "jpeg"}.get(kind, kind))
    return file.getvalue()


@cache
def large_mp4() -> bytes:
    """Return an mp4 with two frames of 8192 x 8192 and one colour: a few kB that decode to 400 MB."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        stream.width = stream.height = 8192
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame(8192, 8192, "yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()


# --- mutations of bytes


def flips(data: bytes, rng: Rng) -> bytes:
    """Return data with one to eight bits turned."""
    out = bytearray(data)
    for place in rng.integers(0, len(out), rng.integers(1, 9)):
        out[place] ^= 1 << rng.integers(8)
    return bytes(out)


def cut(data: bytes, rng: Rng) -> bytes:
    """Return data without its end."""
    return data[: rng.integers(1, len(data))]


def zeroed(data: bytes, rng: Rng) -> bytes:
    """Return data with a run of zeros somewhere."""
    start = int(rng.integers(0, len(data)))
    count = min(int(rng.integers(1, 600)), len(data) - start)
    return data[:start] + bytes(count) + data[start + count :]


def spliced(data: bytes, rng: Rng) -> bytes:
    """Return data with a piece repeated, so that all that follows lies elsewhere."""
    a, b = sorted(rng.integers(0, len(data), 2).tolist())
    return data[:b] + data[a:]


def header_edit(data: bytes, rng: Rng) -> bytes:
    """Return a file in which four bytes of a box or element header are an extreme number."""
    tags = [
        i for t in (b"moov", b"stsz", b"stts", b"stsc", b"avcC", b"tkhd", b"mdhd", b"ctts") if (i := data.find(t)) > 0
    ]
    place = int(rng.choice(tags) + rng.integers(-4, 24)) if tags else int(rng.integers(0, min(300, len(data) - 4)))
    value = int(rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF0000]))
    return data[:place] + struct.pack(">I", value) + data[place + 4 :]


def many_frames(data: bytes, rng: Rng) -> bytes:
    """Return an mp4 whose tables announce millions of frames."""
    place = data.index(b"stsz")
    return data[: place + 12] + struct.pack(">I", int(rng.integers(1 << 22, 1 << 31))) + data[place + 16 :]


def wide_mp4(data: bytes, rng: Rng) -> bytes:
    """Return an mp4 whose header announces 65535 x 65535 pixels."""
    place = data.index(b"avc1", data.index(b"stsd")) + 28
    return data[:place] + struct.pack(">HH", 65535, 65535) + data[place + 4 :]


def wide_jpg(data: bytes, rng: Rng) -> bytes:
    """Return a jpg whose header announces 65500 x 65500 pixels."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", 65500, 65500) + data[place + 4 :]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def wide_png(data: bytes, rng: Rng) -> bytes:
    """Return a png that is sound in itself, but has up to 60000 x 60000 pixels."""
    side = int(rng.integers(20_000, 60_000))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return data[:8] + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(bytes(10_000_000))) + _chunk(b"IEND", b"")


def text_png(data: bytes, rng: Rng) -> bytes:
    """Return a png with a compressed text of 64 MB."""
    return data[:33] + _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 << 20))) + data[33:]


def external_mp4(data: bytes, rng: Rng) -> bytes:
    """Return an mp4 whose frames are said to lie in another file."""
    place = data.index(b"url ")
    return data[: place + 4] + bytes(4) + data[place + 8 :]


# --- files that are something else


def playlist(traps: "Traps", rng: Rng) -> bytes:
    """Return an HLS playlist that names a local file or a URL."""
    line = rng.choice([traps.file, traps.url, f"file:{traps.file}", f"concat:{traps.file}|{traps.file}"])
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{line}\n#EXT-X-ENDLIST\n".encode()


def ffconcat(traps: "Traps", rng: Rng) -> bytes:
    """Return a list of FFmpeg's concat demuxer that names a local file or a URL."""
    return f"ffconcat version 1.0\nfile '{rng.choice([traps.file, traps.url])}'\nduration 1\n".encode()


def sdp(traps: "Traps", rng: Rng) -> bytes:
    """Return a session description that makes a player listen to a port."""
    return f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {traps.port} RTP/AVP 96\n".encode()


def disguised_playlist(traps: "Traps", rng: Rng) -> bytes:
    """Return a playlist behind the first bytes of an mp4."""
    return b"\0\0\0\x10ftypisom" + bytes(4) + playlist(traps, rng)


def pickled(traps: "Traps", rng: Rng) -> bytes:
    """Return a pickle that makes the canary file when it is loaded, written by hand in one of two protocols."""
    call = f"__import__('pathlib').Path({str(traps.canary)!r}).touch()"
    if rng.integers(2):
        return f"cbuiltins\neval\n(V{call}\ntR.".encode()
    code = call.encode()
    return b"\x80\x02cbuiltins\neval\nX" + struct.pack("<I", len(code)) + code + b"\x85R."


def zipped(traps: "Traps", rng: Rng) -> bytes:
    """Return a zip that holds a pickle, as torch.save writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", pickled(traps, rng))
    return file.getvalue()


def nested_tar(traps: "Traps", rng: Rng) -> bytes:
    """Return a tar whose member's name leads out of its folder."""
    return archive([member("../../inner.mp4", good("mp4"))])


def gzipped(traps: "Traps", rng: Rng) -> bytes:
    """Return a compressed mp4."""
    return gzip.compress(good("mp4"), mtime=0)


def noise(traps: "Traps", rng: Rng) -> bytes:
    """Return random bytes."""
    return rng.bytes(int(rng.integers(1, 4000)))


# --- archives


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", pax: dict | None = None
) -> bytes:
    """Return the blocks of one member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    info.pax_headers = pax or {}
    return info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + padded(data)


def padded(data: bytes) -> bytes:
    """Return data filled up with zeros to whole blocks."""
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def resum(header: bytes) -> bytes:
    """Return a header with its checksum made right."""
    total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    return header[:148] + b"%06o\0 " % total + header[156:]


def patched(blocks: bytes, offset: int, value: bytes) -> bytes:
    """Return blocks whose first header has `value` at `offset`."""
    return resum(blocks[:offset] + value + blocks[offset + len(value) : 512]) + blocks[512:]


def archive(members: list[bytes], end: bytes = bytes(1024)) -> bytes:
    """Return a tar of members, each given as its blocks."""
    return b"".join(members) + end


def sample_members(key: str, extension: str, media: bytes, caption: bytes = b"a bad sample") -> list[bytes]:
    """Return a media member and its caption's member."""
    return [member(f"{key}.{extension}", media), member(f"{key}.txt", caption)]


def good_members() -> tuple[list[bytes], list[bytes]]:
    """Return the members of four good samples: of two for before the bad one, of two for after it."""
    kinds = ("mp4", "png", "webm", "jpg")
    blocks = [sample_members(f"good{i}", k, good(k), f"a good sample {i}".encode()) for i, k in enumerate(kinds)]
    return blocks[0] + blocks[1], blocks[2] + blocks[3]


# --- cases


@dataclass(frozen=True)
class Traps:
    """The places that hostile data tries to reach."""

    canary: Path
    """A file that does not exist, and that code in the data would make."""
    file: str
    """Path of a sound mp4 that the data names."""
    url: str
    """A URL at `port`."""
    port: int
    """A port on this machine where a test listens for connections."""


REJECTED, EITHER, KEPT, REFUSED = "rejected", "either", "kept", "refused"
"""What must become of the bad sample: it is left out by name; it may be left out or kept; it is kept; or the shard is
refused as a whole."""
Build = Callable[[Rng, Traps], list[bytes]]
CLASSES: dict[str, tuple[str, Build]] = {}
"""Name of a class -> (what must become of the bad sample, a function that builds its members; its key is `bad`)."""
WHOLE: dict[str, tuple[str, Callable[[bytes, Rng, Traps], bytes]]] = {}
"""Name of a class -> (what must become of the archive, a function that makes the damaged one from the good one)."""


def _media(name: str, expected: str, extension: str, change: Callable[[bytes, Rng], bytes]) -> None:
    CLASSES[name] = expected, lambda rng, traps: sample_members("bad", extension, change(good(extension), rng))


def _other(name: str, extension: str, make: Callable[[Traps, Rng], bytes]) -> None:
    CLASSES[name] = REJECTED, lambda rng, traps: sample_members("bad", extension, make(traps, rng))


def _caption(name: str, expected: str, make: Callable[[Rng], bytes]) -> None:
    CLASSES[name] = expected, lambda rng, traps: sample_members("bad", "png", good("png"), make(rng))


def _blocks(name: str, expected: str, make: Build) -> None:
    CLASSES[name] = expected, make


for _kind in ("mp4", "webm", "jpg", "png"):
    _media(f"{_kind}: flipped bits", EITHER, _kind, flips)
    _media(f"{_kind}: truncated", EITHER, _kind, cut)
    _media(f"{_kind}: zeroed run", EITHER, _kind, zeroed)
    _media(f"{_kind}: spliced", EITHER, _kind, spliced)
    _media(f"{_kind}: header edited", EITHER, _kind, header_edit)
    _media(f"{_kind}: empty", REJECTED, _kind, lambda data, rng: b"")
_media("mp4: millions of frames", REJECTED, "mp4", many_frames)
_media("mp4: 65535 x 65535 announced", EITHER, "mp4", wide_mp4)
_media("mp4: 8192 x 8192", REJECTED, "mp4", lambda data, rng: large_mp4())
_media("mp4: frames in another file", EITHER, "mp4", external_mp4)
_media("jpg: 65500 x 65500", REJECTED, "jpg", wide_jpg)
_media("png: up to 60000 x 60000", REJECTED, "png", wide_png)
_media("png: 64 MB of text", EITHER, "png", text_png)
_media("gif named mp4", REJECTED, "mp4", lambda data, rng: good("gif"))
_other("m3u8 named mp4", "mp4", playlist)
_other("m3u8 behind an mp4's first bytes", "mp4", disguised_playlist)
_other("ffconcat named mp4", "mp4", ffconcat)
_other("sdp named webm", "webm", sdp)
_other("pickle named mp4", "mp4", pickled)
_other("pickle named png", "png", pickled)
_other("zip named mp4", "mp4", zipped)
_other("tar named mp4", "mp4", nested_tar)
_other("gzip named webm", "webm", gzipped)
_other("noise named jpg", "jpg", noise)
_caption("caption: not UTF-8", REJECTED, lambda rng: b"caf\xe9 " + rng.bytes(8) + b"\xff")
_caption("caption: 1 MB", REJECTED, lambda rng: b"word " * (1 << 18))
_caption("caption: blank", REJECTED, lambda rng: b" \n\t\0\r" * int(rng.integers(0, 9)))
_caption("caption: NUL bytes", KEPT, lambda rng: b"a\0bad\0sample\0")
_caption("caption: control characters", KEPT, lambda rng: b"a \x1b[2J\x1b]0;x\x07\x08 sample " + bytes(range(1, 32)))
_caption("caption: right-to-left marks", KEPT, lambda rng: "a \u202esample\u2066 \ufeff".encode())
_caption("caption: a pickle", KEPT, lambda rng: b"cos\nsystem\n(S'true'\ntR.")


def _pickle_members(rng: Rng, traps: Traps) -> list[bytes]:
    extension = rng.choice(["pkl", "pickle", "pyd", "pth", "pt", "npy", "npz", "ten", "cbor", "mp", "gz", "py", "so"])
    return [member(f"bad.{extension}", pickled(traps, rng))]


def _json_sidecar(rng: Rng, traps: Traps) -> list[bytes]:
    text = rng.choice([b"[" * 100_000, b"1" * 100_000, b"\xff\xfe", b"{", pickled(traps, rng)])
    return [*sample_members("bad", "png", good("png")), member("bad.json", bytes(text))]


def _link(kind: bytes) -> Build:
    return lambda rng, traps: [
        member("bad.mp4", kind=kind, link=str(rng.choice([traps.file, "good0.mp4", "/dev/zero"])))
    ]


def _named(*names: str) -> Build:
    return lambda rng, traps: [member(str(rng.choice(names)), good("png"))]


def _sized(*fields: bytes) -> Build:
    """Build a member whose size field is one of `fields`."""
    return lambda rng, traps: [patched(member("bad.mp4", good("mp4")), 124, fields[rng.integers(len(fields))])]


def _pax(**records: str) -> Build:
    return lambda rng, traps: [member("bad.png", good("png"), pax=records)]


def _extended(kind: bytes, *texts: bytes) -> Build:
    """Build a member after an extended header that holds one of `texts`."""
    return lambda rng, traps: [member("x", texts[rng.integers(len(texts))], kind=kind), member("bad.png", good("png"))]


def _chain(rng: Rng, traps: Traps) -> list[bytes]:
    """Build a member with thousands of long names: tarfile recurses at each of them."""
    return [member("x", b"bad.png\0", kind=b"L")] * 3000 + [member("y", good("png"))]


def _sparse(rng: Rng, traps: Traps) -> list[bytes]:
    """Build a GNU sparse file of 8 GiB in one block."""
    blocks = patched(member("bad.mp4", kind=b"S"), 386, b"%011o\0%011o\0" % (0, 0))
    return [patched(blocks, 483, b"%011o\0" % (1 << 32))]


_blocks("pickles", REJECTED, _pickle_members)
_blocks("json that is none", KEPT, _json_sidecar)
_blocks("symbolic link", REJECTED, _link(tarfile.SYMTYPE))
_blocks("hard link", REJECTED, _link(tarfile.LNKTYPE))
_blocks("device", REJECTED, _link(tarfile.CHRTYPE))
_blocks("pipe", REJECTED, _link(tarfile.FIFOTYPE))
_blocks("sparse file", REJECTED, _sparse)
_blocks(
    "unknown type", REJECTED, lambda rng, traps: [member("bad.mp4", good("mp4"), kind=rng.choice([b"V", b"M", b"z"]))]
)
_blocks("traversal", REJECTED, _named("../bad.png", "a/../../bad.png", "../../../../tmp/bad.png", "..\\bad.png"))
_blocks("absolute name", REJECTED, _named("/bad.png", "//bad.png", "/etc/bad.png"))
_blocks("control characters in a name", REJECTED, _named("bad\x1b[2J.png", "bad\n.png", "\u202ebad.png", "bad\x7f.png"))
_blocks("name that is not UTF-8", REJECTED, _named("bad\udcff.png", "\udce9\udcff bad.png"))
_blocks("name of 60 kB", EITHER, lambda rng, traps: sample_members("bad" + "x" * 60_000, "png", good("png")))
_blocks("pax: traversal", REJECTED, _pax(path="../../bad.png"))
_blocks("pax: sparse", REJECTED, _pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}))
_blocks("pax: size", REFUSED, _extended(b"x", b"13 size=-512\n", b"22 size=9999999999999\n", b"12 size=1e9\n"))
_blocks(
    "pax: records", REFUSED, _extended(b"x", b"99999 path=x\n", b"0 a=b\n", b"-5 path=x\n", b"9" * 60_000, b"8 path\n")
)
_blocks("pax: for all members", REFUSED, _extended(b"g", b"12 path=bad\n", b"10 size=1\n"))
_blocks("pax: 10 MB", REFUSED, _extended(b"x", b"9" * 10_000_000))
_blocks("chain of long names", REJECTED, _chain)
_blocks("size: huge", REFUSED, _sized(b"77777777777\0", b"\x80" + b"\0" * 3 + b"\xff" * 8))
_blocks("size: negative", REFUSED, _sized(b"\xff" * 12, b"\xff" * 11 + b"\0", b"-0000001000\0"))
_blocks("duplicate member", REJECTED, lambda rng, traps: [member("good0.txt", noise(traps, rng))])
_blocks(
    "two media of one key",
    REJECTED,
    lambda rng, traps: [*sample_members("bad", "mp4", good("mp4")), member("bad.png", good("png"))],
)
_blocks("no caption", REJECTED, lambda rng, traps: [member("bad.mp4", good("mp4"))])
_blocks("caption alone", REJECTED, lambda rng, traps: [member("bad.txt", b"a bad sample")])


def header_bytes(tar: bytes, rng: Rng) -> bytes:
    """Return a tar in which four bytes of a header are others."""
    headers = [i for i in range(0, len(tar), 512) if tar[i + 257 : i + 262] == b"ustar"]
    place = int(rng.choice(headers) + rng.integers(508))
    return tar[:place] + rng.bytes(4) + tar[place + 4 :]


WHOLE |= {
    "tar: flipped bits": (EITHER, lambda tar, rng, traps: flips(tar, rng)),
    "tar: truncated": (EITHER, lambda tar, rng, traps: cut(tar, rng)),
    "tar: zeroed run": (EITHER, lambda tar, rng, traps: zeroed(tar, rng)),
    "tar: spliced": (EITHER, lambda tar, rng, traps: spliced(tar, rng)),
    "tar: header bytes": (EITHER, lambda tar, rng, traps: header_bytes(tar, rng)),
    "tar: no end mark": (REFUSED, lambda tar, rng, traps: tar[: -int(rng.integers(513, 1025))]),
    "tar: data after its end": (REFUSED, lambda tar, rng, traps: tar + padded(noise(traps, rng))),
    "tar: zip": (REFUSED, lambda tar, rng, traps: zipped(traps, rng)),
    "tar: gzip": (REFUSED, lambda tar, rng, traps: gzip.compress(tar, mtime=0)),
    "tar: empty file": (REFUSED, lambda tar, rng, traps: b""),
    "tar: text": (REFUSED, lambda tar, rng, traps: b"version https://git-lfs.github.com/spec/v1\n" * 40),
    "tar: noise": (REFUSED, lambda tar, rng, traps: rng.bytes(4096)),
}
