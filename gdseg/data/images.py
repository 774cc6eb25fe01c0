"""Reading image files: any common format to a [C, H, W] tensor in raw units, or one DataError.

Pillow decodes (colour PNGs of 16 bits, which it would squash to 8, in two passes; TIFF files beyond it are
tiff.py's), numpy reads .npy arrays. EXIF orientation is applied. Called by data/augment.py for training and
evaluation, and by predict.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch import Tensor

from gdseg.data.rle import MAX_PIXELS
from gdseg.data.tiff import is_beyond_pillow, read_tiff, tiff_size
from gdseg.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".npy"})
_MOST_8_BIT = 255
_ORIENTATION = 0x0112  # EXIF tag; the values 2..8 say how to turn the image upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def list_images(folder: Path) -> list[Path]:
    """Every image file under a folder, hidden ones aside, sorted by path. Raises DataError without it."""
    if not folder.is_dir():
        raise DataError("no such folder of images", folder, "check the path")
    found = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def find_file(folder: Path, name: object) -> Path | None:
    """The file that a json names in a folder; None if there is none, or `name` can be no file's name."""
    try:
        return folder / name if isinstance(name, str) and (folder / name).is_file() else None
    except (OSError, ValueError):  # too long a name; a zero byte in it
        return None


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels after EXIF orientation, from the file's header. Raises DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix.lower() == ".npy":
                array = _open_npy(path)
                return array.shape[0], array.shape[1]
            if is_beyond_pillow(path):
                return tiff_size(path)
            with Image.open(path) as file:
                width, height = file.size
                # Pillow already gives the upright size of a TIFF
                turned = file.format != "TIFF" and file.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    except Exception as error:  # a decoder fed with untrusted bytes may raise anything
        raise _unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def read_image(path: Path, in_channels: int | None = 3) -> Tensor:
    """The image as a tensor [in_channels, H, W] in raw units, upright; None: RGB, or all channels of more.

    uint8 for files of 8 bits a channel or less, else float32 that keeps the file's values. Three
    channels are RGB (grey is repeated, palettes are looked up, alpha is dropped), one is grey; for
    any other count the file's own bands and pages (.npy: an array [H, W] or [H, W, C]) are taken, and
    there must be that many. Raises DataError, with the path, for a file that is missing, corrupt, cut
    off or too large, or holds values that are no numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = _read(path, in_channels or 3)
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise ValueError("it holds values that are no numbers (NaN or infinity)")
    except Exception as error:  # a decoder fed with untrusted bytes may raise anything
        raise _unreadable(path, error) from error
    array = fit_channels(array, in_channels, path) if in_channels else array
    return torch.from_numpy(np.require(array.transpose(2, 0, 1), requirements=["C", "W"]))


def warn_of_units(images: Tensor, mean: Sequence[float]) -> None:
    """Warn, once in a process, of values beyond 8 bits where the network's `backbone.mean` is of 8 bits."""
    if images.is_floating_point() and max(mean) <= _MOST_8_BIT and bool((images > _MOST_8_BIT).any()):
        _warn_of_deep_images()


@cache
def _warn_of_deep_images() -> None:  # Python's own "once" begins anew after each catch_warnings
    what = "images hold values above 255 (16 bits?), where backbone.mean and backbone.std are those of 8-bit"
    what += (
        " images: the values were neither scaled nor cut, and look nearly white to the network. Convert the"
    )
    what += " images to 8 bits, or train with backbone.mean and backbone.std of their own"
    warnings.warn(what, stacklevel=3)


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("no such image", path, "check the path")
    if isinstance(error, Image.DecompressionBombError):
        what = f"the image has more than {MAX_PIXELS} pixels, or too many channels for its size"
        return DataError(what, path, "cut it into tiles first")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"cannot read the image: {reason}", path, "replace the file or remove it from the data set"
    )


