"""gdseg predict: every format, unreadable files, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from gdseg.cli.predict import split_checkpoint
from gdseg.data.images import _warn_of_deep_images
from gdseg.errors import CheckpointError, DataError, UsageError

Gdseg = Callable[..., Result]


def test_default_is_coco_and_overlays(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    result = gdseg("predict", small_data / "val", "--conf", 0)
    assert result.exit_code == 0, result.exception
    assert sorted(p.name for p in Path("predictions/overlay").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    document = json.loads(Path("predictions/predictions.json").read_text())
    assert [i["file_name"] for i in document["images"]] == ["0.png", "1.png", "2.png"]
    assert {c["id"] for c in document["categories"]} == {5, 9}
    assert document["annotations"]
    assert document["info"]["images"] == str(small_data / "val")
    assert "objects in 3 images" in result.stdout
    assert result.stderr.startswith("the last run is taken: runs/R/checkpoints/best.safetensors\n")
    again = gdseg("predict", "runs/R", small_data / "val", "--overwrite", "--conf", 1)
    assert "the last run" not in again.stderr
    assert "0 objects in 3 images (none scored above 1: lower --conf); see" in again.stdout


def test_all_formats_and_json(gdseg: Gdseg, tiny_checkpoint: Path, small_data: Path) -> None:
    formats = [word for f in ("png", "labelme", "yolo", "coco") for word in ("--format", f)]
    inputs = [small_data / "val" / "0.png", str(small_data / "train" / "[01].png")]
    result = gdseg("predict", tiny_checkpoint, *inputs, *formats, "--conf", 0, "--out", "o", "--json")
    assert result.exit_code == 0, result.exception
    summary = json.loads(result.stdout)
    assert (summary["images"], summary["failed"]) == (3, [])
    assert summary["objects"] == sum(summary["classes"].values()) > 0
    files = {str(p.relative_to("o")) for p in Path("o").rglob("*") if p.is_file()}
    assert {"predictions.json", "yolo/classes.txt", "png/0.png", "png/0-2.png", "labelme/1.json"} <= files
    names = [i["file_name"] for i in json.loads(Path("o/predictions.json").read_text())["images"]]
    assert names == ["val/0.png", "train/0.png", "train/1.png"]


def test_a_prediction_can_be_scored(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    assert gdseg("predict", small_data / "val", "--conf", 0, "--format", "coco", "-q").exit_code == 0
    direct = json.loads(gdseg("eval", "--role", "student", "--data", small_data, "--json").stdout)
    result = gdseg("eval", "--pred", "predictions/predictions.json", "--data", small_data, "--json")
    scored = json.loads(result.stdout)["results"]["metrics"]
    assert scored == pytest.approx(direct["student"]["metrics"], nan_ok=True)


def test_unreadable_files_do_not_stop_the_rest(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    (small_data / "val" / "1.png").write_bytes(b"no image")
    Path("empty.jpg").write_bytes(b"")
    result = gdseg("predict", small_data / "val", "empty.jpg")
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 3
    assert "2 of 4 images" in str(result.exception)
    assert "1.png" in result.stderr
    assert "empty.jpg" in result.stderr
    document = json.loads(Path("predictions/predictions.json").read_text())
    assert [i["file_name"] for i in document["images"]] == ["small/val/0.png", "small/val/2.png"]


def test_a_full_folder_is_refused(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    Path("predictions").mkdir()
    Path("predictions/mine.txt").write_text("")
    assert isinstance(gdseg("predict", small_data / "val").exception, UsageError)
    assert gdseg("predict", small_data / "val", "--overwrite", "-q").exit_code == 0
    assert Path("predictions/mine.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["small/val", "--format", "bmp"], UsageError),
        (["runs/R"], UsageError),
        (["gone.safetensors", "small/val"], CheckpointError),
        (["empty"], DataError),
        (["small/*.gif"], DataError),
    ],
)
def test_wrong_use(gdseg: Gdseg, small_run: Path, small_data: Path, arguments: list[str], kind: type) -> None:
    Path("empty").mkdir()
    assert isinstance(gdseg("predict", *arguments).exception, kind)


def test_the_first_word_is_a_checkpoint_only_if_it_looks_like_one(small_run: Path, small_data: Path) -> None:
    for word, is_checkpoint in (
        ("net.safetensors", True),
        (small_run, True),
        (small_data, False),
        ("a.png", False),
    ):
        assert split_checkpoint([str(word), "x"])[0] == (str(word) if is_checkpoint else None)


def test_a_call_without_a_readable_image_leaves_nothing_in_the_way(
    gdseg: Gdseg, small_run: Path, small_data: Path
) -> None:
    """Wrong inputs are said before anything is said of --out, and no folder is made for nothing."""
    Path("broken.png").write_bytes(b"no image")
    Path("empty.jpg").write_bytes(b"")
    for verb, made in (("predict", "predictions"), ("pseudo-label", "labels.json")):
        mistyped = gdseg(verb, small_data / "val" / "0.png", "gone.jpg")
        assert isinstance(mistyped.exception, DataError)
        assert mistyped.exception.what == "no such file or folder"
        assert mistyped.exception.where == "gone.jpg"
        assert "the last run is taken" not in mistyped.stderr  # no network was looked for yet
        assert not Path(made).exists()
        result = gdseg(verb, "broken.png", "empty.jpg", "--json")
        assert isinstance(result.exception, DataError)
        assert "2 of 2 images could not be used; first: cannot read the image" in result.exception.what
        assert (result.exception.where, result.exception.hint) == ("broken.png", "leave it away")
        assert "2 of 2 images" in str(result.exception)
        assert json.loads(result.stdout)["out"] is None
        assert not Path(made).exists()
    assert gdseg("predict", small_data / "val", "-q").exit_code == 0
    assert isinstance(gdseg("predict", "*.gif").exception, DataError)  # not that `predictions` is there


def test_weights_among_the_images_are_named(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    Path("net.pth").write_bytes(b"")
    image = small_data / "val" / "0.png"
    for arguments, words in (
        (["net.pth", image], "gdseg convert net.pth --out net.safetensors"),
        (["runs/R", "net.pth"], "gdseg convert net.pth --out net.safetensors"),
        ([image, "net.safetensors"], "name it first: net.safetensors"),
        ([image, "runs/R"], "name it first: runs/R"),
        (["runs/R", "net.safetensors", image], "a second checkpoint; the first is runs/R"),
    ):
        error = gdseg("predict", *arguments).exception
        assert isinstance(error, CheckpointError)
        assert words in str(error)
    assert not Path("predictions").exists()


def test_the_file_says_from_which_score_on_it_was_written(
    gdseg: Gdseg, small_run: Path, small_data: Path
) -> None:
    pred = "predictions/predictions.json"

    def written(*flags: object) -> tuple[float, list[float]]:
        result = gdseg("predict", small_data / "val", "--format", "coco", "--overwrite", *flags)
        assert result.exit_code == 0, result.exception
        document = json.loads(Path(pred).read_text())
        return document["info"]["conf"], [a["score"] for a in document["annotations"]]

    def said(verb: str, *flags: object) -> str:
        result = gdseg(verb, *flags)
        assert result.exit_code == 0, result.exception
        return result.output

    assert written()[0] == 0.5
    assert "AP counts lower ones" in said("eval", "--pred", pred, "--data", small_data)
    drawn = "--out", "a.png", "--overwrite"
    assert "holds scores from 0.5 on" in said("visualize", pred, "--conf", 0.3, *drawn)
    assert "holds scores" not in said("visualize", pred, "--conf", 0.6, *drawn)
    assert "holds scores" not in said("visualize", pred, *drawn)
    conf, scores = written("--conf", 0)
    assert conf == 0
    assert "AP counts lower ones" not in said("eval", "--pred", pred, "--data", small_data)
    assert "holds scores" not in said("visualize", pred, "--conf", 0.3, *drawn)
    conf, fewer = written("--conf", sorted(scores)[len(scores) // 2])
    assert conf == min(fewer)
    assert len(fewer) < len(scores)


def test_grey_and_deep_images(gdseg: Gdseg, small_run: Path, tmp_path: Path) -> None:
    for name in ("deep", "other"):
        Image.fromarray(np.full((40, 50), 40_000, np.uint16)).save(tmp_path / f"{name}.png")
    Image.new("L", (50, 40)).save(tmp_path / "grey.jpg")
    _warn_of_deep_images.cache_clear()
    with pytest.warns(UserWarning, match="above 255.*neither scaled nor cut") as said:
        assert gdseg("predict", "grey.jpg", "deep.png", "other.png", "--conf", 0).exit_code == 0
    assert sum("above 255" in str(warning.message) for warning in said) == 1


def test_tiles_and_views_reach_the_network(gdseg: Gdseg, tiny_checkpoint: Path, small_data: Path) -> None:
    def found(*flags: str) -> list[dict[str, object]]:
        image = small_data / "val" / "0.png"
        result = gdseg(
            "predict", tiny_checkpoint, image, "--conf", 0, "--format", "coco", "--overwrite", *flags
        )
        assert result.exit_code == 0, result.exception
        return list(json.loads(Path("predictions/predictions.json").read_text())["annotations"])

    whole = found()
    assert found("--tile", "4000") == whole, "an image that fits in a tile is seen whole"
    assert found("--tile", "0", "--scales", "1", "--no-flip") == whole
    assert found("--tile", "40", "--overlap", "10") != whole
    assert found("--scales", "0.5,1", "--flip") != whole


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--tile", "40", "--overlap", "30"], "must not exceed half of inference.tile"),
        (["--tile", "-1"], "must be at least 0"),
        (["--tile", "1"], "must be at least 32 pixels, or 0"),
        (["--overlap", "some"], "must be a whole number, or auto"),
        (["--scales", "0"], "must be at least 0.1"),
        (["--scales", "a,b"], "must be a number"),
        (["--scales", ""], "inference.scales is empty"),
    ],
)
def test_wrong_tiles_and_scales(
    gdseg: Gdseg, tiny_checkpoint: Path, small_data: Path, flags: list[str], fault: str
) -> None:
    result = gdseg("predict", tiny_checkpoint, small_data / "val", *flags)
    assert isinstance(result.exception, UsageError)
    assert fault in str(result.exception)
    assert not Path("predictions").exists()
