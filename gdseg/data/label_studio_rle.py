"""Label Studio's run-length code of brush masks, both ways: an RGBA picture of the image's size, by rows.

Bits, the highest first: 32 for the count of bytes, 5 for the bits of a word less one, four times 4 for the
bits of a length less one; then runs of 1 bit (1: one word, repeated; 0: words as they are), 2 bits to choose
the length, a count less one of that length, the word or words. It is the format of @thi.ng/rle-pack
(Apache-2.0), which Label Studio uses; label-studio-converter writes the same bytes. Called by
data/label_studio_regions.py and layouts/label_studio.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdseg.data.rle import SegmentationError, shorten

_CHANNELS = 4  # red, green, blue, alpha
_LENGTHS = (3, 4, 8, 16)  # bits of a run's count
_OPAQUE = 128  # alpha from which on a pixel is in the mask


def decode_brush(runs: Any, height: int, width: int) -> NDArray[np.bool_]:
    """bool [height, width]: the pixels whose alpha is at least half. Raises SegmentationError."""
    if not isinstance(runs, list) or not set(map(type, runs)) <= {int} or not _are_bytes(runs):
        raise SegmentationError("bad RLE", f"its rle is {shorten(runs)}, expected numbers from 0 to 255")
    bits = _Bits(bytes(runs))
    count, word = bits.read(32), bits.read(5) + 1
    if count != height * width * _CHANNELS or word != 8:
        what = f"its rle is of {count} words of {word} bits, its image has {height} x {width} pixels of 4 x 8"
        raise SegmentationError("bad RLE", what)
    lengths = [bits.read(4) + 1 for _ in range(4)]
    values, place = np.empty(count, dtype=np.uint8), 0
    while place < count:
        repeated = bits.read(1)
        end = place + bits.read(lengths[bits.read(2)]) + 1
        if end > count:
            raise SegmentationError("bad RLE", "its runs are longer than its image")
        values[place:end] = bits.read(8) if repeated else bits.words(end - place)
        place = end
    return values[_CHANNELS - 1 :: _CHANNELS].reshape(height, width) >= _OPAQUE


def _are_bytes(runs: list[int]) -> bool:
    return not runs or (min(runs) >= 0 and max(runs) <= 255)


class _Bits:
    """Bytes read bit by bit."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def read(self, bits: int) -> int:
        """The number in the next `bits` bits. Raises SegmentationError where the bytes end."""
        start, end = self.place, self.place + bits
        if end > 8 * len(self.data):
            raise SegmentationError("bad RLE", "its rle is cut off")
        self.place = end
        last = -(-end // 8)
        return int.from_bytes(self.data[start // 8 : last]) >> (8 * last - end) & ((1 << bits) - 1)

    def words(self, count: int) -> NDArray[np.uint8]:
        """The next `count` words of 8 bits. Raises SegmentationError where the bytes end."""
        start, end = self.place, self.place + 8 * count
        if end > 8 * len(self.data):
            raise SegmentationError("bad RLE", "its rle is cut off")
        self.place, last = end, -(-end // 8)
        flags = np.unpackbits(np.frombuffer(self.data[start // 8 : last], dtype=np.uint8))
        return np.packbits(flags[start % 8 : start % 8 + 8 * count])


def encode_brush(mask: NDArray[np.uint8]) -> list[int]:
    """The code of a mask [H, W]: white and opaque inside, black and transparent outside."""
    flat = mask.ravel() > 0
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    parts = [f"{flat.size * _CHANNELS:032b}{7:05b}", *(f"{n - 1:04b}" for n in _LENGTHS)]
    for start, length in zip(edges[:-1].tolist(), np.diff(edges).tolist(), strict=True):
        word = f"{255 if flat[start] else 0:08b}"
        left = length * _CHANNELS
        while left:
            choice, bits = next(((i, n) for i, n in enumerate(_LENGTHS) if left <= 1 << n), (3, _LENGTHS[3]))
            taken = min(left, 1 << bits)
            parts.append(f"1{choice:02b}{taken - 1:0{bits}b}{word}")
            left -= taken
    text = "".join(parts)
    padded = -(-len(text) // 8) * 8
    return list(int(text.ljust(padded, "0"), 2).to_bytes(padded // 8))
