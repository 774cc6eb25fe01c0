"""`gdseg pseudo-label`: a network's labels for a folder, to look at, edit and train with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err
from gdseg.cli.predict import common_root, load, raise_failed, split_checkpoint
from gdseg.cli.progress import progress
from gdseg.cli.pseudo_label_report import report, say_if_empty, say_shard, sheet_title
from gdseg.cli.run_options import recipe_changes
from gdseg.errors import RecipeError, UsageError
from gdseg.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from gdseg.eval.label_truth import LabelTruth
    from gdseg.predict import Predictor
    from gdseg.recipe import Distill
    from gdseg.train.keep import Keep
    from gdseg.train.label_folder import Folder
    from gdseg.train.label_parts import Shard

_OF_THRESHOLDS = ("class_threshold", "thresholds", "fallback")
EXAMPLES = """Examples:

  gdseg pseudo-label photos/ --out labels.json           the last run's best network

  gdseg pseudo-label runs/R photos/ --conf 0.8 --jobs 4 --truth truth.json

  gdseg pseudo-label runs/R photos/ --shard 1/4          on one of four machines; the others: 2/4, ..

  gdseg pseudo-label runs/R photos/                      then puts the four together

  gdseg pretrain data.train=$PWD/labels.json data.train_images=$PWD/photos --data my_data    train with them

With the maps of a semantic network: data.train=$PWD/labels data.train_images=$PWD/photos
data.classes=$PWD/labels/classes.json

