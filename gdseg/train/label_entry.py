"""One image -> its entry among the parts of `gdseg pseudo-label` (label_parts.py), with plain values only.

{"n", "image", "annotations", "best"}: the image and its labels as a COCO file has them, without ids, and
the best class score of anything seen; "below": what scores too low, for the contact sheet. {"n", "left_out",
"best"} where the keep rule leaves the image out, {"n", "failed"} where it cannot be read. Called by
label_run.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from gdseg.coco_json import image_entry, label_entries
from gdseg.data.images import read_image
from gdseg.errors import DataError
from gdseg.predict import Predictor, load_model
from gdseg.recipe import Distill
from gdseg.structures import Predictions
from gdseg.train.keep import Keep
from gdseg.train.label_images import label_image

Entry = dict[str, Any]


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
        """The entry of image n; shown: it will be on the contact sheet."""
        try:
            image = read_image(path, self.predictor.network.recipe.backbone.in_channels)
        except DataError as error:
            return {"n": n, "failed": error.what}
        return self._objects(n, path, image, shown)

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
        if self.order.keep is None:
            return found
        names = [found.names[label] for label in found.labels.tolist()]
        chosen = self.order.keep.chosen(names, [int(coco_mask.area(rle)) for rle in found.rles])
        return None if chosen is None else found.select(torch.tensor(chosen, dtype=torch.int64))
