"""Curves from whole, partial and broken logs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gdseg.errors import DataError
from gdseg.view.colours import class_colour
from gdseg.view.plots import _by_kind, plot_run, read_lines


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
    write(tmp_path / "run.json", {"burn_in_steps": 25})
    assert plot_run(tmp_path, tmp_path / "c.png") == ["losses", "AP", "pseudo-labels"]
    assert {class_colour(4), class_colour(5), class_colour(2)} <= colours(tmp_path / "c.png")
    assert (102, 102, 102) in colours(tmp_path / "c.png")  # where burn-in ends


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
