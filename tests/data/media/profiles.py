"""ICC profiles, written field by field (ICC.1:2010), and the light of their colours in float64."""

import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
"""The white of the profile connection space (ICC.1:2010, section 7.2.16)."""
D65 = (0.3127, 0.3290)
PRIMARIES = {
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
}
"""The chromaticities of red, green and blue; the white of all is D65."""
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""XYZ to the cones' answers, in which whites are adapted (ICC.1:2010, annex E)."""


def to_xyz(name: str) -> np.ndarray:
    """Return the matrix from linear R, G, B to XYZ under D65: float64 (3, 3)."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in PRIMARIES[name]]).T
    white = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    return columns * np.linalg.solve(columns, white)


def adapted(name: str) -> np.ndarray:
    """Return the matrix of `to_xyz` adapted to D50, as profiles hold it."""
    white = to_xyz(name) @ np.ones(3)
    scale = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    return np.linalg.inv(BRADFORD) @ scale @ BRADFORD @ to_xyz(name)


def srgb_light(signal: np.ndarray) -> np.ndarray:
    """Return the light of a signal in [0, 1] by sRGB's curve (IEC 61966-2-1)."""
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def srgb_level(light: np.ndarray) -> np.ndarray:
    """Return the levels, 0 to 255 and not rounded, of light by sRGB's curve; what is out of range is cut off."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def gamma_curve(gamma: float) -> bytes:
    """Return a curve that is a power; the exponent is rounded to 1/256."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))


def sampled_curve(points: np.ndarray) -> bytes:
    """Return a curve through points in [0, 1], evenly spaced."""
    return b"curv" + bytes(4) + struct.pack(f">I{len(points)}H", len(points), *np.rint(65535 * points).astype(int))


def rgb_profile(name: str, curve: bytes) -> bytes:
    """Return the profile of a display with the primaries of `name`; `curve` makes light of all three channels."""
    colours = {f"{letter}XYZ": _xyz(column) for letter, column in zip("rgb", adapted(name).T, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", name, colours | {f"{letter}TRC": curve for letter in "rgb"})


def grey_profile(curve: bytes) -> bytes:
    """Return the profile of a grey display."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", "Grey", {"kTRC": curve})


def cmyk_profile(lab: np.ndarray) -> bytes:
    """Return the profile of a scanner of prints.

    lab: (2, 2, 2, 2, 3), CIE L*, a*, b* under D50 of no or all cyan, magenta, yellow and black.
    """
    table = np.rint(lab.reshape(16, 3) * [2.55, 1, 1] + [0, 128, 128]).astype(np.uint8)
    straight = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + 4 * straight + table.tobytes() + 3 * straight
    return _profile(b"scnr", b"CMYK", b"Lab ", "Print", {"A2B0": lut, "A2B1": lut})


def _profile(kind: bytes, colours: bytes, connection: bytes, name: str, tags: dict[str, bytes]) -> bytes:
    """Return a profile of version 2.4: its header, the table of its tags, and the tags."""
    text = name.encode() + b"\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {"desc": description, "cprt": b"text" + bytes(4) + b"none\0", "wtpt": _xyz(D50)} | tags
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += tag.encode() + struct.pack(">II", place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = place + len(body)
    date = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    header = struct.pack(">I4sI4s4s4s12s4s", size, bytes(4), 0x02400000, kind, colours, connection, date, b"acsp")
    return header + bytes(28) + struct.pack(">3i", *np.rint(65536 * D50).astype(int)) + bytes(48) + table + body


def _xyz(value: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *np.rint(65536 * np.asarray(value)).astype(int))
