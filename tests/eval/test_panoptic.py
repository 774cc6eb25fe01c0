"""Panoptic quality: panopticapi's rules by hand, the deeplab2 pair's published value, properties."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from official_cases import FILE, PANOPTIC, SEEDS, panoptic_case, write_panoptic

from gdseg.data.coco_panoptic import read_panoptic as read_truth
from gdseg.data.dataset import Dataset
from gdseg.data.label_maps import read_ids
from gdseg.errors import DataError
from gdseg.eval.maps import score_maps
from gdseg.eval.maps_file import read_panoptic
from gdseg.eval.panoptic import PanopticQuality, Truth
from gdseg.eval.predictions_file import open_predictions

PERSON, CAR, SKY = 0, 1, 2
CLASSES, THINGS = ["person", "car", "sky"], [True, True, False]


def stripes(*widths: int) -> np.ndarray:
    """[4, sum]: stripe i is i - 1 wide `widths[i]`: -1 (void), 0, 1, .."""
    return np.repeat(np.arange(-1, len(widths) - 1), widths)[None].repeat(4, 0)


def quality(*images) -> PanopticQuality:
    total = PanopticQuality(3)
    for image in images:
        total.add(*image)
    return total


def counts(total: PanopticQuality, label: int) -> tuple[int, int, int]:
    return total.true_positives[label], total.false_positives[label], total.false_negatives[label]


def test_a_match_needs_more_than_half_and_void_is_no_part_of_the_union():
    truth = stripes(2, 6, 4)  # void 2, person 6, sky 4
    segments = [Truth(PERSON), Truth(SKY)]
    found = np.zeros_like(truth)
    found[:, :8], found[:, 8:] = 1, 2  # the person takes in the void, the sky is whole
    total = quality((truth, segments, found, {1: PERSON, 2: SKY}))
    assert counts(total, PERSON) == (1, 0, 0)
    assert total.iou[PERSON] == 1  # 6 of 6 that are not void
    half = np.where(truth == 0, 0, found)
    half[:, 2:5] = 1  # 3 of 6 pixels: IoU exactly one half
    total = quality((truth, segments, half, {1: PERSON, 2: SKY}))
    assert counts(total, PERSON) == (0, 1, 1)


def test_another_class_never_matches():
    truth = stripes(0, 8)
    total = quality((truth, [Truth(PERSON)], truth + 1, {1: CAR}))
    assert (counts(total, PERSON), counts(total, CAR)) == ((0, 0, 1), (0, 1, 0))


@pytest.mark.parametrize(("label", "false_positives"), [(PERSON, 0), (CAR, 1)])
def test_a_segment_on_a_crowd_of_its_class_is_spared(label, false_positives):
    truth = stripes(0, 6, 6)  # a crowd of persons beside the sky
    found = np.where(truth == 0, 1, 2)
    found[:, 6:8] = 1  # 6 of its 8 columns on the crowd
    total = quality((truth, [Truth(PERSON, True), Truth(SKY)], found, {1: label, 2: SKY}))
    assert counts(total, label)[1] == false_positives
    assert counts(total, PERSON)[2] == 0  # crowds need not be found


def test_a_segment_mostly_on_void_is_spared():
    truth = stripes(6, 6)
    found = np.full_like(truth, 9)
    found[:, :8] = 1
    total = quality((truth, [Truth(SKY)], found, {1: CAR}))
    assert counts(total, CAR) == (0, 0, 0)
    assert counts(total, SKY) == (0, 0, 1)  # 9 is no segment


def test_scores_by_hand():
    truth = stripes(0, 6, 6)
    found = np.where(truth == 0, 1, 2)
    found[:, 6] = 1
    scores = quality((truth, [Truth(PERSON), Truth(SKY)], found, {1: PERSON, 2: SKY})).scores(CLASSES, THINGS)
    assert scores.metrics["pq_things"] == pytest.approx(6 / 7)
    assert scores.metrics["pq_stuff"] == pytest.approx(5 / 6)
    assert scores.metrics["pq"] == pytest.approx((6 / 7 + 5 / 6) / 2)  # cars occur nowhere
    assert scores.metrics["rq"] == 1
    assert np.isnan(scores.per_class["car"]["pq"])


def random_image(seed: int):
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(-1, 12, (6, 6)), np.ones((5, 5), int))
    return truth, [Truth(int(rng.integers(3)), is_crowd=i == 5) for i in range(12)]


@pytest.mark.parametrize("seed", range(8))
def test_the_truth_itself_scores_one_whatever_its_ids(seed):
    truth, segments = random_image(seed)
    ids = np.random.default_rng(seed).permutation(1000)[:13]
    found = {int(ids[i]): segment.label for i, segment in enumerate(segments)}
    total = quality((truth, segments, ids[truth], found))
    metrics = total.scores(CLASSES, THINGS).metrics
    assert metrics["pq"] == metrics["sq"] == metrics["rq"] == 1


@pytest.mark.parametrize("seed", range(4))
def test_permuting_segments_changes_nothing(seed):
    truth, segments = random_image(seed)
    noisy, _ = random_image(seed + 100)
    found = {i: i % 3 for i in range(12)}
    order = np.random.default_rng(seed).permutation(12)
    place = np.append(np.argsort(order), -1)
    shuffled = [segments[i] for i in order]
    renamed = np.append(np.arange(12) + 50, -1)
    first = quality((truth, segments, noisy, found))
    second = quality((place[truth], shuffled, renamed[noisy], {i + 50: v for i, v in found.items()}))
    assert (first.false_positives == second.false_positives).all()
    np.testing.assert_allclose(first.iou, second.iou)
    assert (first.false_negatives == second.false_negatives).all()


def test_the_published_value(shared_dir: Path):
    folder = shared_dir / "data" / "pq_fixture_deeplab2"
    truth, found = (json.loads((folder / "team" / f"{n}.json").read_text()) for n in ("gt", "pred"))
    published = json.loads((folder / "expected.json").read_text())
    infos = truth["annotations"][0]["segments_info"]
    ids = read_ids(folder / "team" / "gt" / "team.png")
    place = np.full_like(ids, -1)
    for i, info in enumerate(infos):
        place[ids == info["id"]] = i
    segments = [Truth(info["category_id"] - 1, bool(info["iscrowd"])) for info in infos]
    labels = {s["id"]: s["category_id"] - 1 for s in found["annotations"][0]["segments_info"]}
    total = quality((place, segments, read_ids(folder / "team" / "pred" / "team.png"), labels))
    metrics = total.scores(CLASSES, THINGS).metrics
    for name in ("pq", "sq", "rq"):
        assert metrics[name] == pytest.approx(published["panopticapi_recomputed"]["team"][name], abs=1e-9)
        assert metrics[name] == pytest.approx(published["team"][name.upper()], abs=2e-6)
    for label in range(3):
        assert list(counts(total, label)) == published["per_class_tp_fp_fn"]["team"][str(label + 1)]


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_panopticapi(seed: int, tmp_path: Path):
    """Crowds, void, wrong classes, from files to figures; predictions in one file or in several."""
    official = json.loads(FILE.read_text())["panoptic"][seed]
    truth, found = write_panoptic(panoptic_case(seed), tmp_path)
    sizes = [{"id": n, "file_name": f"{n}.jpg", "height": 45, "width": 56} for n in range(1, len(truth) + 1)]
    document = {"images": sizes, "categories": PANOPTIC}
    (tmp_path / "true.json").write_text(json.dumps({**document, "annotations": truth}))
    part = read_truth(tmp_path / "true.json", tmp_path, tmp_path / "true", "panoptic")
    dataset = Dataset(tmp_path, [], part.records, part.classes, part.category_ids, table=part.table)
    for cuts in ([0, 4], [0, 1, 3, 4]):
        maps = []
        for first, last in itertools.pairwise(cuts):
            path = tmp_path / "found" / f"{first}.json"
            path.write_text(json.dumps({**document, "annotations": found[first:last]}))
            maps += list(read_panoptic(open_predictions(path), dataset))
        scores = score_maps(maps, dataset, "panoptic")
        expected = {name: value for name, value in official.items() if name != "per_class"}
        assert scores.metrics == pytest.approx(expected, abs=1e-12)
        for name, (*counted, iou) in official["per_class"].items():
            ours = scores.per_class[name]
            assert [ours[key] for key in ("true_positives", "false_positives", "false_negatives")] == counted
            if counted[0]:
                assert ours["sq"] * counted[0] == pytest.approx(iou, abs=1e-9)
    with pytest.raises(DataError, match="1 of 4 images have no map; first: image 4"):
        score_maps(maps[:3], dataset, "panoptic")


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="the truth is"):
        PanopticQuality(1).add(np.zeros((2, 2), int), [Truth(0)], np.zeros((2, 3), int), {})
