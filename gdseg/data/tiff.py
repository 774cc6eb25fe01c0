"""TIFF files of many or deep channels, which Pillow does not read whole.

It knows no mode for more than four channels and squashes colours of 16 bits to 8. A file's strips and tiles
are only bytes, though, which its libtiff does unpack: each is given to it as a grey picture as wide as a row
of bytes. After the TIFF specification (Adobe, revision 6.0) and its technical note 3 (predictor of floating
point). The first page is read. Called by images.py.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from gdseg.data.rle import MAX_PIXELS

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _PREDICTOR = 273, 274, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # of RGB, CMYK, YCbCr, Lab; grey and palettes have one
_KINDS = {1: "u", 2: "i", 3: "f"}
_NO_BYTES = (6, 7, 34712)  # JPEG and JPEG 2000 pack pixels, not bytes


def is_beyond_pillow(path: Path) -> bool:
    """Whether the file is a TIFF of several channels of which Pillow would lose some, or some of their bits.

    Raises ValueError, OSError and what Pillow raises for a broken one.
    """
    with path.open("rb") as file:
        if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0"):
            return False
    tags = _tags(path)
    samples, colours = _number(tags, _SAMPLES, 1), _COLOURS.get(tags.get(_PHOTOMETRIC, 1), 1)
    with_alpha = samples == colours + 1 and tags.get(_EXTRA, (0,))[0] in (1, 2)
    return samples > 1 and (max(tags.get(_BITS, (1,))) > 8 or not (samples == colours or with_alpha))


def tiff_size(path: Path) -> tuple[int, int]:
    """(height, width) of the first page, upright. Raises ValueError, OSError and what Pillow raises."""
    tags = _tags(path)
    size = _number(tags, _HEIGHT), _number(tags, _WIDTH)
    return size[::-1] if tags.get(_ORIENTATION, 1) >= 5 else size


def read_tiff(path: Path) -> NDArray[Any]:
    """The first page, upright, as [H, W, samples] of the file's own numbers.

    Raises ValueError, OSError and what Pillow raises for a file that is broken or of a kind that is not read.
    """
    tags = _tags(path)
    layout = _layout(tags)
    found = np.zeros((layout.height, layout.width, layout.samples), dtype=layout.dtype.newbyteorder("="))
    with path.open("rb") as file:
        for place, (plane, y, x) in enumerate(layout.blocks()):
            file.seek(layout.offsets[place])
            packed = file.read(layout.counts[place])
            rows = layout.block_height if layout.tiled else min(layout.block_height, layout.height - y)
            block = _numbers(_unpacked(packed, layout, rows), layout, rows)
            part = found[y : y + rows, x : x + layout.block_width]
            channels = slice(plane, plane + 1) if layout.planes > 1 else slice(None)
            part[..., channels] = block[: part.shape[0], : part.shape[1]]
    return _upright(found, tags.get(_ORIENTATION, 1))


def _tags(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(8)
        head += file.read(8) if head[2:3] == b"+" else b""  # BigTIFF
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
    return tags


def _number(tags: Any, tag: int, default: int | None = None) -> int:
    value = tags.get(tag, default)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"its TIFF tag {tag} is {value!r}")
    return value


@dataclass(frozen=True)
class _Layout:
    """Where the numbers lie: in blocks (strips or tiles), all planes of them one after another."""

    height: int
    width: int
    samples: int
    dtype: np.dtype[Any]
    compression: int
    predictor: int
    planes: int  # 1: the samples of a pixel lie together
    block_height: int
    block_width: int
    tiled: bool
    offsets: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def per_pixel(self) -> int:
        """Samples of a pixel in one block."""
        return self.samples // self.planes

    @property
    def row_bytes(self) -> int:
        """Bytes of a block's row."""
        return self.block_width * self.per_pixel * self.dtype.itemsize

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(plane, first row, first column) of each block, in the file's order."""
        for plane in range(self.planes):
            for y in range(0, self.height, self.block_height):
                for x in range(0, self.width, self.block_width):
                    yield plane, y, x


