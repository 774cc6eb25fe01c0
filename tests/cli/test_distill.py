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

    def dry(*arguments: str | Path, teacher: str = "runs/T") -> str:
        result = gdseg("distill", "--teacher", teacher, "--dry-run", *arguments)
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
    for other in (["data.split=two.txt"], ["data.split=two.txt", "data.ratio=1"], ["--split", "two.txt"]):
        text = shown(*other)
        assert "split: two.txt" in text
        assert "labelled 2 images" in text


def test_an_override_replaces_the_split_that_the_teachers_recipe_names(
    shown: Callable[..., str], gdseg: Gdseg, tmp_path: Path
) -> None:
    (tmp_path / "two.txt").write_text("1\n2\n")
    recipe = "runs/T/recipe.yaml"
    trained = gdseg("pretrain", "-r", recipe, "--split", "two.txt", "--out", "runs/U", "-q")
    assert trained.exit_code == 0, trained.exception
    for other in (["data.ratio=0.25"], ["--ratio", "0.25"]):
        text = shown(*other, teacher="runs/U")
        assert "split: null" in text
        assert "labelled 3 images" in text
    assert "labelled 2 images" in shown(teacher="runs/U")


def test_no_split_leaves_the_ratio_alone(gdseg: Gdseg, tiny_settings: list[str], tiny_data: Path) -> None:
    settings = [item for item in tiny_settings if not item.startswith("data.ratio")]
    for none in (["data.split=null"], ["data.split="], ["data.split=a.txt", "data.split=null"]):
        result = gdseg("pretrain", "--dry-run", *none, f"data.root={tiny_data}", *settings)
        assert "labelled        1 image," in result.stdout  # of 12, at the recipe's 0.1


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


def test_validation_images_are_no_unlabelled_ones(shown: Callable[..., str], tiny_data: Path) -> None:
    val = len([*(tiny_data / "val").iterdir()])
    alone, too = shown(), shown("--unlabelled", tiny_data / "val")
    told = f"warning: {val} files among the unlabelled images equal validation images: left out"
    assert told in too
    assert told not in alone
    assert "unlabelled 12 images" in alone
    assert "unlabelled 12 images" in too
