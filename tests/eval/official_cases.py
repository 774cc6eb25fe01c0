"""Generated cases for LVIS AP, Cityscapes AP and iIoU, and PQ, and the figures official packages gave for them.

Cases follow from seeds through numpy's frozen RandomState; `official.json` holds figures only. It was written by

    pip install --no-deps --target SITE lvis==0.5.3 cityscapesscripts==2.3.0 panopticapi-lite==0.2.0
    PYTHONPATH=SITE python tests/eval/official_cases.py

with numpy 2.4. lvis (BSD-2) needs `np.float` and an empty module cv2, cityscapesscripts (MIT) `np.in1d` and an
empty module for each of its unused imports, and neither may write its json: `_shims` gives them all that.
panopticapi-lite is panopticapi (BSD-2) as PyPI has it; it needs nothing.
"""

import copy
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from gdseg.data.cityscapes import CLASSES
from gdseg.data.label_maps import rgb_of
from gdseg.data.rle import to_rle

FILE = Path(__file__).with_name("official.json")
SEEDS = (0, 1, 2)
FREQUENCIES = "rcf"
LVIS_NAMES = {
    "AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large", "APr": "ap_rare",
    "APc": "ap_common", "APf": "ap_frequent", "AR@300": "ar300", "ARs@300": "ar_small", "ARm@300": "ar_medium", "ARl@300": "ar_large",
}  # fmt: skip
THINGS = [c for c in CLASSES if c.is_thing]
STUFF = [c for c in CLASSES if not c.is_thing]
SIZE = (96, 160)


