"""`gdseg visualize`: a data set, predictions or a run's curves as one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, print_json
from gdseg.cli.run_options import say_last
from gdseg.errors import DataError, UsageError
from gdseg.runs import last_run

if TYPE_CHECKING:
    from gdseg.data.dataset import Dataset
    from gdseg.structures import Predictions, Record

EXAMPLES = """Examples:

  gdseg visualize my_data --out truth.png                     labels by hand

  gdseg visualize predictions/predictions.json --out found.png

  gdseg visualize results.json --data my_data --out pairs.png truth beside prediction

  gdseg visualize runs/R --out curves.png                     losses and AP of a run
"""


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
    data: o.DataOpt = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--part", help="train (default), or val (default beside results).", rich_help_panel=o.DATA
        ),
    ] = None,
    sample: Annotated[int, typer.Option("--sample", help="Images to show, spread evenly.", min=1)] = 36,
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
    if target.exists() and not overwrite:
        raise UsageError("the file exists", target, "use --overwrite to replace it or name another --out")
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"'{target.suffix}' is no picture", target, "use .png or .jpg")
    if part not in (None, "train", "val"):
        raise UsageError(f"'{part}' is no part of a data set", "--part", "train or val")
    if what is None:
        what = str(last_run())
        say_last(Path(what), quiet=quiet)
    path = Path(what)
    if (path / "run.json").is_file() or (path / "metrics.jsonl").is_file():
        from gdseg.view.plots import plot_run

        content = plot_run(path, target)
    elif path.is_file() or (data and path.is_dir()):
        lowest = lowest_score(path, conf)
        source = _pairs(path, data, part or "val", lowest) if data else _predicted(path, lowest)
        content = _sheet(source, f"{path.name}: scores from {lowest:g}", sample, target)
    else:
        content = _sheet(
            _truth(what, part or "train"), f"{what}: labels of {part or 'train'}", sample, target
        )
    if as_json:
        print_json({"out": str(target), "shown": content})
    elif not quiet:
        err.print(f"written to {target}", highlight=False, markup=False, soft_wrap=True)


View = tuple["Predictions", "Predictions | None", str]  # masks, dashed masks, what they are called
Views = Callable[["Record"], Sequence[View]]


@dataclass
class Source:
    """Images, and what to show of each side by side."""

    records: list[Record]
    views: Views


def _truth(data: str, part: str) -> Source:
    """A data set's objects, crowd regions dashed."""
    from gdseg.data.dataset import open_dataset, richest_task
    from gdseg.recipe import Data

    keys = Data(root=data)
    dataset = open_dataset(keys, (part,), task=richest_task(keys, part))
    records = dataset.train if part == "train" else dataset.val
    return Source(records, lambda record: [truth_views(record, dataset, "objects")])


def truth_views(record: Record, dataset: Dataset, word: str) -> tuple[Predictions, Predictions, str]:
    """A record's labels, and what they are called: what counts, and its crowds, dashed."""
    from gdseg.coco_json import truth_predictions
    from gdseg.data.label_maps import with_masks

    drawn, names = with_masks(record, dataset.task), dataset.classes
    return truth_predictions(drawn, names), truth_predictions(drawn, names, crowds=True), word


def _predicted(path: Path, conf: float) -> Source:
    """A COCO document (instances or panoptic) with its own images, as predict and pseudo-label write it."""
    from gdseg.coco_json import truth_predictions
    from gdseg.data.coco import read_coco
    from gdseg.data.coco_panoptic import read_panoptic
    from gdseg.data.label_maps import with_masks
    from gdseg.eval.maps_file import task_of

    images, task = _image_folder(path), task_of(path)
    maps = path.with_suffix("")
    content = read_coco(path, images) if task == "instance" else read_panoptic(path, images, maps, task)
    records = [record for record in content.records if record.path.is_file()]
    if not records:
        raise DataError("none of its images is there", path, "name the data set they belong to with --data")

    def views(record: Record) -> list[tuple[Predictions, Predictions | None, str]]:
        found = truth_predictions(with_masks(record, task), content.classes)
        return [(found.select(~(found.scores < conf)), None, "found")]

    return Source(records, views)


def lowest_score(path: Path, conf: float | None) -> float:
    """The score to show from: `conf` (None: 0.5), or that from which on the file holds any; say so then."""
    from gdseg.coco_json import written_from

    held = written_from(path)
    if conf is not None and conf < held:
        text = f"note: {path} holds scores from {held:g} on; gdseg predict --conf {conf:g} writes lower ones"
        err.print(text, soft_wrap=True)
    return max(0.5 if conf is None else conf, held)


def _image_folder(path: Path) -> Path:
    """The folder that file names are relative to: the one the document names, or its own."""
    from gdseg.coco_json import read_info

    named = read_info(path).get("images")
    return Path(named) if isinstance(named, str) and Path(named).is_dir() else path.parent


def _pairs(path: Path, data: str, part: str, conf: float) -> Source:
    """Truth and predictions of a data set's images."""
    from gdseg.data.dataset import open_dataset
    from gdseg.eval.maps_file import task_of
    from gdseg.recipe import Data

    dataset = open_dataset(Data(root=data), (part,), task=task_of(path))
    dataset = replace(dataset, val=dataset.train if part == "train" else dataset.val)
    found = _found(path, dataset, conf)
    return Source(dataset.val, lambda r: [truth_views(r, dataset, "true"), (found(r), None, "found")])


def _found(path: Path, dataset: Dataset, conf: float) -> Callable[[Record], Predictions]:
    """What a file or a folder of predictions says of each record of `dataset.val`."""
    from gdseg.coco_json import result_predictions
    from gdseg.eval.maps_file import read_panoptic, read_semantic
    from gdseg.eval.results import read_results
    from gdseg.predict import map_regions

    names, ids = dataset.classes, dataset.category_ids
    if dataset.task != "instance":
        read = read_panoptic if dataset.task == "panoptic" else read_semantic
        maps = {each.image_id: each for each in read(path, dataset)}
        return lambda record: map_regions(record, maps.get(record.image_id), names)
    by_image: dict[int | str, list[dict[str, Any]]] = {}
    for result in read_results(path, dataset.val, ids):
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
