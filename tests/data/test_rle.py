"""RLE and polygons against pycocotools; malformed ones are refused before its C code sees them."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from gdseg.data.rle import (
    SegmentationError,
    annotation_mask,
    boxes_of,
    check_polygons,
    check_rle,
    rle_band,
    string_counts,
    to_rle,
)


def runs_of(mask: np.ndarray) -> list[int]:
    """Uncompressed counts, the long way: column by column, starting with zeros."""
    flat = mask.T.ravel().astype(int)
    runs, value = [0], 0
    for pixel in flat:
        if pixel == value:
            runs[-1] += 1
        else:
            runs.append(1)
            value = pixel
    return runs


@pytest.mark.parametrize("seed", range(20))
def test_both_kinds_of_rle_decode_to_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, w = rng.integers(1, 90, 2)
    mask = rng.random((h, w)) < rng.choice([0.001, 0.1, 0.5, 0.999])
    mask[rng.integers(h), rng.integers(w)] = True
    mask[: rng.integers(h + 1)] = True  # long runs, negative differences
    rle = to_rle(mask)
    assert rle["counts"].encode() == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    np.testing.assert_array_equal(string_counts(rle["counts"]), runs_of(mask))
    for kind in (rle, {"size": [int(h), int(w)], "counts": runs_of(mask)}):
        checked = check_rle(kind, h, w)
        assert isinstance(checked["counts"], str)
        np.testing.assert_array_equal(annotation_mask({"segmentation": checked}, h, w), mask)
    first, band = rle_band(rle)
    whole = np.zeros((w, h), bool)
    whole[first : first + len(band)] = band
    np.testing.assert_array_equal(whole.T, mask)
    assert len(band) == np.ptp(np.flatnonzero(mask.any(0))) + 1


def test_a_band_of_runs_of_no_length() -> None:
    """Pointless but legal: zero-length runs at the ends."""
    rle = check_rle({"size": [3, 4], "counts": [0, 0, 4, 2, 6, 0]}, 3, 4)
    first, band = rle_band(rle)
    whole = np.zeros((4, 3), np.uint8)
    whole[first : first + len(band)] = band
    np.testing.assert_array_equal(whole.T, coco_mask.decode(rle))


def test_to_rle_takes_tensors() -> None:
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[1:3, 2] = True
    np.testing.assert_array_equal(coco_mask.decode(to_rle(mask)), mask.numpy())


def test_polygons_decode_as_pycocotools_does() -> None:
    polygons = [[1.0, 1, 9, 1, 9, 7.5, 1, 7.5], [12, 3, 18, 3, 15, 9.5]]
    checked = check_polygons(polygons, 12, 20, 2)
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 12, 20)))
    np.testing.assert_array_equal(annotation_mask({"segmentation": checked}, 12, 20), expected)


@pytest.mark.parametrize(
    ("rle", "text"),
    [
        ({"size": [4, 5], "counts": [3, 2]}, "add up to 5, its image has 20"),
        ({"size": [4, 5], "counts": [3, -2, 19]}, "count below 0"),
        ({"size": [4, 5], "counts": [3, 10**30]}, "count below 0 or beyond"),
        ({"size": [4, 5], "counts": [3, 2.5]}, "expected a string or a list"),
        ({"size": [4, 5], "counts": None}, "expected a string or a list"),
        ({"size": [5, 4], "counts": [3, 17]}, "its image is"),
        ({"size": "4x5", "counts": [3, 17]}, "expected .height, width."),
        ({"size": [4, 5], "counts": ""}, "its string is empty"),
        ({"size": [4, 5], "counts": "P"}, "cut off"),
        ({"size": [4, 5], "counts": "ooooooooooooo0"}, "too large"),
        ({"size": [4, 5], "counts": "\x7f0"}, "characters that RLE never uses"),
        ({"size": [4, 5], "counts": "ü0"}, "characters that RLE never uses"),
        ({"size": [4, 5], "counts": "~5"}, "characters that RLE never uses"),
        ({"size": [4, 5], "counts": [20]}, "no pixels"),
    ],
)
def test_bad_rle_says_why(rle: dict[str, object], text: str) -> None:
    with pytest.raises(SegmentationError, match=text):
        check_rle(rle, 4, 5)


@pytest.mark.parametrize(
    ("polygons", "text"),
    [
        ([], "no polygon"),
        ([[1, 1, 2, 2]], "no area"),
        ([[1, 1, 2, 2, 3, 3, 4]], "7 numbers"),
        ([[1, 1, 2, "3", 3, 3]], "expected a list of numbers"),
        ([[[1, 1], [2, 2], [3, 3]]], "expected a list of numbers"),
        ([5], "expected a list of numbers"),
        ([[1, 1, 2, 2, 3, 3]], "no area"),
        ([[1, 1, 30, 2, 3, 9]], "a polygon reaches"),
        ([[-9, 1, 3, 2, 3, 9]], "a polygon reaches"),
        ([[float("nan"), 1, 3, 2, 3, 9]], "not finite"),
        ([[float("nan"), 1, 10**400, 2, 3, 9]], "not finite"),
        ([[1, 1, float("inf"), 2, 3, 9]], "a polygon reaches"),
        ([[1, 1, 10**400, 2, 3, 9]], "a polygon reaches"),
    ],
)
def test_bad_polygons_say_why(polygons: list[object], text: str) -> None:
    with pytest.raises(SegmentationError, match=text):
        check_polygons(polygons, 12, 20, 2)


def test_rounding_beyond_the_border_is_fine() -> None:
    assert check_polygons([[-1.5, 0, 21.9, 0, 10, 13.9]], 12, 20, 2)


def test_random_strings_are_decoded_or_refused() -> None:
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(3000):
        text = "".join(map(chr, rng.integers(40, 120, rng.integers(0, 8))))
        try:
            checked = check_rle({"size": [3, 4], "counts": text}, 3, 4)
        except SegmentationError:
            continue
        accepted += 1
        assert coco_mask.decode(checked).sum() == string_counts(text)[1::2].sum()
    for _ in range(2000):  # whole strings with one character changed
        mask = rng.random((9, 7)) < 0.5
        letters = list(to_rle(mask)["counts"])
        letters[rng.integers(len(letters))] = chr(rng.integers(40, 120))
        try:
            checked = check_rle({"size": [9, 7], "counts": "".join(letters)}, 9, 7)
        except SegmentationError:
            continue
        accepted += 1
        assert coco_mask.decode(checked).sum() == coco_mask.area(checked)
    assert accepted


def test_boxes_are_the_tight_ones_of_the_pixels() -> None:
    masks = np.zeros((3, 20, 30), dtype=bool)
    masks[0, 4:9, 2:30] = True
    masks[1, 19, 7] = True
    rows, columns = np.nonzero(masks[0])
    truth = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    boxes = boxes_of([to_rle(mask) for mask in masks])
    assert boxes.tolist() == [truth, [7, 19, 8, 20], [0, 0, 0, 0]]
    assert boxes_of([]).shape == (0, 4)
