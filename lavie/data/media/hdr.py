"""High dynamic range (PQ, HLG) to BT.709's standard range, by conversion method C of ITU-R BT.2446-1.

1. Signals become display light: PQ by its EOTF; HLG by its inverse OETF and its OOTF for a display of 1000 cd/m2.
2. The luminance is tone mapped and the colour kept: dark and middle tones are scaled, light ones compressed. White
   paper (203 cd/m2, ITU-R BT.2408) comes out at 91 % of the light of SDR white, level 245 of 255; from 332 cd/m2 on,
   all is white.
3. BT.2020's primaries become BT.709's; colours that these cannot show are cut off.
4. Light becomes the SDR signal by the inverse of BT.1886's EOTF, an exponent of 2.4.

swscale can convert too, but takes seconds for a frame of 1920 x 1080, and darkens by the mastering data.
"""

from functools import cache

import numpy as np

PQ_PEAK = 10_000.0
"""The luminance of PQ's largest signal, in cd/m2 (BT.2100, table 4)."""
HLG_PEAK = 1000.0
"""The peak luminance of the display that HLG is shown on, in cd/m2, as BT.2100 takes it for reference."""
HLG_GAMMA = 1.2
"""The exponent of HLG's OOTF for a display of 1000 cd/m2 (BT.2100, table 5)."""
K1, K2, K3, K4 = 0.83802, 15.09968, 0.74204, 78.99439
"""The coefficients of method C's tone mapping (BT.2446-1, section 6.1.4)."""
BEND = 58.5 / K1
"""The luminance in cd/m2 up to which tones are scaled by K1, and above which they are compressed (the same section)."""
LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""The luminance of BT.2020's primaries (BT.2020, table 4)."""
TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
"""Linear R, G, B of BT.2020 to those of BT.709 (ITU-R BT.2407, section 2.2)."""
WHITE = 255 * 256
"""swscale's 16-bit value of a signal of 1: it computes levels of 255 with 8 more bits."""
ROWS = 64
"""Rows of a frame that are converted at a time, so that their light in floating point takes little memory."""


def to_standard_range(signal: np.ndarray, transfer: str) -> np.ndarray:
    """Return the picture of an HDR signal in standard range: uint8 (H, W, 3), RGB.

    Args:
        signal: uint16 (H, W, 3), non-linear R, G, B with BT.2020's primaries, 0 to WHITE.
        transfer: "PQ" or "HLG".
    """
    picture = np.empty(signal.shape, np.uint8)
    for row in range(0, len(signal), ROWS):
        picture[row : row + ROWS] = _band(signal[row : row + ROWS], transfer)
    return picture


def _band(signal: np.ndarray, transfer: str) -> np.ndarray:
    """Return some rows of `to_standard_range`.

    Powers and logarithms are looked up: that is fast, and their rounding would differ from processor to processor.
    Tables count by the root of the light, since steps of the light itself would be coarse in the dark.
    """
    light = _light(transfer)[signal]
    luminance = sum(weight * light[..., i] for i, weight in enumerate(LUMINANCE))
    light *= _gain(transfer)[_place(luminance)][..., None]
    mixed = [sum(weight * light[..., i] for i, weight in enumerate(row)) for row in TO_BT709]
    return _levels()[_place(np.stack(mixed, axis=-1))]


def _place(light: np.ndarray) -> np.ndarray:
    """Return where a table that counts by the root of the light, from 0 to 1, holds the values for some light."""
    return (np.sqrt(np.clip(light, 0, 1)) * np.float32(65535) + np.float32(0.5)).astype(np.uint16)


@cache
def _light(transfer: str) -> np.ndarray:
    """Return the light of every signal, from 0 to 1: float32 (65536,). PQ's is of the display, HLG's of the scene."""
    signal = np.minimum(np.arange(65536) / WHITE, 1)
    if transfer == "HLG":  # BT.2100, table 5
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128  # BT.2100, table 4
    power = signal ** (1 / m2)
    return ((np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)).astype(np.float32)


@cache
def _gain(transfer: str) -> np.ndarray:
    """Return the SDR light, 1 for white, over the light of `_light`, by its luminance: float32 (65536,)."""
    light = (np.maximum(np.arange(65536), 0.5) / 65535) ** 2
    # HLG's OOTF turns the light of a scene to that of the display.
    luminance = HLG_PEAK * light**HLG_GAMMA if transfer == "HLG" else PQ_PEAK * light
    bent = K2 * np.log(np.maximum(luminance / BEND - K3, 1e-6)) + K4
    mapped = np.where(luminance < BEND, K1 * luminance, bent)
    return (mapped / 100 / light).astype(np.float32)


@cache
def _levels() -> np.ndarray:
    """Return the SDR level by the light of a primary: uint8 (65536,)."""
    return np.rint(255 * (np.arange(65536) / 65535) ** (2 / 2.4)).astype(np.uint8)
