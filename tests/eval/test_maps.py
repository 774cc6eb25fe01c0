"""Maps from files against the real samples: what is right scores 1, what does not fit is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gdseg.data.coco_panoptic import read_panoptic as read_truth
from gdseg.data.dataset import Dataset, open_dataset
from gdseg.errors import DataError
from gdseg.eval.maps import score_maps
from gdseg.eval.maps_file import read_panoptic, read_semantic
from gdseg.eval.predictions_file import open_predictions
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Record


@pytest.fixture
def sample(shared_dir: Path) -> tuple[Path, Dataset]:
    """panopticapi's own two images, a copy of their json as predictions."""
    folder = shared_dir / "data" / "panopticapi_sample"
    path = folder / "panoptic_examples.json"
    part = read_truth(path, folder / "input_images", folder / "panoptic_examples", "panoptic")
    assert part.faults == []
    dataset = Dataset(folder, [], part.records, part.classes, part.category_ids, table=part.table)
    return path, dataset


def test_the_panoptic_sample_scores_one_against_itself(sample) -> None:
    path, dataset = sample
    assert open_predictions(path).task == "panoptic"
    scores = score_maps(read_panoptic(open_predictions(path), dataset), dataset, "panoptic")
    assert scores.metrics["pq"] == scores.metrics["sq"] == scores.metrics["rq"] == 1
    there = [name for name, values in scores.per_class.items() if values["true_positives"]]
    content = json.loads(path.read_text())
    used = {s["category_id"] for a in content["annotations"] for s in a["segments_info"] if not s["iscrowd"]}
    assert sorted(there) == sorted(c["name"] for c in content["categories"] if c["id"] in used)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(image_id=1), "not in the data set"),
        (lambda a: a.update(file_name="gone.png"), "no PNG"),
        (lambda a: a["segments_info"].pop(), "pixels of no segment"),
        (lambda a: a["segments_info"][0].update(category_id=[]), "no known category"),
        (lambda a: a.update(segments_info=None), "no list segments_info"),
        (lambda a: a["segments_info"][0].update(id=0), "a segment's id is 0"),
        (lambda a: a["segments_info"].append(a["segments_info"][0]), "two segments have the id"),
        (lambda a: a.update(image_id=142238), "image 142238 has two maps"),
        (lambda a: a.update(file_name="x" * 5000), "no PNG"),
    ],
)
def test_what_is_wrong_with_results_is_named(sample, tmp_path: Path, change, message: str) -> None:
    path, dataset = sample
    content = json.loads(path.read_text())
    del content["images"]
    change(content["annotations"][1])
    shutil.copytree(path.with_suffix(""), tmp_path / "r")
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        score_maps(read_panoptic(open_predictions(tmp_path / "r.json"), dataset), dataset, "panoptic")


def test_images_are_found_by_file_name_not_by_a_number_that_happens_to_fit(sample, tmp_path: Path) -> None:
    path, dataset = sample
    content = json.loads(path.read_text())
    shutil.copytree(path.with_suffix(""), tmp_path / "r")
    ids = [a["image_id"] for a in content["annotations"]]
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        assert image["id"] == annotation["image_id"]
        image["id"] = annotation["image_id"] = sum(ids) - image["id"]  # the other's id
    (tmp_path / "r.json").write_text(json.dumps(content))
    found = read_panoptic(open_predictions(tmp_path / "r.json"), dataset)
    assert score_maps(found, dataset, "panoptic").metrics["pq"] == 1
    content["images"][0]["file_name"] = "elsewhere.jpg"
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="is not among the json's images"):
        list(read_panoptic(open_predictions(tmp_path / "r.json"), dataset))


def test_huge_category_ids_cost_nothing(tmp_path: Path) -> None:
    """A data set's ids may be any numbers: no table as long as the largest is made."""
    Image.fromarray(np.array([[7, 8]], np.uint8)).save(tmp_path / "a.png")
    record = Record("a", tmp_path / "a.jpg", 1, 2, ())
    table = [ClassInfo(7, "sky"), ClassInfo(2**62, "far")]
    dataset = Dataset(tmp_path, [], [record], ["sky", "far"], [7, 2**62], table=table)
    [found] = read_semantic(tmp_path, dataset)
    assert found.values.tolist() == [[0, -1]]


def test_the_ade20k_sample(shared_dir: Path, tmp_path: Path) -> None:
    """Its predictions are its annotations: all scores are 1; one wrong size is named, no file at all too."""
    folder = shared_dir / "data" / "ade20k_sceneparsing_sample"
    data = Data(root=str(folder), val="annotations", val_images="images")
    dataset = open_dataset(data, ("val",), task="semantic")
    assert open_predictions(folder / "predictions").task == "semantic"
    metrics = score_maps(read_semantic(folder / "predictions", dataset), dataset, "semantic").metrics
    assert metrics == dict.fromkeys(("miou", "fwiou", "pixel_accuracy", "class_accuracy"), 1.0)
    with pytest.raises(DataError, match="has no PNG of the name"):
        list(read_semantic(tmp_path, dataset))
    Image.fromarray(np.ones((5, 5), np.uint8)).save(tmp_path / "ADE_val_00000001.png")
    with pytest.raises(DataError, match="the map has the size"):
        score_maps(read_semantic(tmp_path, dataset), dataset, "semantic")
