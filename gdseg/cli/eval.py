"""`gdseg eval`: AP, panoptic quality or mIoU of a network or of a file. Parse, call gdseg.eval, print."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, print_json, print_table
from gdseg.cli.progress import progress
from gdseg.cli.run_options import inference_changes, say_last
from gdseg.errors import CheckpointError, DataError, UsageError
from gdseg.runs import ROLES, last_run, network_name, read_run
from gdseg.words import counted

if TYPE_CHECKING:
    from gdseg.data.dataset import Dataset
    from gdseg.eval.predictions_file import PredictionsFile
    from gdseg.eval.scores import Scores
    from gdseg.models.checkpoint import Network
    from gdseg.recipe import Data

EXAMPLES = """Examples:

  gdseg eval                                        the last run: every network it has

  gdseg eval runs/R --role student --per-class      one network, every class

  gdseg eval --pred results.json --data my_data     results of any tool, in COCO format

  gdseg eval --pred predictions/semantic --data my_data

  gdseg eval --pred part0.json --pred part1.json    what several processes wrote, as one

  gdseg eval runs/R --boundary --areas 100,400      boundary AP too; other limits of S, M, L

  gdseg eval runs/R --tile 1024 --overlap 200       large images piece by piece

  gdseg eval runs/R --scales 0.75,1,1.5 --flip      several views of each image, averaged
"""
# of recipe.data: what the validation data depends on, besides its folder
_VAL_KEYS = ("format", "val", "val_images", "val_maps", "classes", "ignore_label")
_LOW = 0.05  # of scores: what lies below hardly changes AP
_FEW = 20  # validation images, a choice: scores of fewer depend much on which they are

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CKPT] [KEY=VALUE]...",
        help="A .safetensors file or a run (default: the last run); overrides of recipe keys.",
        show_default=False,
    ),
]
RoleOpt = Annotated[
    str | None, typer.Option("--role", help="student, teacher or both (default: all there are).")
]
PredOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--pred",
        "--predictions",
        help="Predictions to score instead of a network: COCO results, panoptic json, folder of PNGs;"
        " several are joined, no image may be in two.",
        rich_help_panel=o.DATA,
    ),
]
BoundaryOpt = Annotated[
    bool, typer.Option("--boundary", help="Boundary AP, Boundary PQ or boundary IoU of classes too.")
]
AreasOpt = Annotated[
    str,
    typer.Option(
        "--areas",
        metavar="auto|coco|thirds|M,L",
        help="Area in pixels from which an object is medium, and large: COCO's 1024,9216, thirds of the"
        " data's objects, or two numbers. auto: COCO's, or thirds where a size had under 1 % of them.",
    ),
]
PerClassOpt = Annotated[
    bool, typer.Option("--per-class", help="A table of all classes too.", rich_help_panel=o.OUTPUT)
]
OutOpt = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="File for the json (default: beside what is evaluated).", rich_help_panel=o.OUTPUT
    ),
]


def command(
    context: typer.Context,
    arguments: Arguments = None,
    data: o.DataOpt = None,
    role: RoleOpt = None,
    pred: PredOpt = None,
    boundary: BoundaryOpt = False,
    areas: AreasOpt = "auto",
    per_class: PerClassOpt = False,
    out: OutOpt = None,
    batch_size: o.BatchSizeOpt = None,
    tile: o.TileOpt = None,
    overlap: o.OverlapOpt = None,
    scales: o.ScalesOpt = None,
    flip: o.FlipOpt = None,
    device: o.DeviceOpt = "auto",
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Score the validation images by the network's task: AP of instances, panoptic quality, or mIoU.

    Instances: COCO's mask and box AP and AR, by LVIS's rules where the data is
    federated; Cityscapes' own AP, and iIoU of semantic maps, on its files.

    The best 100 detections of a class are judged in an image (LVIS: 300 in all),
    more where the recipe keeps more or an image holds more objects.
    """
    if role not in (None, "both", *ROLES):
        raise UsageError(f"'{role}' is no role", "--role", "student, teacher or both")
    given, overrides = split_arguments(arguments or [])
    overrides = inference_changes(context.params, overrides)
    how: dict[str, Any] = {"boundary": boundary, "areas": read_areas(areas)}
    about: dict[str, dict[str, Any]] = {}
    if pred:
        if given is not None or role is not None or inference_changes(context.params):
            what = "--pred scores a file, a checkpoint, --role, tiles or views have no part in it"
            raise UsageError(what, "--pred", "leave it away")
        scored, of = _score_files(pred, data, overrides, how, quiet=quiet)
        scores = {"results": scored}
        about["results"] = {"source": pred if len(pred) > 1 else pred[0], **of}
        target = out or pred[0].with_suffix(".eval.json")
    else:
        if given is None:
            say_last(last_run(), quiet=quiet)
        files = networks(given, role)
        scores, other = {}, ""
        for name, file in files.items():
            scores[name], of, other = _score_network(
                name, file, data, overrides, device, batch_size, how, quiet=quiet or as_json
            )
            about[name] = {"source": file, **of}
        target = out or _beside(list(files.values())[-1], other)
    _report(scores, about, target, per_class=per_class, as_json=as_json, quiet=quiet)