def _read(path: Path, in_channels: int) -> NDArray[np.generic]:
    """[H, W, bands]: uint8, or float32."""
    if path.suffix.lower() == ".npy":
        return _plain_numbers(np.array(_open_npy(path)))
    if is_beyond_pillow(path):
        return _plain_numbers(read_tiff(path))
    return _read_png16(path) if _is_colour_png16(path) else _read_pillow(path, in_channels)


def _open_npy(path: Path) -> NDArray[Any]:
    """The array, still on disk: a header that promises more than the file holds is refused."""
    array = np.lib.format.open_memmap(path, mode="r")  # which knows no pickles
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "uifb":
        raise ValueError(f"it holds {array.dtype} {list(array.shape)}, expected numbers [H, W] or [H, W, C]")
    if array.shape[0] * array.shape[1] > MAX_PIXELS or array.size > 4 * MAX_PIXELS:
        raise Image.DecompressionBombError
    return array


def _plain_numbers(array: NDArray[Any]) -> NDArray[np.generic]:
    kind = np.uint8 if array.dtype in (np.uint8, np.bool_) else np.float32
    return array.astype(kind).reshape(*array.shape[:2], -1)


def _read_pillow(path: Path, in_channels: int) -> NDArray[np.generic]:
    with Image.open(path) as file:
        if in_channels in (1, 3):
            return _upright_array(file, "RGB" if in_channels == 3 else "L")
        pages = []
        for page in range(getattr(file, "n_frames", 1)):
            file.seek(page)
            pages.append(_upright_array(file, None))
    return np.concatenate(pages, axis=2)


def _upright_array(file: Image.Image, mode: str | None) -> NDArray[np.generic]:
    """[H, W, bands] of the current page: 8-bit in `mode` (None: as it is), or the raw values as float32."""
    file.load()
    turn = _UPRIGHT.get(file.getexif().get(_ORIENTATION, 1))
    image = file if turn is None else file.transpose(turn)
    if image.mode.startswith(("I", "F")):
        array = np.asarray(image).astype(np.float32)
    else:
        array = np.asarray(image if mode is None else image.convert(mode))
        array = array.astype(np.uint8) if array.dtype == bool else array
    return array.reshape(array.shape[0], array.shape[1], -1)


def _is_colour_png16(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(26)
    return head[:8] == b"\x89PNG\r\n\x1a\n" and head[24:25] == b"\x10" and head[25:26] in (b"\x02", b"\x06")


def _read_png16(path: Path) -> NDArray[np.generic]:
    """[H, W, bands] float32: Pillow keeps one byte of two, so the file is decoded once for each byte.

    (torchvision's decoder would do it at once, but a corrupt file can crash the process in it.)
    """
    high, low = (_upright_bytes(path, order) for order in ("B", "L"))
    return high.astype(np.float32) * 256 + low.astype(np.float32)


def _upright_bytes(path: Path, order: str) -> NDArray[np.generic]:
    with Image.open(path) as file:
        assert isinstance(file, ImageFile.ImageFile)
        # "RGB;16B" takes the first byte of each big-endian value, "RGB;16L" the second
        file.tile = [tile._replace(args=f"{file.mode};16{order}") for tile in file.tile]
        return _upright_array(file, None)


def fit_channels(array: NDArray[np.generic], in_channels: int, path: Path) -> NDArray[np.generic]:
    """[H, W, bands] as [H, W, in_channels], by the rules of `read_image`. Raises DataError, naming `path`."""
    bands = array.shape[2]
    if bands == in_channels:
        return array
    if in_channels == 3 and bands == 1:
        return array.repeat(3, axis=2)
    if in_channels == 3 and bands == 4:
        return array[:, :, :3]
    if in_channels == 1:
        return np.asarray(array[:, :, :3].mean(axis=2, keepdims=True, dtype=np.float32))
    raise DataError(
        f"the image has {bands} channels, the recipe expects {in_channels}", path, "set backbone.in_channels"
    )
