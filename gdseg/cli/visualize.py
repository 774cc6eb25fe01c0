"""`gdseg visualize`: a data set, predictions or a run's curves as one picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, print_json
from gdseg.cli.data_keys import data_keys
from gdseg.cli.run_options import say_last
from gdseg.errors import DataError, UsageError
from gdseg.runs import last_run

if TYPE_CHECKING:
    from gdseg.data.dataset import Dataset
    from gdseg.eval.predictions_file import PredictionsFile
    from gdseg.recipe import Data
    from gdseg.structures import Predictions, Record

EXAMPLES = """Examples:

  gdseg visualize my_data --out truth.png                     labels by hand

  gdseg visualize predictions/predictions.json --out found.png

  gdseg visualize results.json --data my_data --out pairs.png truth beside prediction

  gdseg visualize flat/ --part val data.val=labels data.val_images=images --out truth.png

  gdseg visualize runs/R --out curves.png                     losses and AP of a run
"""
_SAMPLE = 36


def command(
    target: Annotated[
        Path, typer.Option("--out", "-o", help="The picture to write.", rich_help_panel=o.OUTPUT)
    ],
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA|PRED.json|RUN]", help="What to draw (default: the last run).", show_default=False
        ),
    ] = None,
    overrides: o.OverridesArg = None,
    data: o.DataOpt = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--part", help="train (default), or val (default beside results).", rich_help_panel=o.DATA
        ),
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", help="Images to show, spread evenly (default: 36).", min=1)
    ] = None,
    conf: Annotated[
        float | None,
        typer.Option(
            "--conf",
            help="Predictions scored lower are left out (default: 0.5).",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    overwrite: o.OverwriteOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Draw labels, predictions or curves."""
    _check(target, part, overwrite=overwrite)
    is_run = what is None or any((Path(what) / name).is_file() for name in ("run.json", "metrics.jsonl"))
    if is_run:
        given = {"--data": data, "--part": part, "--sample": sample, "--conf": conf}
        _refuse({**given, "KEY=VALUE": overrides or None})
    if what is None:
        what = str(last_run())
        say_last(Path(what), quiet=quiet)
    if is_run:
        from gdseg.view.plots import plot_run

        content = plot_run(Path(what), target)
    else:
        source, title = _source(what, data, overrides, part, conf, quiet=quiet)
        content = _sheet(source, title, sample or _SAMPLE, target)
    if as_json:
        print_json({"out": str(target), "shown": content})
    elif not quiet:
        err.print(f"written to {target}", highlight=False, markup=False, soft_wrap=True)


def _check(target: Path, part: str | None, *, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise UsageError("the file exists", target, "use --overwrite to replace it or name another --out")
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"'{target.suffix}' is no picture", target, "use .png or .jpg")
    if part not in (None, "train", "val"):
        raise UsageError(f"'{part}' is no part of a data set", "--part", "train or val")


def _refuse(options: dict[str, object]) -> None:
    """Raise UsageError if one of the options is given, which curves do not have."""
    for name, value in options.items():
        if value is not None:
            hint = "name a data set or a file of predictions to draw, or leave it away"
            raise UsageError("what is drawn are a run's curves, it has no part in them", name, hint)


View = tuple["Predictions", "Predictions | None", str]  # masks, dashed masks, what they are called
Views = Callable[["Record"], Sequence[View]]


@dataclass
class Source:
    """Images, and what to show of each side by side."""

    records: list[Record]
    views: Views


def _source(
    what: str,
    data: str | None,
    overrides: list[str] | None,
    part: str | None,
    conf: float | None,
    *,
    quiet: bool,
) -> tuple[Source, str]:
    """What to draw of predictions or of a data set, and the title."""
    path = Path(what)
    if not (path.is_file() or (data and path.is_dir())):
        part = part or "train"
        return _truth(data_keys(what, overrides), part), f"{what}: labels of {part}"
    if overrides and not data:
        raise UsageError("keys say where a data set's files are", overrides[0], "name it with --data")
    keys = data_keys(data, overrides) if data else None
    source, lowest = _found_in(path, keys, part or "val", conf, quiet=quiet)
    return source, f"{path.name}: scores from {lowest:g}"


def _truth(keys: Data, part: str) -> Source:
    """A data set's objects, crowd regions dashed."""
    from gdseg.data.dataset import open_dataset, richest_task

    dataset = open_dataset(keys, (part,), task=richest_task(keys, part))
    records = dataset.train if part == "train" else dataset.val
    return Source(records, lambda record: [truth_views(record, dataset, "objects")])


