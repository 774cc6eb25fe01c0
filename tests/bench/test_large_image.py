"""`gdseg bench predict`: the image it makes and what it reports, in one process and small."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gdseg.bench import large_image as bench
from gdseg.cli.app import app
from gdseg.recipe import Recipe


@pytest.fixture
def small(one_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "HEIGHT", 150)
    monkeypatch.setattr(bench, "WIDTH", 200)


def test_the_large_image_is_the_same_each_time_and_cut_to_size() -> None:
    image = bench.large_image(310, 420)
    assert (image.shape, image.dtype) == ((310, 420, 3), np.uint8)
    assert np.array_equal(image, bench.large_image(310, 420))
    assert image[300:, 400:].std() > 0


def test_whole_and_tiles_are_measured(small: None, tiny_recipe: Callable[..., Recipe]) -> None:
    rows = bench.bench_predict(tiny_recipe("maskdino", "inference.tile=64"), torch.device("cpu"))
    assert [row.what for row in rows] == ["whole", "tiles of 64"]
    assert all(row.seconds > 0 and row.bytes_peak >= row.bytes_before > 1e6 for row in rows)
    assert rows[1].found > rows[0].found > 0


def test_the_command(small: None, tiny_settings: list[str]) -> None:
    arguments = ["bench", "predict", *tiny_settings, "inference.tile=64", "--json", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    assert [row["what"] for row in json.loads(result.stdout)["predict"]] == ["whole", "tiles of 64"]
    table = CliRunner().invoke(app, [*arguments[:-3], "--device", "cpu"])
    assert "200 x 150" in table.stdout
    assert "CPU seconds" in table.stdout
