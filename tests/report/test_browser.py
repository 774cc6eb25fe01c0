"""The page in a real browser: no message on the console, no request, no sideways scrolling, legible in both schemes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gdseg.cli.app import app

from .conftest import Browser

PHONE, DESKTOP = 390, 1280
# what reaches beyond the window and does not scroll in a box of its own
OVERFLOWING = """
return [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, svg") &&
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
# contrast (WCAG 2) of each text with the page's ground, the lowest first
CONTRAST = """
const level = rgb => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(v => v / 255)
  .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
const ground = level(getComputedStyle(document.body).backgroundColor);
return [...document.querySelectorAll("h1, h3, p, dt, dd, td, figcaption, summary, span, svg text")].map(e => {
  const ink = level(e.closest("svg") ? getComputedStyle(e).fill : getComputedStyle(e).color);
  return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05) }).sort((a, b) => a - b)"""


@pytest.fixture(scope="module")
def page(runs_of: Callable[[str], tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with hostile names, compared."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    runs = [str(run) for run in runs_of("instance")]
    result = CliRunner().invoke(app, ["report", *runs, "-o", str(out), "--images", "2", "-q"])
    assert result.exit_code == 0, result.exception
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_fits_is_legible_and_complains_of_nothing(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width, scheme)
    assert browser.ask("return innerWidth") == width
    assert browser.ask("return document.documentElement.scrollWidth") <= width
    assert browser.ask(OVERFLOWING) == []
    contrasts = browser.ask(CONTRAST)
    assert len(contrasts) > 100
    assert contrasts[0] > 4.5  # WCAG 2 AA
    ground = browser.ask("return getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    assert browser.log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert all(url == page.as_uri() or url.startswith("data:image/webp") for url in asked)


def test_pictures_are_drawn_and_names_did_nothing(browser: Browser, page: Path) -> None:
    browser.open(page, PHONE)
    loaded = browser.ask("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert len(loaded) > 10
    assert all(loaded)
    assert browser.ask("return document.scripts.length") == 0
    plots = browser.ask(
        "return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert len(plots) > 8
    assert min(plots) > 300
    # the recipe opens without a script
    browser.ask("document.querySelector('summary').click()")
    assert browser.ask("return document.querySelector('details pre').getBoundingClientRect().height") > 100
    assert browser.ask("return document.documentElement.scrollWidth") <= PHONE


def test_the_browser_would_notice(browser: Browser, tmp_path: Path) -> None:
    """What the checks above look for is found where it is."""
    bad = tmp_path / "bad.html"
    bad.write_text('<!DOCTYPE html><meta name="viewport" content="width=device-width"><body><p style="width: 900px">x'
                   '<img src="missing.png"><script>console.error("oh")</script>')  # fmt: skip
    browser.open(bad, PHONE)
    assert browser.ask("return document.documentElement.scrollWidth") > PHONE
    assert browser.ask(OVERFLOWING) != []
    assert len(browser.log("browser")) == 2
    assert "missing.png" in json.dumps(browser.log("performance"))
