"""One image -> its entry among the parts of `gdseg pseudo-label` (label_parts.py), with plain values only.

{"n", "image", "annotations", "best"}: the image and its labels as a COCO file has them, without ids, and
the best class score of anything seen; "below": what scores too low, for the contact sheet. {"n", "left_out",
"best"} where the keep rule leaves the image out, {"n", "failed"} where it cannot be read.

Of panoptic and semantic networks a label map is written, in which what nothing surely claims is of no class;
"annotation" names its file and segments. Called by label_run.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from gdseg.coco_json import image_entry, label_entries, path_in
from gdseg.data.images import read_image
from gdseg.errors import CheckpointError, DataError
from gdseg.map_writers import write_panoptic, write_semantic
from gdseg.predict import Predictor, load_model
from gdseg.recipe import Distill
from gdseg.structures import Predictions
from gdseg.train.keep import Keep
from gdseg.train.label_images import label_image
from gdseg.train.label_map import label_map, semantic_segments, with_segments
from gdseg.view.plots import is_number

Entry = dict[str, Any]


def is_entry(value: Any, count: int) -> bool:
    """Whether a value that was read is the entry of one of `count` images, as far as what uses it needs."""
    if not isinstance(value, dict) or type(value.get("n")) is not int or not 0 <= value["n"] < count:
        return False
    if "failed" in value:
        return isinstance(value["failed"], str)
    if not is_number(value.get("best")):
        return False
    if "image" not in value:
        return "left_out" in value
    return isinstance(value["image"], dict) and all(is_number(score) for score in _scores(value))


def _scores(entry: Entry) -> list[Any]:
    """The scores of an entry's labels; [None] where it has none as it should."""
    map_of = entry.get("annotation")
    if isinstance(map_of, dict) and not isinstance(map_of.get("file_name"), str):
        return [None]
    labels = map_of.get("segments_info") if isinstance(map_of, dict) else entry.get("annotations")
    if not isinstance(labels, list) or not all(isinstance(label, dict) for label in labels):
        return [None]
    return [label.get("score") for label in labels]


@dataclass(frozen=True)
class Order:
    """What is asked for, the same for all images; another process can be given it.

    rule, thresholds [C]: of the network; keep: what changes them, and leaves out more. root: the folder that
    file names are relative to; maps: where label maps go.
    """

    checkpoint: Path
    device: str
    rule: Distill
    thresholds: list[float] | None
    keep: Keep | None
    root: Path
    maps: Path

    def labeller(self, predictor: Predictor | None = None) -> Labeller:
        """The network, read here unless it is given, with the rule that holds."""
        predictor = predictor or load_model(self.checkpoint, self.device)
        return Labeller(self, predictor, *self.applied(predictor.classes))

    def applied(self, classes: Sequence[str]) -> tuple[Distill, Tensor | None]:
        """The rule and the thresholds of classes, as `keep` changes them."""
        moved = None if self.thresholds is None else torch.tensor(self.thresholds)
        if self.keep is None:
            return self.rule, moved
        rule = self.keep.rule(self.rule)
        return rule, self.keep.thresholds(classes, rule, moved)


@dataclass
class Labeller:
    """Labels images one by one."""

    order: Order
    predictor: Predictor
    rule: Distill
    thresholds: Tensor | None

    def entry(self, n: int, path: Path, *, shown: bool) -> Entry:
        """The entry of image n; shown: it will be on the contact sheet.

        Raises CheckpointError where the network's scores are NaN or infinite.
        """
        try:
            image = read_image(path, self.predictor.network.recipe.backbone.in_channels)
        except DataError as error:
            return {"n": n, "failed": error.what}
        if self.predictor.network.recipe.task != "instance":
            entry = label_map_entry(self, n, path, image) | ({"shown": True} if shown else {})
        else:
            entry = self._objects(n, path, image, shown)
        scores = [entry["best"], *(_scores(entry) if "image" in entry else [])]
        if not all(map(math.isfinite, scores)):
            hint = f"its weights are broken, or this image leads it astray: {self.predictor.path}"
            raise CheckpointError("the network's scores of this image are not finite numbers", path, hint)
        return entry

    def _objects(self, n: int, path: Path, image: Tensor, shown: bool) -> Entry:
        found, below, best = label_image(self.predictor, image, self.rule, self.thresholds)
        kept = self._kept(replace(found, path=path))
        if kept is None:
            return {"n": n, "left_out": True, "best": best}
        entry: Entry = {"n": n, "image": image_entry(kept, self.order.root)}
        entry["annotations"] = self._annotations(kept)
        entry["best"] = best
        return entry | ({"below": self._annotations(below)} if shown else {})

    def _annotations(self, found: Predictions) -> list[Entry]:
        entries = label_entries(found, 0, self.predictor.category_ids)
        return [{key: value for key, value in entry.items() if key != "image_id"} for entry in entries]

    def _kept(self, found: Predictions) -> Predictions | None:
        chosen = self.chosen(found.labels.tolist(), [int(coco_mask.area(rle)) for rle in found.rles])
        return None if chosen is None else found.select(torch.tensor(chosen, dtype=torch.int64))

    def chosen(self, labels: Sequence[int], pixels: Sequence[int]) -> list[int] | None:
        """Which objects, the best first, the keep rule keeps, by place; None: the image is left out."""
        if self.order.keep is None:
            return [*range(len(labels))]
        return self.order.keep.chosen([self.predictor.classes[label] for label in labels], pixels)


def label_map_entry(labeller: Labeller, n: int, path: Path, image: Tensor) -> Entry:
    """The entry of an image [C, H, W] of a panoptic or semantic network, whose label map it writes."""
    network, root = labeller.predictor.network, labeller.order.root
    found, best = label_map(labeller.predictor, image, labeller.rule, labeller.thresholds)
    kept = labeller.chosen(found.labels.tolist(), [int(coco_mask.area(rle)) for rle in found.rles])
    if kept is None:
        return {"n": n, "left_out": True, "best": best}
    found = replace(with_segments(found, kept, network.table), path=path)
    name = map_name(root, path)
    if network.recipe.task == "panoptic":
        annotation = write_panoptic(found, network.table, labeller.order.maps, name)
    else:
        write_semantic(found, network.table, labeller.order.maps, name, network.recipe.data.ignore_label)
        annotation = {"file_name": f"{name}.png", "segments_info": semantic_segments(found, network.table)}
    return {"n": n, "image": image_entry(found, root), "annotation": annotation, "best": best}


def map_name(root: Path, path: Path) -> str:
    """The label map of an image, without suffix: the image's path in `root`."""
    return PurePosixPath(path_in(root, path)).with_suffix("").as_posix()