A --keep file is YAML with any of class_threshold, mask_threshold (in place of the recipe's), min_pixels,
max_pixels (of an object in the image), max_instances (of an image, best first), min_objects, max_objects (an
image with fewer or more is left out), leave_out: [CLASS, ..], classes: {CLASS: {class_threshold: ..,
min_pixels: .., max_pixels: ..}}.
"""


ArgumentsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="[CKPT] DIR... [KEY=VALUE]...",
        help="A .safetensors file or a run (default: the last); folders, files, globs; distill.* keys.",
        show_default=False,
    ),
]
TargetOpt = Annotated[
    Path, typer.Option("--out", "-o", help="The COCO json to write.", rich_help_panel=o.OUTPUT)
]
ConfOpt = Annotated[
    float | None,
    typer.Option(
        "--conf", help="Class score above which a label is kept (default: the recipe's).", min=0.0, max=1.0
    ),
]
KeepOpt = Annotated[
    Path | None, typer.Option("--keep", help="YAML file of what is kept: see below.", metavar="FILE")
]
TruthOpt = Annotated[
    Path | None,
    typer.Option(
        "--truth",
        help="Labels of some of the images, matched by file name: precision, recall, and how masks fit.",
        metavar="FILE",
    ),
]
SampleOpt = Annotated[int, typer.Option("--sample", help="Images on the contact sheet; 0: no sheet.", min=0)]
JobsOpt = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Processes (default: on a CPU one a thread, up to 8; else 1). Labels do not depend on it.",
        rich_help_panel=o.ADVANCED,
    ),
]
ShardOpt = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Label the I-th of N shares of the images, into OUT.parts/; after all of them the command"
        " without it writes the labels.",
        rich_help_panel=o.ADVANCED,
    ),
]


def command(
    arguments: ArgumentsArg,
    target: TargetOpt = Path("labels.json"),
    conf: ConfOpt = None,
    keep: KeepOpt = None,
    truth: TruthOpt = None,
    sample: SampleOpt = 36,
    jobs: JobsOpt = None,
    shard: ShardOpt = None,
    overwrite: o.OverwriteOpt = False,
    device: o.DeviceOpt = "auto",
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Write a network's labels as an editable COCO json, with a contact sheet and counts.

    Of panoptic and semantic networks also label maps, in a folder of the json's name.

    What is interrupted goes on where it was: give the same command again.
    """
    share = read_shard(shard, overwrite=overwrite)
    overrides = [word for word in arguments if "=" in word and not Path(word).exists()]
    checkpoint, names = split_checkpoint([word for word in arguments if word not in overrides])
    if not names:
        raise UsageError("there is no image to label", hint="gdseg pseudo-label [CKPT] DIR")
    from gdseg.device import resolve_device
    from gdseg.predict import iter_images
    from gdseg.train.label_run import number_of_jobs
    from gdseg.view.sheets import Sheet

    paths = _images(iter_images(names), target, sheet=sample > 0, overwrite=overwrite)
    chosen = resolve_device(device)
    number = number_of_jobs(jobs, len(paths) // share[1], chosen)
    # of several processes each has the network for itself
    predictor = load(checkpoint, "cpu" if number > 1 else str(chosen), [], quiet=quiet)
    changes = recipe_changes({"conf": conf, "overrides": overrides}, conf="distill.class_threshold")
    folder = _folder(predictor, paths, target, changes, keep, sample)
    known = _read_truth(truth, folder)
    silent = quiet or as_json
    with progress("image", quiet=silent) as tell:
        found = (lambda done, total: None) if silent else _say_found
        folder.label(
            str(chosen), number, share, overwrite=overwrite, tell=tell, skipped=_say_skipped, found=found
        )
    if shard is not None:
        say_shard(folder, shard, as_json=as_json, quiet=quiet)
        return
    sheet = Sheet(sheet_title(folder))
    summary = folder.write(sheet, known)
    report(folder, summary, known, with_sheet=bool(sheet.cells), as_json=as_json, quiet=quiet)
    say_if_empty(folder, summary)
    raise_failed([(paths[n], why) for n, why in summary.failed], len(paths))


def _folder(
    predictor: Predictor, paths: list[Path], target: Path, changes: list[str], keep: Path | None, sample: int
) -> Folder:
    """What is to be labelled, by the network's rule with `changes`. Raises RecipeError, UsageError."""
    from gdseg.recipe_yaml import apply_overrides
    from gdseg.train.label_folder import Folder

    _refuse_useless(predictor.network.recipe.task, changes)
    rule = apply_overrides(predictor.network.recipe, changes).distill
    thresholds = _thresholds(predictor, changes)
    _warn(predictor, rule, thresholds)
    kept = _read_keep(keep, predictor, changes)
    return Folder(predictor, paths, common_root(paths), target, rule, thresholds, kept, sample)


def _refuse_useless(task: str, changes: list[str]) -> None:
    """Raise UsageError for thresholds of objects, given for a network of regions."""
    for change in changes if task == "semantic" else ():
        if change.split("=")[0] in ("distill.class_threshold", "distill.mask_threshold"):
            what = f"{change}: a threshold of objects (--conf too), which a semantic network does not find"
            raise UsageError(what, hint="use distill.region_threshold=X")


def read_shard(text: str | None, *, overwrite: bool) -> Shard:
    """(I, N) of "I/N", (1, 1) of None. Raises UsageError."""
    if text is None:
        return 1, 1
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"'{text}' is no shard", "--shard", "as 2/4, the second of four; from 1/4 to 4/4")
    if overwrite:
        what = "--overwrite with --shard would delete what other shards have done"
        raise UsageError(what, "--shard", "delete what is to be replaced first, or name another --out")
    return int(match[1]), int(match[2])


def _images(found: Iterable[Path], target: Path, *, sheet: bool, overwrite: bool) -> list[Path]:
    """The images to label, before anything is loaded.

    Raises UsageError where there are labels already and none half done, and as `refuse_place`.
    """
    from gdseg.train.label_parts import may_replace
    from gdseg.train.label_place import parts_folder, refuse_place, without_own

    if target.exists() and not overwrite and not parts_folder(target).is_dir():
        raise UsageError("the file exists", target, "use --overwrite to replace it or name another --out")
    refuse_place([], target, sheet=False, replaces=overwrite)
    paths = without_own([*found], target)
    refuse_place(paths, target, sheet=sheet, replaces=overwrite or may_replace(target))
    return paths


def _thresholds(predictor: Predictor, changes: list[str]) -> Tensor | None:
    """Those of each class that the network's run has moved, unless others were asked for."""
    from gdseg.train.label_images import moved_thresholds

    folder, network = predictor.path.parent, predictor.network
    asked = {change.split("=")[0] for change in changes} & {f"distill.{name}" for name in _OF_THRESHOLDS}
    if asked or folder.name != "checkpoints":
        return None
    return moved_thresholds(folder.parent, network.recipe.distill, len(network.classes), network.step)


def _read_keep(path: Path | None, predictor: Predictor, changes: list[str]) -> Keep | None:
    """The --keep file. Raises RecipeError for its faults, UsageError for a key that is also given here."""
    if path is None:
        return None
    from gdseg.train.keep import read_keep

    keep = read_keep(path, predictor.classes)
    if predictor.network.recipe.task == "semantic" and (useless := keep.thresholds_given()):
        what = f"{path}: {', '.join(useless)}: of objects, which a semantic network does not find"
        raise RecipeError(what, hint="leave it out, and use distill.region_threshold=X with the command")
    for name in ("class_threshold", "mask_threshold"):
        asked = any(change.split("=")[0] == f"distill.{name}" for change in changes)
        if asked and getattr(keep, name) is not None:
            what = f"{name} is given here and in the --keep file"
            raise UsageError(what, path, "keep one of them" + " (--conf)" * (name == "class_threshold"))
    return keep


def _read_truth(path: Path | None, folder: Folder) -> LabelTruth | None:
    if path is None:
        return None
    from gdseg.eval.label_truth import read_truth

    network = folder.predictor.network
    ignore_label = network.recipe.data.ignore_label
    return read_truth(path, network.recipe.task, folder.paths, network.table, ignore_label)


def _say_found(done: int, total: int) -> None:
    rest = f"{total - done} to do" if done < total else "none to do"
    err.print(f"labelled already: {done} of {counted(total, 'image')}, {rest}", highlight=False)


def _say_skipped(path: Path, why: str) -> None:
    err.print(f"skipped {path}: {why}", highlight=False, markup=False, soft_wrap=True)


def _warn(predictor: Predictor, rule: Distill, thresholds: Tensor | None) -> None:
    from gdseg.train.label_images import not_applied

    recipe = predictor.network.recipe
    if keys := not_applied(rule, recipe.inference, thresholds, tiled=recipe.task == "instance"):
        text = f"warning: not applied here: {', '.join(keys)}"
        err.print(text, highlight=False, markup=False, soft_wrap=True)
