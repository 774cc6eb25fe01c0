"""gdseg visualize: labels, predictions, pairs, curves."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from gdseg.errors import DataError, UsageError
from gdseg.view.colours import class_colour

Gdseg = Callable[..., Result]


def has_colour(path: str, label: int) -> bool:
    with Image.open(path) as picture:
        return bool((np.asarray(picture.convert("RGB")) == class_colour(label)).all(2).sum() > 50)


def test_labels_of_a_data_set(gdseg: Gdseg, small_data: Path) -> None:
    result = gdseg("visualize", small_data, "--out", "t.png", "--sample", 2, "--json")
    assert result.exit_code == 0, result.exception
    assert [Path(p).name for p in json.loads(result.stdout)["shown"]] == ["0.png", "2.png"]
    assert has_colour("t.png", 0)
    assert not has_colour("t.png", 1)  # image 1 is not shown
    assert gdseg("visualize", small_data, "--out", "v.jpg", "--part", "val").exit_code == 0


def test_keys_name_the_files_of_a_flat_folder(gdseg: Gdseg, small_data: Path) -> None:
    keys = ["data.val=annotations/instances_train.json", "data.val_images=train"]
    shown = json.loads(
        gdseg("visualize", small_data, "--part", "val", *keys, "--out", "k.png", "--json").stdout
    )
    assert {Path(p).parent.name for p in shown["shown"]} == {"train"}
    Path("p.json").write_text("[]")
    assert isinstance(gdseg("visualize", "p.json", *keys, "--out", "p.png").exception, UsageError)


def test_predictions_alone_and_beside_the_truth(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    assert gdseg("predict", small_data / "val", "--conf", 0, "--format", "coco", "-q").exit_code == 0
    pred = "predictions/predictions.json"
    assert gdseg("visualize", pred, "--out", "a.png", "--conf", 0).exit_code == 0
    assert gdseg("visualize", pred, "--data", small_data, "--out", "b.png").exit_code == 0
    with Image.open("a.png") as alone, Image.open("b.png") as pairs:
        assert pairs.width > alone.width
    Path("moved").mkdir()
    for image in (small_data / "val").iterdir():
        image.rename(Path("moved") / image.name)
    assert isinstance(gdseg("visualize", pred, "--out", "c.png").exception, DataError)


def test_a_file_of_predictions_is_parsed_once(
    gdseg: Gdseg, small_run: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gdseg("predict", small_data / "val", "--conf", 0.01, "--format", "coco", "-q").exit_code == 0
    pred, real, parsed = Path("predictions/predictions.json"), json.loads, []

    def loads(text: str | bytes, **options: object) -> object:
        parsed.append(text if isinstance(text, bytes) else text.encode())
        return real(text, **options)

    monkeypatch.setattr(json, "loads", loads)
    for words in (
        ["visualize", pred, "--out", "a.png"],
        ["visualize", pred, "--out", "b.png", "--data", small_data],
        ["eval", "--pred", pred, "--data", small_data],
    ):
        parsed.clear()
        assert gdseg(*words).exit_code == 0
        assert parsed.count(pred.read_bytes()) == 1


def test_notes_and_absurd_folders(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    assert gdseg("predict", small_data / "val", "--conf", 0.01, "--format", "coco", "-q").exit_code == 0
    pred = Path("predictions/predictions.json")
    words = ["visualize", pred, "--conf", 0, "--overwrite", "--out", "a.png"]
    assert "holds scores from 0.01 on" in gdseg(*words).stderr
    assert gdseg(*words, "--quiet").stderr == ""
    content = json.loads(pred.read_text())
    content["info"]["images"] = "x" * 5000
    pred.write_text(json.dumps(content))
    assert isinstance(gdseg(*words).exception, DataError)


@pytest.mark.parametrize("option", ["--data", "--part", "--sample", "--conf"])
def test_curves_have_no_options_of_data(gdseg: Gdseg, small_run: Path, option: str) -> None:
    value = {"--data": "small", "--part": "val"}.get(option, "1")
    for words in ([], ["runs/R"]):
        error = gdseg("visualize", *words, "--out", "x.png", option, value).exception
        assert isinstance(error, UsageError)
        assert error.where == option
    assert not Path("x.png").exists()


def test_curves(gdseg: Gdseg, small_run: Path) -> None:
    result = gdseg("visualize", small_run, "--out", "c.png", "--json")
    assert json.loads(result.stdout)["shown"] == ["losses"]
    assert Path("c.png").is_file()
    last = gdseg("visualize", "--out", "last.png")
    assert last.stderr.startswith("the last run is taken: runs/R\n")
    assert Path("last.png").read_bytes() == Path("c.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["nowhere", "--out", "x.png"], DataError),
        (["small", "--out", "x.txt"], UsageError),
        (["small", "--out", "old.png"], UsageError),
        (["small", "--out", "x.png", "--part", "test"], UsageError),
        (["list.json", "--out", "x.png"], DataError),
        (["broken.json", "--out", "x.png"], DataError),
    ],
)
def test_wrong_use(gdseg: Gdseg, small_data: Path, arguments: list[str], kind: type) -> None:
    Path("old.png").write_text("")
    Path("list.json").write_text("[]")
    Path("broken.json").write_text("[" * 100_000)
    assert isinstance(gdseg("visualize", *arguments).exception, kind)
    assert Path("old.png").read_text() == ""
