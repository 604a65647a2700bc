"""Images with an embedded ICC profile to sRGB, as every viewer shows them.

The rendering intent is relative colorimetric with black point compensation, the default of photo editors: a colour that
sRGB can show keeps its place, the white of the medium becomes white, and its black becomes black. The perceptual intent
would move colours that sRGB can show too, by a table that is each profile maker's own.
"""

import io

import numpy as np
from PIL import Image, ImageCms

COLOURS = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The colour spaces of profiles that are read, and the mode of Pillow whose pixels each describes."""
DESCRIBED = {"RGB": ("RGB", "RGBA", "P", "PA", "L", "LA", "1"), "L": ("L", "LA", "1"), "CMYK": ("CMYK",)}
"""The modes of images that a profile of one of COLOURS can belong to: a palette holds RGB, and grey is R = G = B."""
NEAR = 2
"""A profile that changes no colour by more levels of 255 than this is sRGB's: of its many copies, some have curves of
1024 points, and rounded primaries."""
UNREADABLE = "colour profile: it cannot be read, the pixels are taken as they are"
"""The note of an image whose profile is damaged, or of other colours than the image."""


def in_srgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Return an image with its colours in sRGB, and a note of what was done.

    An image without a profile, with that of sRGB, or with one that cannot be used, is returned as it is.

    Args:
        image: of any mode of 8 bits.

    Returns:
        The image, RGB or RGBA if it was converted; and one of `MediaInfo.notes`, empty if there is nothing to say.
    """
    data = image.info.get("icc_profile")
    if not data:
        return image, ""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = COLOURS.get(profile.profile.xcolor_space.strip(), "")
        if image.mode not in DESCRIBED.get(mode, ()):
            return image, UNREADABLE
        # For one channel the optimized transform is coarse in the dark, and the exact one is asked for 256 levels only.
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        flags |= ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
        if _changes_little(transform, mode):
            return image, ""
        return _converted(image, mode, transform), f"colour profile: {_name(profile)}, converted to sRGB"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image, UNREADABLE


def _converted(image: Image.Image, mode: str, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """Return an image in sRGB, with its transparency. `mode` is that of the profile's colours."""
    whole = image.convert("RGBA") if image.has_transparency_data else image
    colours = whole.convert(mode)
    if mode == "L":
        levels = transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None])).getchannel("R")
        result = colours.point(np.asarray(levels)[0].tolist()).convert("RGB")
    else:
        result = transform.apply(colours)
    if image.has_transparency_data:
        result.putalpha(whole.getchannel("A"))
    return result


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether no colour of a grid of RGB, or no grey, is moved by more than NEAR levels."""
    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    if mode == "L":
        grid, before = levels[None], levels[None, :, None]
    else:
        grid = before = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(grid))).astype(int) - before
    return bool(np.abs(moved).max() <= NEAR)


def _name(profile: ImageCms.ImageCmsProfile) -> str:
    """Return what a profile calls itself, in at most 40 letters: the file may say anything."""
    text = "".join(letter for letter in profile.profile.profile_description or "" if letter.isprintable())
    return text[:40].strip() or "without a name"
