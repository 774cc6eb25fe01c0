"""`gdseg eval`: mask and box AP of a network or of a results file. Parse, call gdseg.eval, print."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, print_json, print_table
from gdseg.cli.progress import progress
from gdseg.errors import CheckpointError, DataError, UsageError

if TYPE_CHECKING:
    from gdseg.data.dataset import Dataset
    from gdseg.eval.scores import Scores
    from gdseg.models.checkpoint import Network

EXAMPLES = """Examples:

  gdseg eval                                        the last run: every network it has

  gdseg eval runs/R --role student --per-class      one network, every class

  gdseg eval --pred results.json --data my_data     results of any tool, in COCO format
"""
ROLES = ("teacher", "student")


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CKPT] [KEY=VALUE]...",
            help="A .safetensors file or a run (default: the last run); overrides of recipe keys.",
            show_default=False,
        ),
    ] = None,
    data: o.DataOpt = None,
    role: Annotated[
        str | None, typer.Option("--role", help="student, teacher or both (default: all there are).")
    ] = None,
    pred: Annotated[
        Path | None,
        typer.Option(
            "--pred", help="COCO results json to score instead of a network.", rich_help_panel=o.DATA
        ),
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="A table of all classes too.", rich_help_panel=o.OUTPUT)
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File for the json (default: beside what is evaluated).",
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    batch_size: o.BatchSizeOpt = None,
    device: o.DeviceOpt = "auto",
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Mask and box AP on the validation images."""
    if role not in (None, "both", *ROLES):
        raise UsageError(f"'{role}' is no role", "--role", "student, teacher or both")
    given, overrides = split_arguments(arguments or [])
    if pred is not None:
        if given is not None or role is not None:
            raise UsageError(
                "--pred scores a file, a checkpoint or --role has no part in it", "--pred", "leave it away"
            )
        scores = {"results": _score_file(pred, data, overrides)}
        target, sources = out or pred.with_suffix(".eval.json"), {"results": pred}
    else:
        sources = networks(given, role)
        scores = {
            name: _score_network(file, data, overrides, device, batch_size, quiet=quiet or as_json)
            for name, file in sources.items()
        }
        target = out or _beside(list(sources.values())[-1])
    _report(scores, sources, target, per_class=per_class, as_json=as_json, quiet=quiet)