def truth_views(record: Record, dataset: Dataset, word: str) -> tuple[Predictions, Predictions, str]:
    """A record's labels, and what they are called: what counts, and its crowds, dashed."""
    from gdseg.coco_json import truth_predictions
    from gdseg.data.label_maps import with_masks

    drawn, names = with_masks(record, dataset.task), dataset.classes
    return truth_predictions(drawn, names), truth_predictions(drawn, names, crowds=True), word


def _found_in(
    path: Path, keys: Data | None, part: str, conf: float | None, *, quiet: bool
) -> tuple[Source, float]:
    """What a file of predictions holds, beside the truth if there is data, and the score to show from."""
    from gdseg.eval.predictions_file import open_predictions

    file = open_predictions(path)
    lowest = _lowest_score(file, conf, quiet=quiet)
    return (_pairs(file, keys, part, lowest) if keys else _predicted(file, lowest)), lowest


def _predicted(file: PredictionsFile, conf: float) -> Source:
    """A COCO document (instances or panoptic) with its own images, as predict and pseudo-label write it."""
    from gdseg.coco_json import truth_predictions
    from gdseg.data.coco import read_coco
    from gdseg.data.coco_panoptic import read_panoptic
    from gdseg.data.label_maps import with_masks

    path, images, task = file.path, file.images, file.task
    maps = path.with_suffix("")
    content = read_coco(path, images) if task == "instance" else read_panoptic(path, images, maps, task)
    records = [record for record in content.records if os.path.isfile(record.path)]
    if not records:
        raise DataError("none of its images is there", path, "name the data set they belong to with --data")

    def views(record: Record) -> list[tuple[Predictions, Predictions | None, str]]:
        found = truth_predictions(with_masks(record, task), content.classes)
        return [(found.select(~(found.scores < conf)), None, "found")]

    return Source(records, views)


def _lowest_score(file: PredictionsFile, conf: float | None, *, quiet: bool) -> float:
    """The score to show from: `conf` (None: 0.5), or that from which on the file holds any; say so then."""
    held = file.lowest_score
    if conf is not None and conf < held and not quiet:
        text = f"note: {file.path} holds scores from {held:g} on"
        err.print(f"{text}; gdseg predict --conf {conf:g} writes lower ones", soft_wrap=True)
    return max(0.5 if conf is None else conf, held)


def _pairs(file: PredictionsFile, keys: Data, part: str, conf: float) -> Source:
    """Truth and predictions of a data set's images."""
    from gdseg.data.dataset import open_dataset

    dataset = open_dataset(keys, (part,), task=file.task)
    dataset = replace(dataset, val=dataset.train if part == "train" else dataset.val)
    found = _found(file, dataset, conf)
    return Source(dataset.val, lambda r: [truth_views(r, dataset, "true"), (found(r), None, "found")])


def _found(file: PredictionsFile, dataset: Dataset, conf: float) -> Callable[[Record], Predictions]:
    """What a file or a folder of predictions says of each record of `dataset.val`."""
    from gdseg.coco_json import result_predictions
    from gdseg.eval.maps_file import read_panoptic, read_semantic
    from gdseg.eval.results import read_results
    from gdseg.predict import map_regions

    names, ids = dataset.classes, dataset.category_ids
    if dataset.task != "instance":
        is_panoptic = dataset.task == "panoptic"
        found = read_panoptic(file, dataset) if is_panoptic else read_semantic(file.path, dataset)
        maps = {each.image_id: each for each in found}
        return lambda record: map_regions(record, maps.get(record.image_id), names)
    by_image: dict[int | str, list[dict[str, Any]]] = {}
    for result in read_results(file, dataset.val, ids):
        by_image.setdefault(result["image_id"], []).append(result)
    return lambda r: result_predictions(r, by_image.get(r.image_id, []), names, ids).filter(conf)


def _sheet(source: Source, title: str, sample: int, target: Path) -> list[str]:
    from gdseg.view.sheets import spread

    chosen = [source.records[i] for i in spread(len(source.records), sample)]
    return draw_sheet(chosen, source.views, title, target)


def draw_sheet(chosen: list[Record], views: Views, title: str, target: Path) -> list[str]:
    """Draw the contact sheet of some images; return the files shown."""
    from gdseg.data.images import read_image
    from gdseg.view.draw import displayable
    from gdseg.view.sheets import Sheet
    from gdseg.writers import save_picture

    sheet = Sheet(title)
    for record in chosen:
        image = displayable(read_image(record.path, None))
        for found, dashed, word in views(record):
            sheet.add(image, found, f"{record.path.name}: {len(found)} {word}", dashed)
    save_picture(sheet.render(), target)
    return [str(record.path) for record in chosen]
