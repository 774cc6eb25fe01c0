"""IoU of masks against counting in int64."""

import numpy as np
import pytest
import torch

from gdseg.models.mask_iou import mask_iou, shared_pixels


@pytest.mark.parametrize("size", [(7, 9), (300, 500)])  # less than a chunk of pixels, and several
def test_iou_is_that_of_counted_pixels(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((3, *size)) < 0.4, rng.random((5, *size)) < 0.6
    b[0] = False
    shared = np.array([[(x & y).sum() for y in b] for x in a])
    union = np.array([[(x | y).sum() for y in b] for x in a])
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    assert shared_pixels(left, right).tolist() == shared.tolist()
    np.testing.assert_allclose(mask_iou(left, right), shared / union, rtol=1e-6)
    assert mask_iou(left[:0], right).shape == (0, 5)
    assert mask_iou(right[:1], right[:1]).tolist() == [[0.0]]  # nothing and nothing
