"""The images of a row, opened within limits: from a data URI, or from a file on this disk."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mloc.core.language.content_parts import image_place
from mloc.executors.contract import ExecutorError

MAX_BYTES = 32 << 20  # of one image as it is stored
MAX_PIXELS = 64_000_000  # of a row's images together: three bytes each once they are unpacked
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # no format of documents or scripts


def open_pictures(parts: Iterable[Mapping[str, Any]], local: Callable[[str], str]) -> list[Any]:
    """Each part's image in RGB, the first frame of a film, turned as its camera says. `local`: what the spec names → where it lies here.

    Raises ExecutorError `BadImage`, `ImageTooLarge` or `NoImage`, and MissingDependency without Pillow."""
    opened: list[Any] = []
    left = MAX_PIXELS
    for part in parts:
        place = image_place(part)
        opened.append(_decoded(_content(place, local), _shown(place), left))
        left -= opened[-1].width * opened[-1].height
    return opened


def _content(place: str, local: Callable[[str], str]) -> bytes:
    if place.startswith("data:"):
        text = place.partition(",")[2]
        if len(text) * 3 // 4 > MAX_BYTES:
            raise _too_many_bytes(_shown(place), len(text) * 3 // 4)
        try:
            return base64.b64decode(text.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ExecutorError("BadImage", f"{_shown(place)} is no base64: {error}") from error
    path = local(place.removeprefix("file://"))
    if "://" in path:
        said = "images are fetched where data.items or data.messages name them; in a file of rows give a path or a data URI"
        raise ExecutorError("NoImage", f"{_shown(place)} was not fetched: {said}")
    return _read(Path(path), place)


def _read(file: Path, place: str) -> bytes:
    try:
        if not file.is_file():  # nor a pipe, which would never end
            raise ExecutorError("NoImage", f"{_shown(place)} is not on the worker's disk")
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise _too_many_bytes(_shown(place), size)
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise ExecutorError("NoImage", f"{_shown(place)} cannot be read: {error}") from error


def _decoded(content: bytes, shown: str, most_pixels: int) -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ExecutorError("MissingDependency", 'images need the library Pillow: pip install "mloc[inference]"') from error
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:  # reads no more than its sizes
            if image.width * image.height > most_pixels:
                raise _too_many_pixels(shown, f"{image.width} x {image.height}")
            return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(shown, str(error)) from error
    except ExecutorError:
        raise
    except Exception as error:  # each format's decoder raises its own kinds for bytes that are broken
        said = "it is none of " + ", ".join(FORMATS) if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__
        raise ExecutorError("BadImage", f"{shown} cannot be opened: {said}") from error


def _too_many_bytes(shown: str, size: int) -> ExecutorError:
    return ExecutorError("ImageTooLarge", f"{shown} has {size:,} bytes; an image may have {MAX_BYTES:,}")


def _too_many_pixels(shown: str, found: str) -> ExecutorError:
    return ExecutorError("ImageTooLarge", f"{shown} has too many pixels ({found}); the images of a row may have {MAX_PIXELS:,} together")


def _shown(place: str) -> str:
    """Without what a data URI holds."""
    head, comma, _ = place.partition(",")
    return f"the image {head[:60]},…" if place.startswith("data:") and comma else f"the image {place[:300]}"
