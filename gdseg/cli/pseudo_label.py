"""`gdseg pseudo-label`: a network's labels for a folder, to look at, edit and train with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, print_json, print_table
from gdseg.cli.predict import load, raise_failed, split_checkpoint
from gdseg.cli.progress import progress
from gdseg.cli.run_options import recipe_changes
from gdseg.errors import DataError, UsageError
from gdseg.words import counted

if TYPE_CHECKING:
    from torch import Tensor

    from gdseg.predict import Predictor
    from gdseg.recipe import Distill
    from gdseg.structures import Predictions
    from gdseg.view.sheets import Sheet

_OF_THRESHOLDS = ("class_threshold", "thresholds", "fallback")
EXAMPLES = """Examples:

  gdseg pseudo-label photos/ --out labels.json           the last run's best network

  gdseg pseudo-label runs/R photos/ --conf 0.8 --out labels.json

  gdseg pretrain data.train=$PWD/labels.json data.train_images=$PWD/photos --data my_data    train with them
"""


def command(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[CKPT] DIR... [KEY=VALUE]...",
            help="A .safetensors file or a run (default: the last); folders, files, globs; distill.* keys.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path, typer.Option("--out", "-o", help="The COCO json to write.", rich_help_panel=o.OUTPUT)
    ] = Path("labels.json"),
    conf: Annotated[
        float | None,
        typer.Option(
            "--conf",
            help="Class score above which a label is kept (default: the recipe's).",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option("--sample", help="Images on the contact sheet; 0: no sheet.", min=0)
    ] = 36,
    overwrite: o.OverwriteOpt = False,
    device: o.DeviceOpt = "auto",
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Write a network's labels as an editable COCO json, with a contact sheet and counts."""
    if target.exists() and not overwrite:
        raise UsageError("the file exists", target, "use --overwrite to replace it or name another --out")
    overrides = [word for word in arguments if "=" in word and not Path(word).exists()]
    checkpoint, names = split_checkpoint([word for word in arguments if word not in overrides])
    if not names:
        raise UsageError("there is no image to label", hint="gdseg pseudo-label [CKPT] DIR")
    from gdseg.predict import iter_images
    from gdseg.recipe_yaml import apply_overrides
    from gdseg.view.sheets import Sheet

    paths = list(iter_images(names))
    predictor = _load_instances(checkpoint, device, quiet=quiet)
    changes = recipe_changes({"conf": conf, "overrides": overrides}, conf="distill.class_threshold")
    rule = apply_overrides(predictor.network.recipe, changes).distill
    thresholds = _thresholds(predictor, changes)
    _warn(predictor, rule, thresholds)
    work = Work(predictor, paths, rule, thresholds, Sheet(sheet_title(rule, thresholds)), sample)
    with progress("image", quiet=quiet or as_json) as tell:
        document = work.run(tell)
    if document["images"]:
        work.write(document, target)
    work.report(target, as_json=as_json, quiet=quiet)
    work.say_if_empty()
    raise_failed(work.failed, len(paths))


def _load_instances(checkpoint: str | None, device: str, *, quiet: bool) -> Predictor:
    """The network, the last one if none is named. Raises UsageError if it does not find instances."""
    predictor = load(checkpoint, device, [], quiet=quiet)
    if predictor.network.recipe.task != "instance":
        what = f"pseudo-label writes instances, this network is {predictor.network.recipe.task}"
        raise UsageError(what, predictor.path, "gdseg predict writes its maps, which gdseg reads as labels")
    return predictor


def sheet_title(rule: Distill, thresholds: Tensor | None = None) -> str:
    """What stands above the contact sheet; thresholds: of each class, where they differ."""
    above = f"class score above {f'{rule.class_threshold:g}' if thresholds is None else 'its threshold'}"
    return f"Pseudo-labels. Filled: kept, {above}. Dotted outline: not kept, score below"


def _thresholds(predictor: Predictor, changes: list[str]) -> Tensor | None:
    """Those of each class that the network's run has moved, unless others were asked for."""
    from gdseg.train.label_images import moved_thresholds

    folder, network = predictor.path.parent, predictor.network
    asked = {change.split("=")[0] for change in changes} & {f"distill.{name}" for name in _OF_THRESHOLDS}
    if asked or folder.name != "checkpoints":
        return None
    return moved_thresholds(folder.parent, network.recipe.distill, len(network.classes), network.step)


def _warn(predictor: Predictor, rule: Distill, thresholds: Tensor | None) -> None:
    from gdseg.train.label_images import not_applied

    if keys := not_applied(rule, predictor.network.recipe.inference, thresholds, tiled=True):
        text = f"warning: not applied here: {', '.join(keys)}"
        err.print(text, highlight=False, markup=False, soft_wrap=True)