def read_areas(text: str) -> tuple[float, float] | str:
    """Where medium and large objects begin: "auto", "thirds" or two numbers. Raises UsageError."""
    if text in ("auto", "thirds"):
        return text
    try:
        first, second = (float(part) for part in ("1024,9216" if text == "coco" else text).split(","))
    except ValueError:
        first = second = 0
    if not 0 < first < second < float("inf"):
        raise UsageError(f"'{text}' are no limits of areas", "--areas", "as 1024,9216, or coco, thirds, auto")
    return first, second


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
    from gdseg.runs import find_checkpoint, networks_of

    if given is not None and Path(given).is_file():
        if role is not None:
            raise UsageError("--role chooses a network of a run, this is a file", given, "leave --role away")
        return {Path(given).stem: Path(given)}
    run = str(last_run()) if given is None else given
    if role in ROLES:
        return {role: find_checkpoint(run, role)}
    if role == "both":
        return {name: find_checkpoint(run, name) for name in ROLES}
    return networks_of(Path(run)) or {"network": find_checkpoint(run)}


def check_classes(network: Network, dataset: Dataset, path: Path) -> None:
    """Raise CheckpointError, naming the difference, unless network and data have the same classes."""
    if network.classes == dataset.classes:
        return
    ours, theirs = network.classes, dataset.classes
    parts = [f"the checkpoint has {counted(len(ours), 'class')}, the data {len(theirs)}"]
    for owner, names, others in (("checkpoint", ours, theirs), ("data", theirs, ours)):
        only = [name for name in names if name not in others]
        if only:
            parts.append(f"only in the {owner}: {', '.join(only[:8])}{' ..' if len(only) > 8 else ''}")
    if len(parts) == 1:
        parts.append("the same names in another order of category ids")
    raise CheckpointError("; ".join(parts), path, f"use the data it was trained for; this is {dataset.root}")


def _score_network(
    name: str,
    file: Path,
    data: str | None,
    overrides: list[str],
    device: str,
    batch_size: int | None,
    how: dict[str, Any],
    *,
    quiet: bool,
) -> tuple[Scores, dict[str, Any], str]:
    """The scores, what they are of, and a name for the data where it is not the network's own.

    name: what progress calls the network.
    """
    from gdseg.data.dataset import open_dataset
    from gdseg.device import resolve_device
    from gdseg.eval.run import evaluate
    from gdseg.models.checkpoint import load_network
    from gdseg.recipe import Data
    from gdseg.recipe_yaml import apply_overrides
    from gdseg.train.start import labels_sha256

    chosen = resolve_device(device)
    network = load_network(file, chosen)
    recipe, own = network.recipe, network.recipe.data
    if data is not None:  # where its parts are is looked for anew
        recipe.data = Data(root=data, workers=own.workers)
    recipe = apply_overrides(recipe, overrides)
    dataset = open_dataset(recipe.data, ("val",), task=recipe.task)
    check_classes(network, dataset, file)
    with progress(f"{name}: image", quiet=quiet) as tell:
        scores = evaluate(network.model, dataset, recipe, chosen, batch_size, tell, **how)
    labels = labels_sha256(dataset.val_json, dataset.val)
    return scores, _judged_on(dataset), other_data(own, recipe.data, labels)


def other_data(own: Data, used: Data, labels: str | None) -> str:
    """A name for the validation data used, its own for each; empty if it is a network's own.

    labels: their sha256.
    """
    place = str(Path(used.root).resolve())
    keys = [getattr(used, key) for key in _VAL_KEYS]
    if place == str(Path(own.root).resolve()) and keys == [getattr(own, key) for key in _VAL_KEYS]:
        return ""
    digest = hashlib.sha256(json.dumps([place, keys, labels]).encode()).hexdigest()
    return f"{Path(place).name}-{Path(used.val or 'val').stem}-{digest[:6]}"


def _judged_on(dataset: Dataset) -> dict[str, Any]:
    """What the scores are of, for the document."""
    labels = dataset.val_json and dataset.val_json.resolve()
    return {"data": dataset.root.resolve(), "labels": labels, "images": len(dataset.val)}


