"""gdseg eval: networks of a run, files, results; what does not fit is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from gdseg.cli.eval import other_data
from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions
from gdseg.errors import CheckpointError, DataError, UsageError
from gdseg.eval import run
from gdseg.infer.image import infer_image
from gdseg.recipe import Data, Inference

Gdseg = Callable[..., Result]


def truth_as_results(data: Path) -> list[dict[str, Any]]:
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    keys = ("image_id", "category_id", "segmentation")
    return [{**{k: a[k] for k in keys}, "score": 0.5} for a in content["annotations"]]


def two_parts(annotations: Path, task: str) -> list[Path]:
    """The validation labels, half of the images each, as predictions: two json files or two folders."""
    parts = [annotations / name for name in ("a", "b")]
    maps = sorted((annotations / {"panoptic": "panoptic_val", "semantic": "val"}[task]).glob("*.png"))
    for number, part in enumerate(parts):
        part.mkdir()
        for path in maps[number::2]:
            shutil.copy(path, part)
    if task == "semantic":
        return parts
    truth = json.loads((annotations / "panoptic_val.json").read_text())
    for part in parts:
        mine = [a for a in truth["annotations"] if (part / a["file_name"]).is_file()]
        part.with_suffix(".json").write_text(json.dumps({"annotations": mine}))
    return [part.with_suffix(".json") for part in parts]


def test_the_last_run_both_roles(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    result = gdseg("eval", "--data", small_data, "--per-class")
    assert result.exit_code == 0, result.exception
    assert "EMA teacher mask" in result.stdout
    assert "student box" in result.stdout
    assert "dog" in result.stdout
    assert result.stderr.startswith("the last run is taken: runs/R\n")
    [written] = small_run.glob("eval-small-val-*.json")
    assert f"written to runs/R/{written.name}" in result.stderr
    document = json.loads(written.read_text())
    assert list(document) == ["EMA teacher", "student"]
    assert document["student"]["metrics"]["mask_ap"] is not None
    assert document["student"]["per_class"]["dog"]["objects"] == 1
    assert document["student"]["images"] == 3
    assert "note: scores of 3 validation images only" in result.stderr
    asked = gdseg("eval", "runs/R", "--data", small_data, "--role", "teacher", "--out", "e.json")
    assert "EMA teacher mask" in asked.stdout
    assert list(json.loads(Path("e.json").read_text())) == ["teacher"]  # the word that was given


@pytest.mark.parametrize("few", [3, 4])
def test_few_images_are_told(
    gdseg: Gdseg, small_run: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("gdseg.cli.eval._FEW", few)
    result = gdseg("eval", "--data", small_data)
    assert ("note: scores of 3 validation images only" in result.stderr) == (few > 3)


def test_other_data_never_replaces_the_runs_own_results(
    gdseg: Gdseg, small_run: Path, small_data: Path
) -> None:
    (small_run / "eval.json").write_text("the run's own")
    other = shutil.copytree(small_data, small_data.parent / "b" / "small")
    for words in (
        ["--data", small_data],
        ["--data", small_data, "data.val=annotations/instances_train.json", "data.val_images=train"],
        ["--data", small_data, "data.val_images=train"],
        ["--data", other],
    ):
        result = gdseg("eval", "runs/R", *words)
        assert result.exit_code == 0, result.exception
        assert "the last run is taken" not in result.stderr
    assert (small_run / "eval.json").read_text() == "the run's own"
    written = {path.name: json.loads(path.read_text()) for path in small_run.glob("eval-*.json")}
    assert [name.rsplit("-", 1)[0] for name in sorted(written)] == [
        "eval-small-instances_train",
        *["eval-small-val"] * 3,
    ]
    data = sorted(document["student"]["data"] for document in written.values())
    assert data == sorted([str(other), *[str(small_data)] * 3])
    assert gdseg("eval", "runs/R", "--data", small_data).exit_code == 0
    assert len(list(small_run.glob("eval-*.json"))) == 4  # the same data has the same name


def test_data_is_the_networks_own_or_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = Data(root="a/set", val="val.json")
    for used in (
        Data(root="a/set", val="val.json", ratio=0.1, train="other.json"),
        Data(root=str(tmp_path / "a" / "set"), val="val.json"),
    ):
        assert other_data(own, used, "0") == ""
    others = [
        (Data(root="a/set", val="x/test.json"), "0"),
        (Data(root="b/set", val="val.json"), "0"),
        (Data(root="b/set", val="val.json"), "1"),
        (Data(root="a/set"), "0"),
        *(
            (Data(root="a/set", val="val.json", **{key: "x"}), "0")
            for key in ("val_images", "val_maps", "classes")
        ),
        (Data(root="a/set", val="val.json", format="coco"), "0"),
    ]
    names = [other_data(own, used, labels) for used, labels in others]
    assert len(set(names)) == len(names)
    assert names[0].startswith("set-test-")
    assert all(name.startswith("set-val-") for name in names[1:])


def test_one_file_json_and_overrides(
    gdseg: Gdseg, tiny_checkpoint: Path, small_data: Path, tmp_path: Path
) -> None:
    arguments = ["eval", tiny_checkpoint, "postprocess.max_detections=150", "--data", small_data, "--json"]
    result = gdseg(*arguments, "--out", tmp_path / "e.json")
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert document == json.loads((tmp_path / "e.json").read_text())
    assert "mask_ar150" in document["tiny"]["metrics"]
    assert result.stderr == ""


def test_the_truth_scores_a_hundred(gdseg: Gdseg, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(truth_as_results(small_data)))
    for data in (small_data, small_data / "annotations" / "instances_val.json"):
        result = gdseg("eval", "--pred", "r.json", "--data", data)
        assert result.exit_code == 0, result.exception
        assert "100.0" in result.stdout
    metrics = json.loads((tmp_path / "r.eval.json").read_text())["results"]["metrics"]
    assert metrics["mask_ap"] == pytest.approx(1)
    assert metrics["mask_ap_large"] == pytest.approx(1)  # of thirds of the objects


def test_files_of_several_processes_and_boundary_ap(gdseg: Gdseg, small_data: Path, tmp_path: Path) -> None:
    results = truth_as_results(small_data)
    for number in range(3):
        (tmp_path / f"{number}.json").write_text(json.dumps(results[number : number + 1]))
    files = [word for number in range(3) for word in ("--predictions", f"{number}.json")]
    result = gdseg("eval", *files, "--data", small_data, "--boundary", "--areas", "coco", "--per-class")
    assert result.exit_code == 0, result.exception
    assert "results boundary" in result.stdout
    assert "areas below 1024, 9216" in result.stdout
    document = json.loads((tmp_path / "0.eval.json").read_text())["results"]
    assert document["source"] == ["0.json", "1.json", "2.json"]
    assert document["areas"] == [1024, 9216]
    assert document["metrics"]["mask_ap"] == document["metrics"]["boundary_ap"] == pytest.approx(1)
    assert document["metrics"]["mask_ap_large"] is None
    assert "note: no result" not in result.stderr
    some = gdseg("eval", *files[:2], "--data", small_data)
    assert "note: no result in 2 of 3 images; first: image 11" in some.stderr
    assert "note" not in gdseg("eval", *files[:2], "--data", small_data, "-q").stderr
    error = gdseg("eval", *files, "--pred", "1.json", "--data", small_data).exception
    assert isinstance(error, DataError)
    assert "has results in 1.json too" in str(error)


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_maps_of_several_processes(gdseg: Gdseg, tmp_path: Path, task: str) -> None:
    """The labels of built-in scenes as predictions, in two parts: all scores are 1."""
    make_scenes(tmp_path / "D", ShapesOptions(1, 4, 48), task)
    parts = two_parts(tmp_path / "D" / "annotations", task)
    files = [word for part in parts for word in ("--pred", part)]
    result = gdseg("eval", *files, "--boundary", "--out", "e.json", "--per-class", "--data", "D")
    assert result.exit_code == 0, result.exception
    metrics = json.loads((tmp_path / "e.json").read_text())["results"]["metrics"]
    assert {"panoptic": "boundary_pq", "semantic": "boundary_miou"}[task] in metrics
    assert metrics == pytest.approx(dict.fromkeys(metrics, 1.0))
    assert "boundary" in result.stdout
    error = gdseg("eval", *files, "--pred", parts[0], "--data", "D").exception
    assert isinstance(error, DataError)
    assert "two maps" in str(error)
    error = gdseg("eval", *files[:2], "--data", "D").exception
    assert isinstance(error, DataError)
    assert "of 4 images have no map" in str(error)


def test_a_truth_without_images_is_enough(gdseg: Gdseg, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(truth_as_results(small_data)))
    truth = small_data / "annotations" / "instances_val.json"
    for image in (small_data / "val").iterdir():
        image.unlink()
    assert gdseg("eval", "--pred", "r.json", "--data", truth, "-q").exit_code == 0
    broken = json.loads(truth.read_text())
    broken["annotations"][0]["category_id"] = 77
    truth.write_text(json.dumps(broken))
    assert isinstance(gdseg("eval", "--pred", "r.json", "--data", truth).exception, DataError)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["runs/none"], CheckpointError, "no such checkpoint"),
        (["--role", "pupil"], UsageError, "pupil"),
        (["a", "b"], UsageError, "one checkpoint"),
        (["--pred", "r.json", "--role", "student"], UsageError, "--pred"),
        (["--pred", "gone.json", "--data", "small"], DataError, "cannot read"),
        (["--pred", "bad.json", "--pred", "small", "--data", "small"], UsageError, "different tasks"),
        (["--areas", "9216,1024"], UsageError, "--areas"),
        (["--areas", "small"], UsageError, "--areas"),
        (["--pred", "bad.json", "--data", "small"], DataError, "unknown image id"),
        (["--data", "nowhere"], DataError, "no such data set"),
        (["postprocess.boxxes=head"], UsageError, "boxxes"),
    ],
)
def test_wrong_use(
    gdseg: Gdseg,
    small_run: Path,
    small_data: Path,
    tmp_path: Path,
    arguments: list[str],
    kind: type,
    words: str,
) -> None:
    bad = [{**truth_as_results(small_data)[0], "image_id": 999}]
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    error = gdseg("eval", *arguments).exception
    assert isinstance(error, kind)
    assert words in str(error)


def test_no_run_says_what_makes_one(gdseg: Gdseg) -> None:
    error = gdseg("eval").exception
    assert isinstance(error, CheckpointError)
    assert "gdseg pretrain" in str(error)


def test_other_classes_are_named(gdseg: Gdseg, tiny_checkpoint: Path, small_data: Path) -> None:
    for part in ("train", "val"):
        path = small_data / "annotations" / f"instances_{part}.json"
        path.write_text(path.read_text().replace('"dog"', '"wolf"'))
    error = gdseg("eval", tiny_checkpoint, "--data", small_data).exception
    assert isinstance(error, CheckpointError)
    assert "only in the checkpoint: dog" in str(error)
    assert "only in the data: wolf" in str(error)


def test_a_missing_role(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    (small_run / "checkpoints" / "best-student.safetensors").unlink()
    error = gdseg("eval", "--role", "both", "--data", small_data).exception
    assert isinstance(error, CheckpointError)
    result = gdseg("eval", "--data", small_data)
    assert result.exit_code == 0
    assert "student" not in result.stdout


def test_tiles_and_views_reach_the_network(
    gdseg: Gdseg, small_run: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def spy(model: Any, image: Any, recipe: Any, *rest: Any) -> Any:
        seen.append((tuple(image.shape), recipe.inference))
        return infer_image(model, image, recipe, *rest)

    monkeypatch.setattr(run, "infer_image", spy)
    ours = ["eval", "--role", "student", "--data", small_data, "-q"]
    assert gdseg(*ours).exit_code == 0
    assert seen == [], "plain evaluation goes in batches"
    assert gdseg(*ours, "--tile", 40, "--overlap", 9, "--scales", "1,1.5", "--flip").exit_code == 0
    keys = ["inference.tile=40", "inference.overlap=9", "inference.scales=[1, 1.5]", "inference.flip=true"]
    assert gdseg(*ours, *keys).exit_code == 0
    assert len(seen) == 6
    assert {shape[0] for shape, _ in seen} == {3}
    assert all(inference == Inference(40, 9, [1.0, 1.5], True) for _, inference in seen)


def test_tiles_have_no_part_in_scoring_a_file(gdseg: Gdseg, small_data: Path) -> None:
    result = gdseg("eval", "--pred", "r.json", "--data", small_data, "--tile", "40")
    assert isinstance(result.exception, UsageError)
    twice = gdseg("eval", "--tile", "40", "inference.tile=50", "--data", small_data)
    assert "both as a flag and as an override" in str(twice.exception)
