"""gdseg pseudo-label: the rule of training, a file that loads as labels, a contact sheet, counts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import Result

from gdseg.data.coco import load_coco
from gdseg.data.dataset import open_dataset
from gdseg.data.images import read_image
from gdseg.errors import DataError, UsageError
from gdseg.infer.image import tiles_of
from gdseg.infer.join import join_instances
from gdseg.models.checkpoint import load_network, save_network
from gdseg.predict import load_model
from gdseg.recipe import Data, Distill, Inference
from gdseg.structures import Predictions
from gdseg.train.label_images import label_image, moved_thresholds, not_applied
from gdseg.train.looks import Mean
from gdseg.train.pseudo import pseudo_targets
from gdseg.view.draw import Pixels
from gdseg.view.sheets import Sheet

Gdseg = Callable[..., Result]
LOW = ["distill.min_area=0", "--conf", "0.005"]


def test_labels_load_back_and_train(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    result = gdseg("pseudo-label", small_data / "train", *LOW)
    assert result.exit_code == 0, result.exception
    content = load_coco(Path("labels.json"), small_data / "train")
    assert content.faults == []
    assert content.category_ids == [5, 9]
    count = sum(len(record.annotations or ()) for record in content.records)
    assert count > 0
    assert "score: class score (which thresholds ask for) times mean mask probability" in result.stderr
    product = gdseg("pseudo-label", small_data / "train", *LOW, "distill.score=class_mask", "--out", "p.json")
    assert "score: class score times mean mask probability" in product.stderr
    assert f"{count} pseudo-labels in 3 images" in result.stdout
    with Image.open("labels.png") as sheet:
        assert sheet.width > 600
    labels, images = str(Path("labels.json").absolute()), str(small_data / "train")
    dataset = open_dataset(Data(root=str(small_data), train=labels, train_images=images))  # as the help says
    assert sum(len(record.annotations or ()) for record in dataset.train) == count
    evaluated = gdseg(
        "eval", "--pred", "labels.json", "--data", small_data, "data.val=annotations/instances_train.json"
    )
    assert evaluated.exit_code == 0, evaluated.exception


def test_what_is_not_kept_is_not_filled_on_the_sheet(
    gdseg: Gdseg, small_run: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sheet gets as dropped, an outline alone, what a higher class score leaves out."""
    calls: list[tuple[int, int]] = []

    def add(sheet: Sheet, image: Pixels, kept: Predictions, *_: object, dropped: Predictions) -> None:
        assert "Filled: kept" in sheet.title
        assert "outline: not kept" in sheet.title
        calls.append((len(kept), len(dropped)))

    monkeypatch.setattr(Sheet, "add", add)
    assert gdseg("pseudo-label", small_data / "train", *LOW, "distill.ignore_threshold=0.001").exit_code == 0
    assert len(calls) == 3
    result = gdseg("pseudo-label", small_data / "train", "--conf", "0.02", "distill.min_area=0",
                   "distill.ignore_threshold=0.001", "--overwrite")  # fmt: skip
    assert result.exit_code == 0, result.exception
    assert sum(below for _, below in calls[3:]) > sum(below for _, below in calls[:3])


