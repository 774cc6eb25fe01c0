"""Curves from whole, partial and broken logs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gdseg.errors import DataError
from gdseg.view.budget_plot import plot_budget
from gdseg.view.colours import class_colour
from gdseg.view.plots import _by_kind, plot_run, read_lines, run_panels


def write(path: Path, *rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def colours(path: Path) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).tolist()}


def test_a_whole_run(tmp_path: Path) -> None:
    steps = range(10, 60, 10)
    losses = {"mask_0": 2.0, "mask": 1.0, "class": 0.5, "mask_unlabelled": 3.0}
    metrics = {"loss": 9.0, "losses": losses, "lr": 1e-4, "pseudo_per_image": 4.0, "pseudo_score": 0.8}
    write(tmp_path / "metrics.jsonl", *({"step": s, **metrics} for s in steps))
    rows = [
        {"step": s, "role": r, "mask_ap": 0.1, "box_ap": 0.2}
        for s in (30, 50)
        for r in ("teacher", "student")
    ]
    write(tmp_path / "eval.jsonl", *rows)
    write(tmp_path / "run.json", {"burn_in_steps": 25, "verb": "distill"})
    assert plot_run(tmp_path, tmp_path / "c.png") == ["losses", "AP", "pseudo-labels"]
    assert {class_colour(4), class_colour(5), class_colour(2)} <= colours(tmp_path / "c.png")
    assert (102, 102, 102) in colours(tmp_path / "c.png")  # where burn-in ends
    axes = Figure().subplots()
    run_panels(tmp_path)["AP"](axes)
    names = {text.get_text().removesuffix(" AP") for text in axes.get_legend().get_texts()}
    assert names == {f"{name} {kind}" for name in ("EMA teacher", "student") for kind in ("mask", "box")}


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    write(
        tmp_path / "metrics.jsonl",
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": None, "losses": "?"},
        {"loss": 1},
        7,
    )
    assert plot_run(tmp_path, tmp_path / "a.png") == ["losses"]
    (tmp_path / "metrics.jsonl").unlink()
    write(
        tmp_path / "eval.jsonl", {"step": 1, "mask_ap": 0.5}, {"step": 2, "role": "teacher", "mask_ap": None}
    )
    assert plot_run(tmp_path, tmp_path / "b.png") == ["AP"]


@pytest.mark.parametrize(("step", "burn_in"), [(1, None), (600, None), (600, 400)])
def test_a_single_evaluation_has_whole_steps_and_a_whole_dot(
    tmp_path: Path, step: int, burn_in: int | None
) -> None:
    write(tmp_path / "eval.jsonl", {"step": step, "role": "student", "mask_ap": 0.0})
    write(tmp_path / "run.json", {"burn_in_steps": burn_in})
    axes = Figure().subplots()
    run_panels(tmp_path)["AP"](axes)
    low, high = axes.get_xlim()
    assert low < min(step, burn_in or step)
    assert high > step
    assert all(tick == round(tick) for tick in axes.get_xticks())
    assert axes.get_ylim()[0] == 0
    dot = axes.lines[0]
    assert (dot.get_marker(), dot.get_ydata()[0], dot.get_clip_on()) == ("o", 0, False)


def test_the_dots_of_a_budget_of_one_ratio_are_whole(tmp_path: Path) -> None:
    """One count, a score of 0: as many pixels of the dot below the axis as above it."""
    score = {"mean": 0.0, "std": None}
    row = {"variant": "v", "labelled": 12, "teacher": score, "labels": None, "student": None, "all": None}
    plot_budget([row], "mask_ap", [tmp_path / "b.png"])
    picture = np.asarray(Image.open(tmp_path / "b.png").convert("RGB"))
    dot = (picture == class_colour(4)).all(2)
    rows, columns = np.nonzero(dot[:, : dot.shape[1] // 2 + 60])
    assert np.ptp(rows[columns == np.median(columns)]) >= 7  # 4 points at 150 dots an inch are 8 pixels


def test_losses_within_a_decade_have_numbers_beside_them(tmp_path: Path) -> None:
    write(
        tmp_path / "metrics.jsonl", *({"step": n, "loss": 60.0 - n, "losses": {"box": 3.0}} for n in (1, 20))
    )
    figure = Figure()
    axes = figure.subplots()
    run_panels(tmp_path)["losses"](axes)
    figure.canvas.draw()
    low, high = axes.get_ylim()
    shown = [float(tick.get_text()) for tick in axes.get_yticklabels()]
    assert {5, 10, 20, 50} <= {value for value in shown if low <= value <= high}


def test_nothing_logged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing yet"):
        plot_run(tmp_path, tmp_path / "c.png")


def test_broken_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(
        '{"step": 1}\n{"step": \nnull\n{"step": "x"}\n{"step": 2.5}\n{"step": 3, "\\ud800": 1}\n'
    )
    assert [row["step"] for row in read_lines(tmp_path / "m.jsonl")] == [1, 2.5]
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\0")
    assert read_lines(tmp_path / "m.jsonl") == []


def test_terms_are_added_by_kind() -> None:
    terms = {"mask_0": 1.0, "mask_12": 2.0, "mask": 3.0, "mask_0_dn": 10.0, "mask_interm": 4.0}
    terms |= {"mask_0_unlabelled": 100.0, "class": None}
    assert _by_kind(terms) == {"mask": 10.0, "mask dn": 10.0, "mask (unlabelled)": 100.0}