@dataclass
class Work:
    """One call of pseudo-label: what to do, and what came of it."""

    predictor: Predictor
    paths: list[Path]
    rule: Distill
    thresholds: Tensor | None
    sheet: Sheet
    sample: int
    failed: list[tuple[Path, str]] = field(default_factory=list)
    images: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    scores: dict[str, float] = field(default_factory=dict)
    best: float = 0.0  # class score, of what is not kept too

    def run(self, tell: Any) -> dict[str, Any]:
        """The COCO document of all images, made one image at a time."""
        from gdseg.cli.predict import common_root
        from gdseg.coco_json import coco_document

        network, root = self.predictor.network, common_root(self.paths)
        info = {
            "description": "pseudo-labels of gdseg",
            "checkpoint": str(self.predictor.path),
            "images": str(root),
            "rule": vars(self.rule),
            **(
                {}
                if self.thresholds is None
                else {"thresholds": [round(v, 4) for v in self.thresholds.tolist()]}
            ),
        }
        return coco_document(self._each(tell), network.classes, network.category_ids, info, root)

    def _each(self, tell: Any) -> Iterator[Predictions]:
        from dataclasses import replace

        from gdseg.data.images import read_image
        from gdseg.train.label_images import label_image
        from gdseg.view.draw import displayable
        from gdseg.view.sheets import spread

        shown = set(spread(len(self.paths), self.sample))
        for number, path in enumerate(self.paths):
            try:
                image = read_image(path, self.predictor.network.recipe.backbone.in_channels)
            except DataError as error:
                self.failed.append((path, error.what))
                err.print(f"skipped {path}: {error.what}", highlight=False, markup=False, soft_wrap=True)
                continue
            *found, best = label_image(self.predictor, image, self.rule, self.thresholds)
            kept, below = (replace(p, path=path) for p in found)
            self.best = max(self.best, best)
            if number in shown:
                caption = f"{path.name}: {len(kept)} kept, {len(below)} below"
                self.sheet.add(displayable(image), kept, caption, dropped=below)
            self._count(kept)
            tell(number + 1, len(self.paths))
            yield kept

    def _count(self, kept: Predictions) -> None:
        names = [kept.names[label] for label in kept.labels.tolist()]
        self.images.update(set(names))
        self.objects.update(names)
        for name, score in zip(names, kept.scores.tolist(), strict=True):
            self.scores[name] = self.scores.get(name, 0.0) + score

    def write(self, document: dict[str, Any], target: Path) -> None:
        """The json, and the contact sheet beside it."""
        from gdseg.files import write_json
        from gdseg.writers import save_picture

        write_json(target, document, indent=None)
        if self.sheet.cells:
            save_picture(self.sheet.render(), target.with_suffix(".png"))

    def say_if_empty(self) -> None:
        """That no image has a label, and why: the class score, or what else the rule asks for."""
        if self.objects or len(self.failed) == len(self.paths):
            return
        bar = self.rule.class_threshold if self.thresholds is None else float(self.thresholds.min())
        why, advice = "which is not enough", "lower --conf"
        if self.best > bar:
            keys = ["min_area"] + ["mask_threshold"] * bool(self.rule.mask_threshold)
            keys += ["score"] * (self.rule.score != "class")
            why = "but the rule asks for more than that"
            advice = f"lower {', '.join(f'distill.{key}' for key in keys)} or --conf"
        text = f"warning: no image has a label; the best class score is {self.best:.3g}, {why}: {advice}"
        err.print(text, highlight=False, markup=False, soft_wrap=True)

    def report(self, target: Path, *, as_json: bool, quiet: bool) -> None:
        """Counts a class, and where the files are."""
        done = len(self.paths) - len(self.failed)
        if as_json:
            counts = {name: self.objects[name] for name in self.predictor.classes}
            failed = [str(path) for path, _ in self.failed]
            out = str(target) if done else None
            print_json({"out": out, "images": done, "objects": counts, "failed": failed})
            return
        if quiet or not done:
            return
        rows = [
            [
                name,
                str(self.objects[name]),
                str(self.images[name]),
                f"{self.scores[name] / self.objects[name]:.2f}",
            ]
            if self.objects[name]
            else [name, "0", "0", "-"]
            for name in self.predictor.classes
        ]
        title = f"{counted(sum(self.objects.values()), 'pseudo-label')} in {counted(done, 'image')}"
        print_table(title, ["class", "objects", "images", "mean score"], rows)
        sheet = f", contact sheet in {target.with_suffix('.png')}" if self.sheet.cells else ""
        err.print(f"labels in {target}{sheet}", highlight=False, markup=False, soft_wrap=True)