def split_arguments(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The checkpoint, if one is named, and the overrides. Raises UsageError for a second word without '='."""
    words = [word for word in arguments if "=" not in word or Path(word).exists()]
    if len(words) > 1:
        raise UsageError(
            f"one checkpoint at a time, found {' '.join(words)}", hint="overrides look like key=value"
        )
    return (words[0] if words else None), [word for word in arguments if word not in words]


def networks(given: str | None, role: str | None) -> dict[str, Path]:
    """Name -> file of each network to evaluate. Raises CheckpointError when one is missing.

    Without a role, a distillation shows the pretrained teacher it started from, if it is still there.
    """
    from gdseg.runs import find_checkpoint, last_run, teacher_of

    if given is not None and Path(given).is_file():
        if role is not None:
            raise UsageError("--role chooses a network of a run, this is a file", given, "leave --role away")
        return {Path(given).stem: Path(given)}
    run = str(last_run()) if given is None else given
    if role in ROLES:
        return {str(role): find_checkpoint(run, role)}
    found = {}
    if role is None:
        with suppress(CheckpointError):
            found["pretrained teacher"] = teacher_of(Path(run))
    for name in ROLES:
        try:
            # a distillation's own teacher is the student's moving average
            shown = "EMA teacher" if name == "teacher" and found else name
            found[shown] = find_checkpoint(run, name)
        except CheckpointError:
            if role == "both":
                raise
    return found or {"network": find_checkpoint(run)}


def check_classes(network: Network, dataset: Dataset, path: Path) -> None:
    """Raise CheckpointError, naming the difference, unless network and data have the same classes."""
    if network.classes == dataset.classes:
        return
    ours, theirs = network.classes, dataset.classes
    parts = [f"the checkpoint has {len(ours)} classes, the data {len(theirs)}"]
    for owner, names, others in (("checkpoint", ours, theirs), ("data", theirs, ours)):
        only = [name for name in names if name not in others]
        if only:
            parts.append(f"only in the {owner}: {', '.join(only[:8])}{' ..' if len(only) > 8 else ''}")
    if len(parts) == 1:
        parts.append("the same names in another order of category ids")
    raise CheckpointError("; ".join(parts), path, f"use the data it was trained for; this is {dataset.root}")


def _score_network(
    file: Path, data: str | None, overrides: list[str], device: str, batch_size: int | None, *, quiet: bool
) -> Scores:
    from gdseg.data.dataset import open_dataset
    from gdseg.device import resolve_device
    from gdseg.eval.coco import score
    from gdseg.eval.run import find
    from gdseg.models.checkpoint import load_network
    from gdseg.recipe import Data
    from gdseg.recipe_yaml import apply_overrides

    chosen = resolve_device(device)
    network = load_network(file, chosen)
    recipe = network.recipe
    if recipe.task == "semantic":
        raise UsageError("a semantic network has no instances to score", file, "look at them: gdseg predict")
    if data is not None:  # where its parts are is looked for anew
        recipe.data = Data(root=data, workers=recipe.data.workers)
    recipe = apply_overrides(recipe, overrides)
    dataset = open_dataset(recipe.data, ("val",))
    check_classes(network, dataset, file)
    with progress(f"{network.role}: image", quiet=quiet) as tell:
        results = find(network.model, dataset, recipe, chosen, batch_size, tell)
    return score(
        dataset.val, dataset.classes, dataset.category_ids, results, recipe.postprocess.max_detections
    )


def _score_file(pred: Path, data: str | None, overrides: list[str]) -> Scores:
    from gdseg.data.coco import read_coco
    from gdseg.data.dataset import open_dataset
    from gdseg.eval.coco import score
    from gdseg.eval.results import read_results
    from gdseg.recipe import Data, Recipe
    from gdseg.recipe_yaml import apply_overrides

    recipe = apply_overrides(Recipe(data=Data(root=data or "shapes")), overrides)
    path = Path(recipe.data.root)
    if path.is_file():  # the truth's json itself: no image is needed
        content = read_coco(path, path.parent)
        faults = [f for f in content.faults if not f.harmless and f.kind != "missing image file"]
        if faults:
            raise DataError(f"{len(faults)} faults; first: {faults[0]}", path, "correct the annotations")
        records, classes, ids = content.records, content.classes, content.category_ids
    else:
        dataset = open_dataset(recipe.data, ("val",))
        records, classes, ids = dataset.val, dataset.classes, dataset.category_ids
    return score(records, classes, ids, read_results(pred, records, ids), recipe.postprocess.max_detections)


def _beside(file: Path) -> Path:
    """eval.json in the run that the file belongs to, or a file of that kind beside it."""
    run = file.parent.parent
    return run / "eval.json" if (run / "run.json").is_file() else file.with_suffix(".eval.json")


def _report(
    scores: dict[str, Scores],
    sources: dict[str, Path],
    target: Path,
    *,
    per_class: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from gdseg.files import plain, write_json

    document: dict[str, Any] = {
        name: {"source": str(sources[name]), "metrics": s.metrics, "per_class": s.per_class}
        for name, s in scores.items()
    }
    write_json(target, document)
    if as_json:
        print_json(plain(document))
        return
    if quiet:
        return
    header = ["", "AP", "AP50", "AP75", "S", "M", "L", "AR1", "AR10", "AR"]
    rows = [
        [f"{name} {kind}", *map(percent, values)]
        for name, s in scores.items()
        for kind in ("mask", "box")
        if (values := [v for k, v in s.metrics.items() if k.startswith(kind + "_")][:9])
    ]
    print_table("AP (S M L: of small, medium, large objects) and AR, %", header, rows)
    for name, s in scores.items() if per_class else ():
        print_table(f"{name}, each class, %", *class_table(s))
    err.print(f"written to {target}", highlight=False, soft_wrap=True)


def class_table(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the classes."""
    keys = [
        k
        for k in ("mask_ap", "mask_ap50", "box_ap", "box_ap50")
        if any(k in v for v in scores.per_class.values())
    ]
    header = ["class", "objects", *(key.replace("_ap", " AP") for key in keys)]
    rows = [
        [name, f"{values['objects']:.0f}", *(percent(values[key]) for key in keys)]
        for name, values in scores.per_class.items()
    ]
    return header, rows


def percent(value: float) -> str:
    """12.3, or - where nothing can be said (NaN)."""
    return "-" if value != value else f"{100 * value:.1f}"
