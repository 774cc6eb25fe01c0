"""Pictures checked by what colour lies where."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from gdseg.data.rle import to_rle
from gdseg.structures import Predictions
from gdseg.view.colours import class_colour, text_colour
from gdseg.view.draw import READABLE, displayable, draw, font, label_text, readable_size
from gdseg.view.sheets import CELL, Sheet, shorten, spread, thumbnail_size, wrap


def found(
    size: tuple[int, int], *boxes: tuple[int, int, int, int], labels: list[int] | None = None
) -> Predictions:
    """Rectangles x0, y0, x1, y1."""
    rles = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros(size, dtype=np.uint8)
        mask[y0:y1, x0:x1] = 1
        rles.append(to_rle(mask))
    n = len(boxes)
    labels = labels if labels is not None else [0] * n
    xyxy = torch.tensor(boxes).float().reshape(-1, 4)
    return Predictions(
        1, size, torch.tensor(labels, dtype=torch.int64), torch.full((n,), 0.5), xyxy, rles, ["cat", "dog"]
    )


def grey(height: int, width: int) -> Any:
    return np.full((height, width, 3), 100, dtype=np.uint8)


def test_colour_lies_where_the_mask_is() -> None:
    picture = np.asarray(draw(grey(700, 900), found((700, 900), (100, 200, 400, 500)), labels=False)).astype(
        int
    )
    colour = np.array(class_colour(0))
    inside = 0.55 * 100 + 0.45 * colour
    assert np.abs(picture[210:490, 110:390] - inside).max() <= 1
    assert (picture[200:500, 100] == colour).all()  # the outline is the mask's own edge
    assert (picture[499, 100:400] == colour).all()
    outside = np.ones((700, 900), dtype=bool)
    outside[200:500, 100:400] = False
    assert (picture[outside] == 100).all()


def test_small_objects_lie_on_large_ones_whatever_their_order() -> None:
    big, small = (0, 0, 700, 700), (300, 300, 400, 400)
    for boxes, labels in (((big, small), [0, 1]), ((small, big), [1, 0])):
        picture = np.asarray(draw(grey(700, 700), found((700, 700), *boxes, labels=labels), labels=False))
        assert tuple(picture[300, 350]) == class_colour(1)


def test_ignored_is_dashed_and_faint() -> None:
    ignored = found((700, 700), (100, 100, 600, 600))
    picture = np.asarray(draw(grey(700, 700), found((700, 700)), ignored, labels=False)).astype(int)
    on = (picture[100, 100:600] == class_colour(0)).all(1)
    assert 0.4 < on.mean() < 0.6
    assert np.abs(picture[350, 350] - (0.85 * 100 + 0.15 * np.array(class_colour(0)))).max() <= 1


def test_what_a_sheet_drops_is_an_outline_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lie on each other."""
    boxes = [(100, 100, 600, 600)] * 9
    sheet = Sheet("title")
    sheet.add(grey(CELL, CELL), found((CELL, CELL)), "caption", dropped=found((700, 700), *boxes))
    picture = np.asarray(sheet.cells[0][0]).astype(int)
    edge, size = (picture == class_colour(0)).all(2), CELL / 700
    assert 0.2 < edge[round(100 * size), round(110 * size) : round(590 * size)].mean() < 0.5
    assert (
        picture[round(120 * size) : round(580 * size), round(120 * size) : round(580 * size)] == 100
    ).all()


def test_labels_are_written_on_a_plate_of_the_class_colour() -> None:
    with_label = np.asarray(draw(grey(700, 700), found((700, 700), (100, 200, 600, 600)))).astype(int)
    plate = with_label[175:199, 100:220].reshape(-1, 3)
    is_plate = (plate == class_colour(0)).all(1)
    assert 0.4 < is_plate.mean() < 1  # the rest is text
    assert (with_label[:170] == 100).all()


def test_label_text() -> None:
    predictions = found((9, 9), (0, 0, 3, 3), (0, 0, 4, 4), labels=[1, 5])
    assert label_text(predictions, 0) == "dog 0.50"
    assert label_text(predictions, 1) == "0.50"
    predictions.scores[0] = float("nan")
    assert label_text(predictions, 0) == "dog"
    regions = found((9, 9), (0, 0, 3, 3), labels=[1])
    regions.semantic = torch.zeros(9, 9)
    assert label_text(regions, 0) == "dog"  # the pixels of a class have no score in common


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (63, 47, 64, 48), (0, 0, 64, 48), (5, 0, 6, 48)])
def test_small_images_are_enlarged_and_masks_stay_in_place(box: tuple[int, int, int, int]) -> None:
    picture = draw(grey(48, 64), found((48, 64), box), labels=False)
    assert picture.size == readable_size(64, 48) == (640, 480)
    painted = (np.asarray(picture) != 100).any(2)
    expected = np.zeros((480, 640), dtype=bool)
    x0, y0, x1, y1 = (10 * side for side in box)
    expected[y0:y1, x0:x1] = True
    assert (painted != expected).mean() < 0.002
    assert painted.any()


