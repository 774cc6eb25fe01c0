"""The pseudo-labels of many images, from the first image to the files: begun, gone on with, put together.

Called by cli/pseudo_label.py. label_parts.py keeps what is done, label_run.py does it, label_write.py writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gdseg.coco_json import path_in
from gdseg.data.semantic_folder import CLASS_FILES
from gdseg.errors import InterruptedRun, UsageError
from gdseg.eval.label_truth import LabelTruth
from gdseg.files import file_sha256, write_json
from gdseg.map_writers import coco_categories
from gdseg.predict import Predictor
from gdseg.recipe import Distill
from gdseg.train.keep import Keep
from gdseg.train.label_entry import Order, map_name
from gdseg.train.label_parts import WHOLE, Parts, Shard, open_parts
from gdseg.train.label_place import maps_folder, parts_folder, refuse_maps, sheet_file, sheet_mark
from gdseg.train.label_run import Images, label_all
from gdseg.train.label_write import Summary, summarise, write_document
from gdseg.view.sheets import Sheet, spread
from gdseg.writers import save_picture

Tell = Callable[[int, int], None]
Skipped = Callable[[Path, str], None]


DESCRIPTION = "pseudo-labels of gdseg"


def refuse_names(paths: Sequence[Path], root: Path) -> None:
    """Raise UsageError where two images would have one label map."""
    named: dict[str, Path] = {}
    for path in paths:
        other = named.setdefault(map_name(root, path).lower(), path)
        if other is not path:
            what = (
                f"two images of one name but for the suffix or case, {other.name}: label maps have the names"
            )
            raise UsageError(what, path, "rename one of them")


@dataclass(frozen=True)
class Folder:
    """What is to be labelled, how, and where the labels go.

    root: the folder that file names are relative to; thresholds: float32 [C], of the rule before `keep`;
    sample: images on the contact sheet.
    """

    predictor: Predictor
    paths: list[Path]
    root: Path
    target: Path
    rule: Distill
    thresholds: Tensor | None
    keep: Keep | None
    sample: int

    def applied(self) -> tuple[Distill, Tensor | None]:
        """The rule and the thresholds of classes that hold in the end."""
        return self._order("cpu").applied(self.predictor.classes)

    def label(
        self,
        device: str,
        jobs: int,
        shard: Shard,
        *,
        overwrite: bool,
        tell: Tell,
        skipped: Skipped,
        found: Tell,
    ) -> None:
        """Label what is not labelled yet, of all images or of a shard, into `parts_folder(target)`.

        tell, skipped, found: as in `label_all`.

        Raises UsageError as `open_parts`, and what `label_all` raises.
        """
        if self.predictor.network.recipe.task != "instance":
            refuse_names(self.paths, self.root)
            refuse_maps(
                self.paths, self.target, overwrite=overwrite, half_done=parts_folder(self.target).is_dir()
            )
        with closing(self._parts(shard, overwrite=overwrite)) as parts:
            if self.predictor.network.recipe.task != "instance" and not parts.about.get("replaces"):
                refuse_maps(self.paths, self.target, overwrite=False, half_done=False)
            images = Images(self.paths, frozenset(self._shown()), shard)
            ours = None if jobs > 1 else self.predictor
            try:
                label_all(
                    self._order(device),
                    images,
                    parts,
                    jobs=jobs,
                    predictor=ours,
                    tell=tell,
                    skipped=skipped,
                    found=found,
                )
            except InterruptedRun as stop:
                if overwrite:
                    stop.hint = "go on with the same command without --overwrite, which would begin anew"
                raise

    def write(self, sheet: Sheet, truth: LabelTruth | None) -> Summary:
        """The files, of all images that were labelled; then the parts are deleted.

        Raises MachineError where they cannot be written, DataError for a truth that cannot be read; what was
        done is kept then.
        """
        network = self.predictor.network
        with closing(self._parts(WHOLE, overwrite=False)) as parts:
            parts.allow_replacing()
            summary = summarise(parts, network, self.paths, sheet, truth)
            if summary.done:
                if network.recipe.task != "instance":
                    parts.move_maps(maps_folder(self.target))
                if network.recipe.task == "semantic":
                    write_json(maps_folder(self.target) / CLASS_FILES[0], coco_categories(network.table))
                write_document(parts, self._info(), network, self.target)
                if sheet.cells:
                    save_picture(sheet.render(), sheet_file(self.target), sheet_mark())
            parts.remove()
        return summary

    def missing(self) -> int:
        """How many images nothing is known of yet, by the parts of all shards."""
        with closing(Parts(parts_folder(self.target), {}, len(self.paths))) as parts:
            parts.read_all()
            return sum(not parts.tried(n) for n in range(len(self.paths)))

    def _parts(self, shard: Shard, *, overwrite: bool) -> Parts:
        return open_parts(self.target, self._identity(), len(self.paths), shard, overwrite=overwrite)

    def _order(self, device: str) -> Order:
        thresholds = None if self.thresholds is None else self.thresholds.tolist()
        maps = parts_folder(self.target) / "maps"
        return Order(self.predictor.path, device, self.rule, thresholds, self.keep, self.root, maps)

    def _shown(self) -> list[int]:
        return spread(len(self.paths), self.sample)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a call to go on with another's labels, also on another machine."""
        names = "\n".join(path_in(self.root, path) for path in self.paths)
        return {
            "task": self.predictor.network.recipe.task,
            "network": file_sha256(self.predictor.path),
            "rule": vars(self.rule),
            "thresholds": None if self.thresholds is None else _rounded(self.thresholds),
            "keep": None if self.keep is None else asdict(self.keep),
            "images": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
            "sample": self.sample,
        }

    def _info(self) -> dict[str, Any]:
        rule, thresholds = self.applied()
        info: dict[str, Any] = {
            "description": DESCRIPTION,
            "checkpoint": str(self.predictor.path),
            "images": str(self.root),
            "rule": vars(rule),
        }
        if thresholds is not None:
            left_out = set() if self.keep is None else set(self.keep.leave_out)
            named = zip(self.predictor.classes, _rounded(thresholds), strict=True)
            info["thresholds"] = [None if name in left_out else value for name, value in named]
        return info | ({"keep": asdict(self.keep)} if self.keep is not None else {})


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
