"""Plots for a page: the page's ink, ids of their own, text as text, nothing from elsewhere."""

import re
import xml.etree.ElementTree as ET

from markupsafe import Markup
from matplotlib import rcParams

from gdseg.view.svg import inline_svg


def line(axes):
    axes.plot([0, 1], [0, 2], label="<b>&\"' $\\frac{ 名")
    axes.set_ylim(0.5, 1)  # cut off: a clip path
    axes.grid()
    axes.legend()


def parse(svg):
    return ET.fromstring(svg.replace("xlink:href", "href"))


def test_text_is_text_and_ink_the_pages_own():
    before = dict(rcParams)
    svg = inline_svg(line, 'a "description"')
    assert isinstance(svg, Markup)
    root = parse(svg)
    texts = ["".join(e.itertext()) for e in root.iter("text")]
    assert any("<b>&\"' $\\frac{ 名" in text for text in texts)
    assert root.get("aria-label") == 'a "description"'
    assert "#010203" not in svg
    assert svg.count("currentColor") > 10
    assert not re.search(r"#000000|https?:", svg)
    assert dict(rcParams) == before


def test_two_plots_share_no_id():
    first, second = (inline_svg(line, "x") for _ in range(2))
    ids = [[e.get("id") for e in parse(svg).iter() if e.get("id")] for svg in (first, second)]
    assert len(set(ids[0])) == len(ids[0]) > 5
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip((first, second), ids, strict=True):
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
        assert used
        assert set(used) <= set(own)