def _score_files(
    preds: list[Path], data: str | None, overrides: list[str], how: dict[str, Any], *, quiet: bool
) -> tuple[Scores, dict[str, Any]]:
    from gdseg.data.dataset import open_dataset
    from gdseg.eval.maps import score_maps
    from gdseg.eval.maps_file import read_panoptic, read_semantic
    from gdseg.eval.predictions_file import open_predictions
    from gdseg.eval.results import read_all_results
    from gdseg.eval.run import score_instances
    from gdseg.recipe import Data, Recipe, settled
    from gdseg.recipe_yaml import apply_overrides

    recipe = apply_overrides(Recipe(data=Data(root=data or "shapes")), overrides)
    files = [open_predictions(pred) for pred in preds]
    tasks = [file.task for file in files]
    if len(set(tasks)) > 1:
        raise UsageError(
            f"predictions of different tasks: {', '.join(tasks)}", "--pred", "one task at a time"
        )
    task = tasks[0]
    if task == "instance" and Path(recipe.data.root).is_file():
        dataset = _truth_alone(Path(recipe.data.root))
    else:
        dataset = open_dataset(recipe.data, ("val",), task=task)
    if task != "instance":
        maps = chain.from_iterable(
            read_panoptic(file, dataset) if task == "panoptic" else read_semantic(file.path, dataset)
            for file in files
        )
        return score_maps(maps, dataset, task, boundary=how["boundary"]), _judged_on(dataset)
    results = read_all_results(files, dataset.val, dataset.category_ids)
    if not quiet:
        _note_gaps(files, dataset, {result["image_id"] for result in results})
    most = settled(recipe.postprocess.max_detections)
    return score_instances(dataset, results, most, **how), _judged_on(dataset)


def _note_gaps(files: list[PredictionsFile], dataset: Dataset, found: set[int | str]) -> None:
    """Say what may be missing in results: images without any (it may be right), and low scores."""
    missing = [record.image_id for record in dataset.val if record.image_id not in found]
    if missing:
        of = counted(len(dataset.val), "image")
        text = f"note: no result in {len(missing)} of {of}; first: image {missing[0]}"
        err.print(text + "; results in several files need --pred for each", soft_wrap=True)
    for file in files:
        if (lowest := file.lowest_score) > _LOW:
            text = f"note: {file.path} holds scores from {lowest:g} on only; AP counts lower ones too"
            err.print(f"{text}: gdseg predict --conf 0", soft_wrap=True)


def _truth_alone(path: Path) -> Dataset:
    """A data set of the truth's json itself: no image is needed."""
    from gdseg.data.coco import read_coco
    from gdseg.data.dataset import Dataset

    content = read_coco(path, path.parent)
    faults = [f for f in content.faults if not f.harmless and f.kind != "missing image file"]
    if faults:
        raise DataError(
            f"{counted(len(faults), 'fault')}; first: {faults[0]}", path, "correct the annotations"
        )
    return Dataset(path.parent, [], content.records, content.classes, content.category_ids, val_json=path)


def _beside(file: Path, other: str) -> Path:
    """eval.json in the run that the file belongs to, or a file of that kind beside it.

    other: the name of data that is not the network's own, which becomes part of the file's.
    """
    run, name = file.parent.parent, f"eval-{other}" if other else "eval"
    return run / f"{name}.json" if (run / "run.json").is_file() else file.with_suffix(f".{name}.json")


def _shown(name: str, source: object) -> str:
    """A role that --role named, as all tables name it; the document keeps the word."""
    verb = read_run(source.parent.parent).get("verb") if isinstance(source, Path) else None
    return network_name(name, verb)


def _report(
    scores: dict[str, Scores],
    about: Mapping[str, Mapping[str, Any]],
    target: Path,
    *,
    per_class: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from gdseg.files import plain, write_json

    document: dict[str, Any] = {
        name: {**about[name], "metrics": s.metrics, "per_class": s.per_class}
        | ({"areas": s.areas} if s.areas else {})
        for name, s in scores.items()
    }
    write_json(target, document)
    if as_json:
        print_json(plain(document))
        return
    if quiet:
        return
    from gdseg.eval.tables import class_table, main_table

    shown = {_shown(name, about[name]["source"]): s for name, s in scores.items()}
    print_table(*main_table(shown))
    for name, s in shown.items() if per_class else ():
        print_table(f"{name}, each class, %", *class_table(s))
    images = min(part["images"] for part in about.values())
    if images < _FEW:
        of = counted(images, "validation image")
        text = f"note: scores of {of} only; those of other images may be quite different"
        err.print(text, highlight=False, soft_wrap=True)
    err.print(f"written to {target}", highlight=False, soft_wrap=True)
