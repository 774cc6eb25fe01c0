"""Blocks become HTML with every name escaped; pictures are data."""

import base64
import io

import numpy as np
import pytest
import torch
from markupsafe import Markup
from PIL import Image

from gdseg.data.rle import to_rle
from gdseg.structures import Predictions
from gdseg.view.colours import class_colour
from gdseg.view.gallery import Card, Tag, picture
from gdseg.view.page import Cell, Details, Facts, Figure, Figures, Gallery, Section, Table, Text, render

BAD = "<b onclick='x'>\"&"
SAFE = str(Markup.escape(BAD))


def one_mask(label: int) -> Predictions:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[10:30, 10:30] = 1
    boxes = torch.tensor([[10.0, 10, 30, 30]])
    return Predictions(1, (40, 60), torch.tensor([label]), torch.tensor([0.5]), boxes, [to_rle(mask)], [BAD])


def opened(uri: str) -> Image.Image:
    head, data = uri.split(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_every_place_for_a_name_escapes_it():
    pixels = np.full((40, 60, 3), 90, dtype=np.uint8)
    card = Card(BAD, [picture(pixels, one_mask(0), BAD)], [(BAD, [Tag(BAD, 0, "wrong")])])
    blocks = [
        Text(BAD, "note"),
        Facts([(BAD, BAD)]),
        Table(BAD, [BAD], [[BAD, Cell(BAD, 0.5, 3)]]),
        Figures([Figure(BAD, Markup("<svg></svg>"), BAD)]),
        Gallery(BAD, [card], [(BAD, 1)]),
        Details(BAD, BAD),
    ]
    page = render(BAD, [Section(BAD, blocks, [Section(BAD, [Text("\ud800")])]), Section("b")], BAD).decode()
    assert "<b onclick" not in page
    assert page.count(SAFE) == 24
    assert "<svg></svg>" in page
    assert "--share: 50.0%" in page
    assert "background: #{:02x}{:02x}{:02x}".format(*class_colour(3)) in page
    assert "?" in page  # what UTF-8 cannot hold


def test_a_single_section_needs_no_heading():
    page = render("t", [Section("only", [Text("x")])], "foot").decode()
    assert "<nav>" not in page
    assert "<h2>" not in page
    assert page.startswith("<!DOCTYPE html>")


def test_a_picture_is_small_and_shows_its_masks():
    pixels = np.full((400, 600, 3), 90, dtype=np.uint8)
    found = picture(pixels, one_mask(0), "x")
    assert (found.width, found.height) == (448, 299)
    drawn = opened(found.uri)
    assert drawn.size == (448, 299)
    colour = 0.55 * 90 + 0.45 * np.array(class_colour(0))
    middle = np.asarray(drawn.convert("RGB")).astype(float)[140:160, 120:180].mean((0, 1))
    assert middle == pytest.approx(colour, abs=12)  # of a lossy picture
