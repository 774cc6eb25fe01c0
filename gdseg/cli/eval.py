"""`gdseg eval`: AP, panoptic quality or mIoU of a network or of a file. Parse, call gdseg.eval, print."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, print_json, print_table
from gdseg.cli.eval_tables import class_table, main_table
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

  gdseg eval --pred predictions/semantic --data my_data
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
            "--pred",
            help="Predictions to score instead of a network: COCO results, panoptic json, folder of PNGs.",
            rich_help_panel=o.DATA,
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
    """AP, panoptic quality or mIoU (by the network's task) on the validation images."""
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
    from gdseg.eval.run import evaluate
    from gdseg.models.checkpoint import load_network
    from gdseg.recipe import Data
    from gdseg.recipe_yaml import apply_overrides

    chosen = resolve_device(device)
    network = load_network(file, chosen)
    recipe = network.recipe
    if data is not None:  # where its parts are is looked for anew
        recipe.data = Data(root=data, workers=recipe.data.workers)
    recipe = apply_overrides(recipe, overrides)
    dataset = open_dataset(recipe.data, ("val",), task=recipe.task)
    check_classes(network, dataset, file)
    with progress(f"{network.role}: image", quiet=quiet) as tell:
        return evaluate(network.model, dataset, recipe, chosen, batch_size, tell)


def _score_file(pred: Path, data: str | None, overrides: list[str]) -> Scores:
    from gdseg.data.dataset import open_dataset
    from gdseg.eval.maps import score_maps
    from gdseg.eval.maps_file import read_panoptic, read_semantic, task_of
    from gdseg.eval.results import read_results
    from gdseg.eval.run import score_instances
    from gdseg.recipe import Data, Recipe
    from gdseg.recipe_yaml import apply_overrides

    recipe, task = apply_overrides(Recipe(data=Data(root=data or "shapes")), overrides), task_of(pred)
    if task == "instance" and Path(recipe.data.root).is_file():
        dataset = _truth_alone(Path(recipe.data.root))
    else:
        dataset = open_dataset(recipe.data, ("val",), task=task)
    if task != "instance":
        read = read_panoptic if task == "panoptic" else read_semantic
        return score_maps(read(pred, dataset), dataset, task)
    results = read_results(pred, dataset.val, dataset.category_ids)
    return score_instances(dataset, results, recipe.postprocess.max_detections)


def _truth_alone(path: Path) -> Dataset:
    """A data set of the truth's json itself: no image is needed."""
    from gdseg.data.coco import read_coco
    from gdseg.data.dataset import Dataset

    content = read_coco(path, path.parent)
    faults = [f for f in content.faults if not f.harmless and f.kind != "missing image file"]
    if faults:
        raise DataError(f"{len(faults)} faults; first: {faults[0]}", path, "correct the annotations")
    return Dataset(path.parent, [], content.records, content.classes, content.category_ids)


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
    print_table(*main_table(scores))
    for name, s in scores.items() if per_class else ():
        print_table(f"{name}, each class, %", *class_table(s))
    err.print(f"written to {target}", highlight=False, soft_wrap=True)