def test_sizes() -> None:
    assert readable_size(READABLE, 10) == (READABLE, 10)
    assert readable_size(639, 100) == (1278, 200)
    assert readable_size(4000, 3000) == (4000, 3000)
    assert thumbnail_size(grey(3000, 4000)) == (CELL, CELL * 3 // 4)
    assert thumbnail_size(grey(5000, 1)) == (1, CELL)


def test_twelve_megapixels_and_a_hundred_instances_in_bounded_time() -> None:
    size = (3000, 4000)
    boxes = [(40 * i % 3500, 29 * i % 2500, 40 * i % 3500 + 300, 29 * i % 2500 + 300) for i in range(100)]
    predictions = found(size, *boxes, labels=[i % 40 for i in range(100)])
    start = time.process_time()
    assert draw(grey(*size), predictions).size == (4000, 3000)
    assert time.process_time() - start < 15


def test_nothing_found_and_empty_masks() -> None:
    assert (np.asarray(draw(grey(700, 700), found((700, 700)))) == 100).all()
    assert (np.asarray(draw(grey(700, 700), found((700, 700), (3, 3, 3, 3)))) == 100).all()


def test_displayable() -> None:
    assert displayable(torch.zeros(3, 4, 5, dtype=torch.uint8)).shape == (4, 5, 3)
    assert displayable(np.full((4, 5, 1), 7, np.uint8)).tolist() == np.full((4, 5, 3), 7).tolist()
    assert displayable(torch.zeros(6, 4, 5, dtype=torch.uint8)).shape == (4, 5, 3)
    deep = displayable(torch.linspace(0, 60_000, 400).reshape(1, 20, 20))
    assert (deep.min(), deep.max()) == (0, 255)
    holed = torch.linspace(0, 1, 100).reshape(1, 10, 10)
    holed[0, 0, 0] = float("nan")
    assert displayable(holed)[0, 0].tolist() == [0, 0, 0]


def test_colours_are_fixed_different_and_readable() -> None:
    assert class_colour(0) == (230, 159, 0)  # Okabe and Ito's orange
    colours = [class_colour(i) for i in range(60)]
    assert len(set(colours)) == 60
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)
    assert text_colour((255, 255, 0)) == (0, 0, 0)
    assert text_colour((0, 0, 80)) == (255, 255, 255)


def test_the_font_knows_other_alphabets() -> None:
    def ink(text: str) -> bytes:
        image = Image.new("L", (60, 30))
        ImageDraw.Draw(image).text((2, 2), text, fill=255, font=font(20))
        return image.tobytes()

    assert ink("ж") != ink("ω") != ink("\uffff")


def test_sheet_has_every_thumbnail_and_a_legend() -> None:
    sheet = Sheet("Title " * 40, columns=3)
    for i in range(5):
        sheet.add(
            grey(100, 200 - 30 * i),
            found((100, 200 - 30 * i), (10, 10, 60, 60), labels=[i % 2]),
            f"image {i}",
        )
    page = sheet.render()
    assert sheet.counts == {0: 3, 1: 2}
    assert page.width == 3 * (CELL + 8) + 8
    pixels = np.asarray(page)
    for label in (0, 1):
        assert (pixels[-40:, : page.width // 2] == class_colour(label)).all(2).sum() > 100
    assert Sheet("empty").render().width > 0


def test_spread_shorten_wrap() -> None:
    assert spread(3, 10) == [0, 1, 2]
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(10, 1) == [0]
    assert spread(5, 0) == []
    assert shorten("short", 200, 13) == "short"
    cut = shorten("a_very_long_file_name_that_never_ends_0001.png", 120, 13)
    assert "…" in cut
    assert font(13).getlength(cut) <= 120
    assert wrap("", 100, 13) == []
    assert " ".join(wrap("a b c " * 30, 100, 13)).split() == ["a", "b", "c"] * 30


def test_dropped_is_a_dotted_outline_alone() -> None:
    size = (640, 640)
    box = (100, 100, 500, 500)
    parts = {"dropped": found(size, box)}
    picture = np.asarray(draw(grey(*size), found(size), **parts, labels=False))
    assert (picture[110:490, 110:490] == 100).all()
    coloured = (picture == class_colour(0)).all(2)
    on_edge, dashed = (
        coloured[100, 100:500].mean(),
        draw(grey(*size), found(size), found(size, box), labels=False),
    )
    assert 0.25 < on_edge < 0.42
    assert (np.asarray(dashed) == class_colour(0)).all(2)[100, 100:500].mean() > 0.45


def test_of_no_class_is_grey_and_has_no_name() -> None:
    size = (640, 640)
    nothing = found(size, (100, 100, 500, 500), labels=[-1])
    assert label_text(nothing, 0) == "0.50"
    assert class_colour(-1) == (128, 128, 128)
