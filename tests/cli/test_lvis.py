"""A data set in LVIS's layout through the commands: inspected, trained on, evaluated by LVIS's rules."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Gdseg = Callable[..., Result]


@pytest.fixture
def lvis(small_data: Path) -> Path:
    """small_data as LVIS lays it out: each image searched for its own class, cats rare and dogs frequent."""
    for part in ("train", "val"):
        (small_data / part).rename(small_data / f"{part}2017")
        old = small_data / "annotations" / f"instances_{part}.json"
        content = json.loads(old.read_text())
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/{part}2017/{image.pop('file_name')}"
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        content["categories"] = [c | {"frequency": {5: "r", 9: "f"}[c["id"]]} for c in content["categories"]]
        (small_data / "annotations" / f"lvis_v1_{part}.json").write_text(json.dumps(content))
        old.unlink()
    return small_data


def test_eval_prints_ap_of_rare_and_frequent_classes(
    gdseg: Gdseg, lvis: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    truth = json.loads((lvis / "annotations" / "lvis_v1_val.json").read_text())
    results = [{k: a[k] for k in ("image_id", "category_id", "segmentation")} for a in truth["annotations"]]
    wrong = [{**r, "category_id": 14 - r["category_id"], "score": 0.9} for r in results]  # nobody looked
    (tmp_path / "r.json").write_text(json.dumps([*wrong, *({**r, "score": 0.5} for r in results)]))
    result = gdseg("eval", "--pred", "r.json", "--data", lvis)
    assert result.exit_code == 0, result.exception
    for column in ("rare", "frequent"):
        assert column in result.stdout
    metrics = json.loads((tmp_path / "r.eval.json").read_text())["results"]["metrics"]
    assert metrics["mask_ap"] == metrics["mask_ap_rare"] == metrics["mask_ap_frequent"] == pytest.approx(1)
    assert metrics["mask_ap_common"] is None
    network = gdseg("eval", tiny_checkpoint, "--data", lvis, "--json")
    assert network.exit_code == 0, network.exception
    assert "mask_ap_rare" in json.loads(network.stdout)["tiny"]["metrics"]


def test_it_is_inspected_drawn_and_trained_on(
    gdseg: Gdseg, lvis: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    assert gdseg("data", "inspect", lvis).exit_code == 0
    assert gdseg("visualize", lvis, "--out", tmp_path / "x.png").exit_code == 0
    result = gdseg(
        "pretrain", "-r", "shapes_maskdino", "--data", lvis, *tiny_settings, "data.ratio=1", "train.steps=2"
    )
    assert result.exit_code == 0, result.exception
