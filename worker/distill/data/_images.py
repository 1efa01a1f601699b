"""Pictures from outside, decoded. What the bytes are decides, never the file's name."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from worker.distill.data.prepared import Images

FORMATS = ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_PIXELS = 50_000_000
GREY = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N"}
Resize = Literal["crop", "pad", "stretch"]


class BrokenImage(Exception):
    """It cannot be used; the message says why, as the end of a sentence."""


class ImageBomb(BrokenImage):
    """So many pixels that it is an attack or a mistake."""


@dataclass(frozen=True)
class Header:
    """What is known before any pixel is decoded."""

    grey: bool
    deep: bool  # 16 bits a channel


def read_header(data: bytes) -> Header:
    with _open(data) as image:
        return Header(grey=image.mode in GREY, deep=image.mode.startswith("I;16"))


def decode(data: bytes, *, size: int, channels: Literal[1, 3], resize: Resize) -> Images:
    """The picture as uint8 (channels, size, size): first frame, upright, over white where transparent."""
    mode = {1: "L", 3: "RGB"}[channels]
    with _open(data) as image:
        try:
            image.draft(mode, (2 * size, 2 * size))  # lets a JPEG be decoded at a fraction of its size
            picture = _flatten(_upright(image), mode)
            if resize == "stretch":
                picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            elif resize == "pad":
                picture = ImageOps.pad(picture, (size, size), Image.Resampling.BILINEAR)
            else:
                picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
        except MemoryError:
            raise
        except Exception as error:  # a hostile file can raise anything from inside a decoder
            raise BrokenImage(f"cannot be decoded ({_reason(error)})") from error
        pixels = np.asarray(picture, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow only warns between 89 and 179 megapixels; we refuse
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageBomb(f"has more than {MAX_PIXELS:,} pixels") from error
    except MemoryError:
        raise
    except Exception as error:
        raise BrokenImage(_foreign(data) or f"cannot be read ({_reason(error)})") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise ImageBomb(f"has {width:,} × {height:,} pixels; allowed are {MAX_PIXELS:,} in all")
    if image.mode in ("I", "F"):
        image.close()
        raise BrokenImage("has 32 bits a pixel, whose range is unknown; save it with 8")
    return image


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # what is wrong with the pixels is said here
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is no reason to lose the picture
        return image


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """One of L and RGB. 16 bits lose their lower half instead of being clipped."""
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        return Image.fromarray((pixels >> 8).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _foreign(data: bytes) -> str:
    """A name for what is often sent by mistake."""
    head = data[:256].lstrip().lower()
    if not data:
        return "is empty"
    if b"<svg" in head or head.startswith(b"<?xml"):
        return "is an SVG or XML file; save it as PNG"
    if head.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a picture"
    if head.startswith((b"%!ps", b"\xc5\xd0\xd3\xc6", b"%pdf", b"8bps", b"simple  =")):
        return "is a PostScript, PDF, Photoshop or FITS file; save it as PNG or JPEG"
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG, JPEG, GIF, BMP, WebP, TIFF or PPM picture"
    return " ".join(str(error).split())[:100] or type(error).__name__
