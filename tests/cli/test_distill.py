"""`gdseg distill --dry-run`: whose labelled images a student learns from."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Gdseg = Callable[..., Result]


@pytest.fixture
def shown(gdseg: Gdseg, tiny_settings: list[str], tiny_data: Path) -> Callable[..., str]:
    """What a dry run says after a teacher was trained in runs/T on half of tiny_data."""
    settings = [*tiny_settings, f"data.root={tiny_data}", "data.ratio=0.5", "train.steps=1"]
    trained = gdseg("pretrain", "--out", "runs/T", "-q", *settings)
    assert trained.exit_code == 0, trained.exception

    def dry(*arguments: str | Path) -> str:
        result = gdseg("distill", "--teacher", "runs/T", "--dry-run", *arguments)
        assert result.exit_code == 0, result.exception
        return " ".join(result.stdout.split())

    return dry


def test_they_are_the_teachers_unless_others_are_named(shown: Callable[..., str], tmp_path: Path) -> None:
    text = shown()
    assert "runs/T/split.json" in text
    assert "labelled 6 images" in text
    for other in (["data.ratio=0.25"], ["--ratio", "0.25"]):
        text = shown(*other)
        assert "split: null" in text
        assert "labelled 3 images" in text
    (tmp_path / "two.txt").write_text("1\n2\n")
    assert "split: two.txt" in shown("data.split=two.txt", "data.ratio=1")


def test_a_recipe_of_its_own_may_name_them(shown: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("1\n2\n")
    text = (tmp_path / "runs" / "T" / "recipe.yaml").read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text)
    assert "runs/T/split.json" in shown("-r", own)
    own.write_text(text.replace("split: null", "split: two.txt").replace("ratio: 0.5", "ratio: 1.0"))
    text = shown("-r", own)
    assert "split: two.txt" in text
    assert "labelled 2 images" in text
