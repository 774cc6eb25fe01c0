"""Boxes against torchvision, loops and cases done by hand."""

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from gdseg.losses.boxes import cxcywh_to_xyxy, giou, iou, masks_to_boxes_cxcywh, xyxy_to_cxcywh


def random_boxes(count):
    return cxcywh_to_xyxy(torch.rand(count, 4) * 0.4 + 0.2)


def test_formats_round_trip():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    assert xyxy_to_cxcywh(boxes).tolist() == [[20, 40, 20, 40]]
    assert cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)).equal(boxes)


def test_pairs_equal_torchvision():
    a, b = random_boxes(7), random_boxes(5)
    torch.testing.assert_close(iou(a[:, None], b[None]), box_iou(a, b), rtol=0, atol=1e-4)
    torch.testing.assert_close(giou(a[:, None], b[None]), generalized_box_iou(a, b), rtol=0, atol=1e-4)
    torch.testing.assert_close(giou(a[:5], b), giou(a[:, None], b[None]).diagonal())


def test_boxes_by_hand():
    a = torch.tensor([0.0, 0.0, 2.0, 2.0])
    b = torch.tensor([1.0, 1.0, 3.0, 3.0])
    assert iou(a, b).item() == pytest.approx(1 / 7, rel=1e-5)
    assert giou(a, b).item() == pytest.approx(1 / 7 - 2 / 9, rel=1e-5)
    assert giou(a, a).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.3, 0.0], [0.5, 0.5, -0.1, -0.1]])
def test_boxes_without_area_are_safe(box):
    a = torch.tensor([box], requires_grad=True)
    value = giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(torch.tensor([box, [0.2, 0.2, 0.1, 0.1]])))
    value.sum().backward()
    assert value.isfinite().all()
    assert a.grad.isfinite().all()
    assert iou(a, a).item() == 0


def test_boxes_of_masks_are_tight():
    torch.manual_seed(0)
    masks = torch.rand(40, 11, 17) < 0.02
    masks[0] = True
    expected = torch.zeros(40, 4)
    for i, mask in enumerate(masks):
        rows, columns = mask.nonzero(as_tuple=True)
        if len(rows):
            x0, x1, y0, y1 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
            expected[i] = torch.tensor([(x0 + x1) / 34, (y0 + y1) / 22, (x1 - x0) / 17, (y1 - y0) / 11])
    assert (expected[:, 2] == 0).any()
    found = masks_to_boxes_cxcywh(masks)
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32
    assert masks_to_boxes_cxcywh(torch.zeros(0, 4, 4, dtype=torch.bool)).shape == (0, 4)
