"""The table of scores: what a row and a column stand for, and that it fits a terminal of 80 columns."""

from rich.console import Console

from gdseg.cli import console
from gdseg.eval.scores import Scores
from gdseg.eval.tables import main_table, percent

PANOPTIC = {
    f"{prefix}{key}{share}": value / 100
    for value, (prefix, share, key) in enumerate(
        (p, s, k) for p in ("", "boundary_") for s in ("", "_things", "_stuff") for k in ("pq", "sq", "rq")
    )
}


def test_panoptic_quality_has_a_row_a_share_and_fits_80_columns(monkeypatch) -> None:
    narrow = Console(width=80, record=True)
    monkeypatch.setattr(console, "out", narrow)
    scores = Scores(PANOPTIC, {})
    title, header, rows = main_table({"pretrained teacher": scores, "EMA teacher": scores})
    assert header == ["", "PQ", "SQ", "RQ"]
    assert rows[0] == ["pretrained teacher", "0.0", "1.0", "2.0"]
    assert rows[1] == ["pretrained teacher things", "3.0", "4.0", "5.0"]
    assert rows[-1] == ["EMA teacher boundary stuff", "15.0", "16.0", "17.0"]
    console.print_table(title, header, rows)
    text = narrow.export_text()
    assert "pretrained teacher boundary things" in text
    assert "…" not in text


def test_what_was_not_measured_has_neither_row_nor_column() -> None:
    scores = Scores({"pq": 0.5, "sq": 0.6, "rq": float("nan")}, {})
    assert main_table({"student": scores})[2] == [["student", "50.0", "60.0", "-"]]
    maps = Scores({"miou": 0.25, "pixel_accuracy": 0.75}, {})
    assert main_table({"student": maps})[1:] == (
        ["", "mIoU", "pixel accuracy"],
        [["student", "25.0", "75.0"]],
    )


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    assert [percent(x) for x in (-0.0004, -0.001, 0.1234, float("nan"), None)] == [
        "0.0",
        "-0.1",
        "12.3",
        "-",
        "-",
    ]