def _layout(tags: Any) -> _Layout:
    height, width, samples = _number(tags, _HEIGHT), _number(tags, _WIDTH), _number(tags, _SAMPLES, 1)
    bits, kinds = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
    if len(bits) != 1 or not bits <= {8, 16, 32, 64} or len(kinds) != 1 or not kinds <= _KINDS.keys():
        raise ValueError(
            f"a TIFF of {sorted(bits)} bits a sample, of the formats {sorted(kinds)}, is not read"
        )
    [size], [kind] = (n // 8 for n in bits), kinds
    if height * width * samples * size > 4 * MAX_PIXELS:
        raise Image.DecompressionBombError
    tiled, compression = _TILE_OFFSETS in tags, _number(tags, _COMPRESSION, 1)
    if compression in _NO_BYTES:
        raise ValueError("a TIFF of several channels packed as JPEG is not read: save it as .npy")
    layout = _Layout(
        height,
        width,
        samples,
        np.dtype(f"{'<' if tags.prefix == b'II' else '>'}{_KINDS[kind]}{size}"),
        compression,
        _number(tags, _PREDICTOR, 1),
        samples if _number(tags, _PLANAR, 1) == 2 else 1,
        _number(tags, _TILE_HEIGHT) if tiled else min(_number(tags, _ROWS, height), height),
        _number(tags, _TILE_WIDTH) if tiled else width,
        tiled,
        tuple(tags.get(_TILE_OFFSETS if tiled else _OFFSETS, ())),
        tuple(tags.get(_TILE_COUNTS if tiled else _COUNTS, ())),
    )
    number = sum(1 for _, _ in zip(layout.blocks(), range(len(layout.offsets) + 1), strict=False))
    if number > min(len(layout.offsets), len(layout.counts)):
        raise ValueError("its TIFF tags name fewer strips or tiles than the picture needs")
    if layout.row_bytes * layout.block_height > 4 * MAX_PIXELS:
        raise Image.DecompressionBombError
    return layout


def _unpacked(packed: bytes, layout: _Layout, rows: int) -> bytes:
    """The bytes of a block's rows."""
    length = rows * layout.row_bytes
    if layout.compression == 1:
        if len(packed) < length:
            raise ValueError("the file is cut off")
        return packed[:length]
    tags = [(256, layout.row_bytes), (257, rows), (258, 8), (259, layout.compression), (262, 1)]
    tags += [(273, 122), (277, 1), (278, rows), (279, len(packed))]  # 122: the bytes before the data
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    head += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + struct.pack("<I", 0)
    with Image.open(io.BytesIO(head + packed), formats=["TIFF"]) as picture:
        return np.asarray(picture).tobytes()


def _numbers(data: bytes, layout: _Layout, rows: int) -> NDArray[Any]:
    """[rows, columns, samples] of a block's bytes in the machine's order, predictors undone."""
    shape = rows, layout.block_width, layout.per_pixel
    native = layout.dtype.newbyteorder("=")
    if layout.predictor == 3:  # bytes: differences, the most significant of all samples of a row first
        steps = np.frombuffer(data, np.uint8).reshape(rows, -1, layout.per_pixel)
        planes = steps.cumsum(axis=1, dtype=np.uint8).reshape(rows, layout.dtype.itemsize, -1)
        joined = np.ascontiguousarray(planes.swapaxes(1, 2))
        return joined.view(layout.dtype.newbyteorder(">")).reshape(shape).astype(native)
    values = np.frombuffer(data, layout.dtype).reshape(shape).astype(native)
    return values.cumsum(axis=1, dtype=native) if layout.predictor == 2 else values


def _upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The array after EXIF orientation 1..8."""
    array = array.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else array
    array = array[:, ::-1] if orientation in (2, 3, 6, 7) else array
    return array[::-1] if orientation in (3, 4, 7, 8) else array