def rectangle(size: tuple[int, int], x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros(size, dtype=np.uint8)
    mask[max(y, 0) : y + h, max(x, 0) : x + w] = 1
    return mask


def lvis_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An LVIS json and results: classes without truth, ignored objects, empty detections, equal scores; with
    seed 2, more than 300 detections in an image."""
    draw, size = np.random.RandomState(seed), (150, 150)
    ids = [3 * c + 2 for c in range(12)]
    truth: dict[str, Any] = {"images": [], "annotations": []}
    truth["categories"] = [
        {"id": c, "name": f"c{c}", "frequency": FREQUENCIES[i % 3]} for i, c in enumerate(ids)
    ]
    results = []
    for image_id in range(7, 63, 7):
        order = [int(c) for c in draw.permutation(ids[:-2])]
        present, absent = order[: draw.randint(0, 6)], order[6 : 6 + draw.randint(0, 5)]
        partial = [c for c in present if draw.rand() < 0.4]
        image = {"id": image_id, "height": size[0], "width": size[1], "neg_category_ids": absent}
        truth["images"].append({**image, "not_exhaustive_category_ids": partial})
        boxes = []
        for category in [c for c in present for _ in range(draw.randint(1, 4))]:
            w, h = np.exp(draw.uniform(np.log(5), np.log(140), 2)).astype(int).tolist()
            x, y = int(draw.randint(0, size[1] - w + 1)), int(draw.randint(0, size[0] - h + 1))
            boxes.append((x, y, w, h, category))
            annotation = {"id": len(truth["annotations"]) + 1, "image_id": image_id, "category_id": category}
            annotation |= {"bbox": [x, y, w, h], "area": float(w * h), "ignore": int(draw.rand() < 0.12)}
            annotation["segmentation"] = to_rle(rectangle(size, x, y, w, h))
            truth["annotations"].append(annotation)
        for _ in range(350 if seed == 2 and image_id == 14 else 25):
            x, y, w, h = (*draw.randint(0, 140, 2).tolist(), *draw.randint(4, 60, 2).tolist())
            category = int(draw.choice(ids))
            if boxes and draw.rand() < 0.7:
                x, y, w, h, category = boxes[draw.randint(len(boxes))]
                x, y, w = x + draw.randint(-3, 4), y + draw.randint(-3, 4), max(1, w + draw.randint(-3, 4))
                category = int(draw.choice(ids)) if draw.rand() < 0.2 else category
            mask = rectangle(size, x, y, w, h) * (draw.rand() > 0.03)
            result = {
                "image_id": image_id,
                "category_id": category,
                "segmentation": to_rle(mask.astype(np.uint8)),
            }
            results.append({**result, "score": round(float(draw.rand()), 2)})
    return truth, results


def cityscapes_case(
    seed: int,
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]], dict[str, np.ndarray]]:
    """instanceIds, results, and labelIds found, by image: groups, void, caravans, small objects, classes
    without truth, empty and repeated detections, with odd seeds equal scores."""
    draw = np.random.RandomState(seed)
    stuff, things = [c.id for c in STUFF], [c.id for c in THINGS][:6]
    maps, results, found = {}, [], {}
    for number in range(4):
        name, used = f"aa_{number:06d}_000019", dict.fromkeys([*things, 29, 30], 0)
        ids = np.kron(draw.choice([0, 3, 4, 9, 16, *stuff], (6, 10)), np.ones((16, 16), int))
        objects = []
        for _ in range(draw.randint(4, 16)):
            category = int(draw.choice([*things, 29, 30]))
            w, h = np.exp(draw.uniform(np.log(4), np.log(50), 2)).astype(int).tolist()
            x, y = int(draw.randint(0, SIZE[1] - w + 1)), int(draw.randint(0, SIZE[0] - h + 1))
            value = category if draw.rand() < 0.2 else category * 1000 + used[category]
            used[category] += 1
            ids[y : y + h, x : x + w] = value
            objects.append((category, value))
        maps[name] = ids
        for _ in range(draw.randint(8, 30)):
            category, value = objects[draw.randint(len(objects))]
            mask = ids == value
            if draw.rand() < 0.3:
                mask = rectangle(SIZE, *draw.randint(0, 76, 2).tolist(), *draw.randint(3, 40, 2).tolist()) > 0
            mask = np.roll(mask, draw.randint(-2, 3, 2).tolist(), (0, 1)) & (draw.rand() > 0.04)
            if category > 28 or draw.rand() < 0.15:
                category = int(draw.choice(things))
            score = round(float(draw.rand()), 1 if seed % 2 else 4)
            result = {"image_id": name, "category_id": category, "score": score}
            results.append({**result, "segmentation": to_rle(mask.astype(np.uint8))})
        noise = np.kron(draw.choice([c.id for c in CLASSES], (12, 20)), np.ones((8, 8), int))
        labels = np.where(np.kron(draw.rand(12, 20) < 0.35, np.ones((8, 8), int)) > 0, noise, labels_of(ids))
        labels[draw.rand(*SIZE) < 0.1] = 0
        found[name] = np.where((labels == 29) | (labels == 30), 26, labels)
    return maps, results, found


PANOPTIC = [{"id": 3 * c + 1, "name": f"c{c}", "isthing": int(c < 4)} for c in range(7)]


def panoptic_case(
    seed: int,
) -> list[tuple[np.ndarray, list[dict[str, Any]], np.ndarray, list[dict[str, Any]]]]:
    """Images as true ids and segments, found ids and segments: void on both sides, several crowds of a class,
    segments of a wrong class, moved and on void; the last class is nowhere, with seed 0 one is found only."""
    draw, images = np.random.RandomState(seed), []
    for _ in range(4):
        cells = np.kron(draw.randint(0, 14, (5, 7)), np.ones((9, 8), int))
        ids, found = np.zeros_like(cells), np.zeros_like(cells)
        truth, guesses = [], []
        for cell in np.unique(cells)[1:].tolist():
            category, mask = PANOPTIC[draw.randint(6 - (seed == 0))], cells == cell
            if any(segment["category_id"] == category["id"] for segment in truth) and not category["isthing"]:
                category = PANOPTIC[draw.randint(4)]  # the format has one segment of a class of stuff
            segment = {"id": 300 * cell + 5, "category_id": category["id"]}
            crowd = int(bool(category["isthing"]) and draw.rand() < 0.25)
            if draw.rand() < 0.85:  # else void
                ids[mask] = segment["id"]
                truth.append({**segment, "iscrowd": crowd, "area": int(mask.sum())})
            moved = np.roll(mask, draw.randint(-2, 3, 2).tolist(), (0, 1)) if draw.rand() < 0.8 else mask
            moved = moved & (draw.rand(*mask.shape) > draw.choice([0, 0.1, 0.45]))
            if draw.rand() < 0.9 and moved.any():
                found[moved] = cell
                wrong = draw.rand() < 0.15
                guesses.append(
                    {"id": cell, "category_id": PANOPTIC[draw.randint(6)]["id"] if wrong else category["id"]}
                )
        guesses = [guess for guess in guesses if (found == guess["id"]).any()]
        images.append((ids, truth, found, guesses))
    return images


def write_panoptic(case: list[Any], folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The PNGs in folder/true and folder/found; the annotations of both."""
    sides: tuple[list[Any], list[Any]] = ([], [])
    for number, (ids, truth, found, guesses) in enumerate(case, 1):
        for side, name, values, segments in ((0, "true", ids, truth), (1, "found", found, guesses)):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(rgb_of(values)).save(folder / name / f"{number}.png")
            annotation = {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
            sides[side].append(copy.deepcopy(annotation))
    return sides


def labels_of(ids: np.ndarray) -> np.ndarray:
    """labelIds of instanceIds."""
    return np.where(ids >= 1000, ids // 1000, ids)


def write_maps(maps: dict[str, np.ndarray], folder: Path) -> dict[str, Path]:
    """Both files of each image, as the benchmark names them; the paths of the instanceIds."""
    for name, ids in maps.items():
        Image.fromarray(ids.astype(np.uint16)).save(folder / f"{name}_gtFine_instanceIds.png")
        Image.fromarray(labels_of(ids).astype(np.uint8)).save(folder / f"{name}_gtFine_labelIds.png")
    return {name: folder / f"{name}_gtFine_instanceIds.png" for name in maps}


def _shims() -> None:
    np.float = float  # type: ignore[attr-defined]
    np.in1d = lambda a, b, invert=False: np.isin(a, b, invert=invert).ravel()  # type: ignore[attr-defined]
    for name in ("cv2", "pyquaternion", "coloredlogs", "appdirs", "tqdm"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["pyquaternion"].Quaternion = object  # type: ignore[attr-defined]
    sys.modules["tqdm"].tqdm = iter  # type: ignore[attr-defined]


def _lvis_figures(seed: int, folder: Path) -> dict[str, dict[str, float | None]]:
    from lvis import LVIS, LVISEval, LVISResults

    truth, results = lvis_case(seed)
    (folder / "truth.json").write_text(json.dumps(truth))
    boxes = [{**r, "bbox": coco_mask.toBbox(r["segmentation"]).tolist()} for r in results]
    boxes = [{k: v for k, v in r.items() if k != "segmentation"} for r in boxes]
    figures = {}
    for kind, official, found in (("mask", "segm", results), ("box", "bbox", boxes)):
        data = LVIS(str(folder / "truth.json"))
        evaluator = LVISEval(data, LVISResults(data, copy.deepcopy(found)), official)
        evaluator.run()
        stats = {ours: float(evaluator.results[name]) for name, ours in LVIS_NAMES.items()}
        figures[kind] = {name: None if value == -1 else value for name, value in stats.items()}
    return figures


def _cityscapes_figures(seed: int, folder: Path) -> dict[str, Any]:
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instances  # noqa: N813
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as pixels  # noqa: N813

    instances.writeDict2JSON = pixels.writeDict2JSON = lambda *a, **k: None
    maps, results, found = cityscapes_case(seed)
    paths = write_maps(maps, folder)
    for name, labels in found.items():
        lines = []
        for number, result in enumerate(r for r in results if r["image_id"] == name):
            mask = coco_mask.decode(result["segmentation"]) * 255
            Image.fromarray(mask).save(folder / f"{name}_{number}.png")
            lines.append(f"{name}_{number}.png {result['category_id']} {result['score']}\n")
        (folder / f"{name}.txt").write_text("".join(lines))
        Image.fromarray(labels.astype(np.uint8)).save(folder / f"{name}_found.png")
    for module in (instances, pixels):
        module.args.quiet, module.args.JSONOutput = True, False
    instances.args.gtInstancesFile = str(folder / "none.json")
    instances.args.predictionPath = str(folder)
    lists = [str(folder / f"{name}.txt") for name in paths], [str(path) for path in paths.values()]
    ap = instances.evaluateImgLists(*lists, instances.args)["averages"]
    lists = (
        [str(folder / f"{name}_found.png") for name in paths],
        [p.replace("instanceIds", "labelIds") for p in lists[1]],
    )
    iou = pixels.evaluateImgLists(*lists, pixels.args)
    figures = {
        "cityscapes_ap": ap["allAp"], "cityscapes_ap50": ap["allAp50%"], "iiou": iou["averageScoreInstClasses"],
        "category_iou": iou["averageScoreCategories"], "category_iiou": iou["averageScoreInstCategories"],
        "per_class": {c.name: [float(ap["classes"][c.name]["ap"]), float(ap["classes"][c.name]["ap50%"]), iou["classInstScores"][c.name]] for c in THINGS},
    }  # fmt: skip
    return json.loads(json.dumps(figures, default=float), parse_constant=lambda _: None)


def _panoptic_figures(seed: int, folder: Path) -> dict[str, Any]:
    from panopticapi.evaluation import pq_compute_single_core

    truth, found = write_panoptic(panoptic_case(seed), folder)
    categories = {c["id"]: c for c in PANOPTIC}
    pairs = list(zip(truth, found, strict=True))
    total = pq_compute_single_core(0, pairs, str(folder / "true"), str(folder / "found"), categories)
    figures: dict[str, Any] = {}
    for suffix, things in (("", None), ("_things", True), ("_stuff", False)):
        average, _ = total.pq_average(categories, isthing=things)
        figures |= {f"{name}{suffix}": average[name] for name in ("pq", "sq", "rq")}
    counts = {c["name"]: total[c["id"]] for c in PANOPTIC}
    figures["per_class"] = {name: [c.tp, c.fp, c.fn, float(c.iou)] for name, c in counts.items()}
    return figures


if __name__ == "__main__":
    _shims()
    document: dict[str, Any] = {"lvis": [], "cityscapes": [], "panoptic": []}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            document["lvis"].append(_lvis_figures(seed, Path(folder)))
            document["cityscapes"].append(_cityscapes_figures(seed, Path(folder).resolve()))
        with tempfile.TemporaryDirectory() as folder:
            document["panoptic"].append(_panoptic_figures(seed, Path(folder)))
    FILE.write_text(json.dumps(document, indent=1) + "\n")