def test_labels_are_made_in_the_tiles_that_the_recipe_names(tiny_checkpoint: Path) -> None:
    """What tiles hold one by one, joined; without tiles the image is shrunk to the test size first."""
    image = torch.randint(0, 255, (3, 96, 160), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = load_model(tiny_checkpoint, "cpu")
    rule = whole.network.recipe.distill
    rule.min_area, rule.class_threshold = 0.0, 0.005
    tiled = load_model(tiny_checkpoint, "cpu", ["inference.tile=64", "inference.overlap=32"])
    rows, side = tiles_of((96, 160), tiled.network.recipe)
    assert (len(rows), len(rows[0]), side) == (2, 4, 64)
    parts = [label_image(whole, tile.cut(image), rule)[0] for row in rows for tile in row]
    expected = join_instances([tile for row in rows for tile in row], parts, (96, 160))
    found = label_image(tiled, image, rule)[0]
    assert len(found) == len(expected) > 0
    assert found.size == (96, 160)
    torch.testing.assert_close(found.scores, expected.scores)
    assert found.rles == expected.rles


def test_the_rule_is_that_of_training(tiny_checkpoint: Path, small_data: Path) -> None:
    predictor = load_model(tiny_checkpoint, "cpu")
    rule = predictor.network.recipe.distill
    rule.min_area = 0.0
    image = read_image(small_data / "train" / "1.png")
    _, outputs = predictor.outputs(image)
    scores = outputs.final.logits.sigmoid().amax(-1)[0].sort(descending=True).values
    rule.class_threshold = float(scores[4])  # the four best pass
    [targets] = pseudo_targets(outputs.final, rule, softmax=False)
    kept, below, best = label_image(predictor, image, rule)
    assert len(targets) == 4
    assert best == pytest.approx(float(scores[0]))
    assert len(kept) <= 4  # a mask may have no pixel
    assert set(kept.scores.tolist()) <= set(targets.scores.tolist())
    assert kept.scores.tolist() == sorted(kept.scores.tolist(), reverse=True)
    assert not set(kept.scores.tolist()) & set(below.scores.tolist())
    rule.class_threshold = 1.0
    assert len(label_image(predictor, image, rule)[0]) == 0


def test_a_teacher_that_looks_twice_labels_so(tiny_checkpoint: Path, small_data: Path) -> None:
    predictor = load_model(tiny_checkpoint, "cpu")
    recipe = predictor.network.recipe
    image = read_image(small_data / "train" / "1.png")[..., :96]  # 96 x 96: no padding to be mirrored
    batch, first = predictor.outputs(image)
    _, other = predictor.outputs(image.flip(-1))
    mean = Mean(first.final, batch, softmax=False)
    mean.add(other.final, batch, True)
    both = mean.output()
    scores = both.logits.sigmoid().amax(-1)[0].sort(descending=True).values
    assert not torch.allclose(scores, first.final.logits.sigmoid().amax(-1)[0].sort(descending=True).values)
    rule = replace(recipe.distill, min_area=0.0, class_threshold=float(scores[4]), teacher_flip=True)
    [targets] = pseudo_targets(both, rule, softmax=False)
    kept, _, best = label_image(predictor, image, rule)
    assert best == pytest.approx(float(scores[0]))
    assert targets.scores is not None
    close = [min(abs(targets.scores - score)) for score in kept.scores.tolist()]
    assert 0 < len(kept) <= len(targets) == 4
    assert max(close) < 1e-5


def test_full_size_masks_are_the_small_ones_enlarged(tiny_checkpoint: Path, small_data: Path) -> None:
    predictor = load_model(tiny_checkpoint, "cpu")
    rule = predictor.network.recipe.distill
    rule.class_threshold, rule.min_area = 0.0, 0.0
    image = read_image(small_data / "train" / "1.png")
    _, outputs = predictor.outputs(image)
    [targets] = pseudo_targets(outputs.final, rule, softmax=False)
    kept, _, _ = label_image(predictor, image, rule)
    assert targets.scores is not None
    small = dict(zip(targets.scores.tolist(), targets.masks, strict=True))
    for i, score in enumerate(kept.scores.tolist()):
        share = kept.mask(i).float().mean()
        assert float(share) == pytest.approx(float(small[score][:12].float().mean()), abs=0.1)


def test_conf_and_unreadable_files(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    (small_data / "train" / "1.png").write_bytes(b"")
    result = gdseg("pseudo-label", small_data / "train", "--conf", 1, "--sample", 0, "--json")
    assert isinstance(result.exception, DataError)
    summary = json.loads(result.stdout)
    assert summary["objects"] == {"cat": 0, "dog": 0}
    assert len(summary["failed"]) == 1
    assert not Path("labels.png").exists()
    assert len(json.loads(Path("labels.json").read_text())["images"]) == 2


def test_what_is_refused(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    Path("labels.json").write_text("mine")
    assert isinstance(gdseg("pseudo-label", small_data / "train").exception, UsageError)
    assert Path("labels.json").read_text() == "mine"
    assert gdseg("pseudo-label", small_data / "train", "--overwrite", "-q").exit_code == 0
    assert isinstance(gdseg("pseudo-label", small_run, "--out", "x.json").exception, UsageError)
    twice = gdseg(
        "pseudo-label", small_data, "distill.class_threshold=0.5", "--conf", "0.5", "--out", "x.json"
    )
    assert isinstance(twice.exception, UsageError)


def test_what_the_labels_do_not_follow_is_said(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    assert "not applied" not in gdseg("pseudo-label", small_data / "train").output
    changed = gdseg("pseudo-label", small_data / "train", "distill.thresholds=prior", "--overwrite")
    assert changed.exit_code == 0, changed.exception
    assert "not applied here: distill.thresholds=prior" in changed.output


def test_a_runs_own_thresholds_are_taken(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    """At 1 for cats and 0 for dogs only dogs are left; another threshold that is asked for wins."""
    for file in (small_run / "checkpoints").iterdir():
        network = load_network(file, torch.device("cpu"))
        rule = replace(network.recipe.distill, thresholds="prior", class_threshold=0.0, min_area=0.0)
        save_network(replace(network, recipe=replace(network.recipe, distill=rule), step=8), file)
    words = ("pseudo-label", small_data / "train", "--overwrite", "--sample", 0)
    plain = gdseg(*words)
    assert "not applied here: distill.thresholds=prior" in plain.output
    rows = [{"step": 4, "thresholds": [1.0, 0.0]}, {"step": 9, "thresholds": [0.0, 1.0]}]
    (small_run / "pseudo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = gdseg(*words)
    assert result.exit_code == 0, result.exception
    assert "not applied" not in result.output
    document = json.loads(Path("labels.json").read_text())
    assert {a["category_id"] for a in document["annotations"]} == {9}
    assert document["info"]["thresholds"] == [1.0, 0.0]
    fixed = gdseg(*words, "--conf", 1)
    assert "not applied here: distill.thresholds=prior" in fixed.output
    assert json.loads(Path("labels.json").read_text())["annotations"] == []


def test_thresholds_of_a_run_are_those_of_the_step(tmp_path: Path) -> None:
    rows = [
        {"step": s, "thresholds": v} for s, v in ((2, [0.2, 0.3]), (4, [0.4]), (6, ["a", 1]), (8, [0.8, 0.9]))
    ]
    (tmp_path / "pseudo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken")
    prior = Distill(thresholds="prior")
    found = {step: moved_thresholds(tmp_path, prior, 2, step) for step in (1, 7, 8)}
    assert found[1] is None
    assert [found[step].tolist() for step in (7, 8)] == [  # type: ignore[union-attr]
        pytest.approx([0.2, 0.3]),
        pytest.approx([0.8, 0.9]),
    ]
    assert moved_thresholds(tmp_path, Distill(), 2, 8) is None
    assert moved_thresholds(tmp_path, Distill(fallback="raise"), 2, 8) is not None
    assert moved_thresholds(tmp_path / "no", prior, 2, 8) is None
    assert not_applied(Distill(thresholds="ema", fallback="raise"), None, torch.ones(2)) == []


def test_tiles_views_and_what_training_moves_are_not_applied() -> None:
    assert not_applied(Distill(), Inference()) == []
    rule = Distill(thresholds="ema", teacher_flip=True, fallback="raise")
    assert not_applied(rule) == ["distill.thresholds=ema", "distill.fallback=raise"]
    views = Inference(tile=512, scales=[0.5, 1.0], flip=True)
    wanted = ["inference.tile=512", "inference.scales=[0.5, 1.0]", "inference.flip=true"]
    assert not_applied(Distill(fallback="freeze"), views) == wanted


def test_no_label_at_all_is_said_with_the_best_score(gdseg: Gdseg, small_run: Path, small_data: Path) -> None:
    predictor = load_model(small_run, "cpu")
    best = max(
        float(predictor.outputs(read_image(path))[1].final.logits.sigmoid().max())
        for path in sorted((small_data / "train").iterdir())
    )
    result = gdseg("pseudo-label", small_data / "train", "--conf", "0.99")
    assert result.exit_code == 0, result.exception
    said = f"no image has a label; the best class score is {best:.3g}, which is not enough: lower --conf"
    assert said in result.stderr
    many = gdseg("pseudo-label", small_data / "train", *LOW, "--overwrite")
    assert "no image has a label" not in many.stderr
    Path("keep.yaml").write_text("class_threshold: 0.99\nmin_objects: 1\n")
    none = gdseg("pseudo-label", small_data / "train", "--keep", "keep.yaml", "--out", "none.json")
    assert isinstance(none.exception, DataError)
    all_out = "nothing was written: the --keep file leaves out all 3 images"
    assert none.exception.what == f"{all_out}; the best class score is {best:.3g}, which is not enough"
    Path("keep.yaml").write_text("min_objects: 1\n")  # of which --conf leaves none
    unsure = gdseg(
        "pseudo-label", small_data / "train", "--conf", "0.99", "--keep", "keep.yaml", "--out", "n.json"
    )
    assert (unsure.exception.what, unsure.exception.hint) == (
        none.exception.what,
        "change the --keep file, or lower --conf",
    )
    assert not Path("none.json").exists()
    Path("keep.yaml").write_text("max_objects: 0\n")
    many = gdseg("pseudo-label", small_data / "train", *LOW, "--keep", "keep.yaml", "--out", "none.json")
    assert isinstance(many.exception, DataError)
    assert many.exception.what == all_out
    assert many.exception.hint.startswith("change the --keep file, or ")
    Path("keep.yaml").write_text("class_threshold: 0.001\nleave_out: [cat]\n")
    kept = gdseg("pseudo-label", small_data / "train", "--keep", "keep.yaml", "--overwrite")
    assert kept.exit_code == 0
    info = json.loads(Path("labels.json").read_text())["info"]
    assert info["rule"]["class_threshold"] == 0.001
    assert info["thresholds"] == [None, 0.001]
    small = gdseg(
        "pseudo-label", small_data / "train", "--conf", "0.005", "distill.min_area=1e9", "--overwrite"
    )
    assert "the rule asks for more than that: lower distill.min_area or --conf" in small.stderr
