"""`gdseg data`: make the built-in data set, look into a data set, choose the labelled images."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdseg.cli import data_convert
from gdseg.cli.console import err, out, print_json, print_table
from gdseg.cli.options import DebugOpt, JsonOpt, OverridesArg, OverwriteOpt
from gdseg.errors import UsageError

if TYPE_CHECKING:
    from gdseg.data.inspect import PartReport, Report
    from gdseg.recipe import Data

data_app = typer.Typer(
    help="Make, inspect, split and convert data sets.", no_args_is_help=True, rich_markup_mode="rich"
)
data_app.command("convert", help=data_convert.HELP)(data_convert.command)
DataArg = Annotated[str, typer.Argument(metavar="DATA", help="Folder of the data set, or 'shapes'.")]
TaskOpt = Annotated[
    str | None,
    typer.Option("--task", help="instance, panoptic or semantic labels (default: the richest there are)."),
]

SHAPES_HELP = """Make the built-in data set of textured shapes: COCO, or folders of label maps.

[bold]Examples[/bold]

  gdseg data shapes --out shapes/

  gdseg data shapes --out scenes/ --task panoptic

  gdseg data shapes --out big/ --train 5000 --val 500 --size 256 --seed 7
"""
INSPECT_HELP = """Count what a data set holds and list everything wrong with it (exit code 3 if something is).

[bold]Examples[/bold]

  gdseg data inspect shapes

  gdseg data inspect cityscapes/ --task semantic

  gdseg data inspect my-data/ data.train=labels.json data.train_images=photos --json > report.json
"""
SPLIT_HELP = """Choose the labelled images and save their ids; a smaller ratio is part of a larger one.

[bold]Examples[/bold]

  gdseg data split shapes --ratio 0.1 --out split.json

  gdseg data split my-data/ --ratio 0.05 --seed 3 --out five-percent.json
"""


@data_app.command(help=SHAPES_HELP)
def shapes(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    train: Annotated[int, typer.Option(help="Training images.", min=1)] = 600,
    val: Annotated[int, typer.Option(help="Validation images.", min=1)] = 150,
    size: Annotated[int, typer.Option(help="Edge length, pixels.", min=48)] = 128,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    task: Annotated[str, typer.Option(help="instance, panoptic or semantic.")] = "instance",
    debug: DebugOpt = False,
) -> None:
    """See SHAPES_HELP."""
    from gdseg.data.scenes import make_scenes
    from gdseg.data.shapes import ShapesOptions, make_shapes

    options = ShapesOptions(train, val, size, seed)
    if check_task(task) == "instance":
        make_shapes(folder, options)
    else:
        make_scenes(folder, options, task)
    out.print(f"made {train} training and {val} validation images in {folder}", soft_wrap=True)


@data_app.command(help=INSPECT_HELP)
def inspect(
    data: DataArg = "shapes",
    overrides: OverridesArg = None,
    task: TaskOpt = None,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """See INSPECT_HELP."""
    from gdseg.data.dataset import open_dataset, richest_task
    from gdseg.data.inspect import inspect_dataset

    keys = data_keys(data, overrides)
    chosen = check_task(task) if task else richest_task(keys, "train")
    report = inspect_dataset(open_dataset(keys, task=chosen, strict=False))
    if json:
        print_json(report.to_dict())
    else:
        _print_report(report)
    if report.serious:
        raise typer.Exit(3)


def check_task(task: str) -> str:
    """The task itself. Raises UsageError if there is none of that name."""
    if task not in ("instance", "panoptic", "semantic"):
        raise UsageError(f"'{task}' is no task", "--task", "instance, panoptic or semantic")
    return task


def data_keys(root: str, overrides: list[str] | None) -> "Data":
    """The default data section; the overrides name files that looking does not find."""
    from gdseg.recipe_yaml import DEFAULT_RECIPE, load_recipe

    data = load_recipe(DEFAULT_RECIPE, overrides).data
    data.root = root
    return data


def _print_report(report: "Report") -> None:
    parts = list(report.parts)
    rows = [_row(name, report, parts) for name in ("images", "empty_images", "objects", "crowds")]
    rows += [
        [title, *(_span(getattr(report.parts[part], name)) for part in parts)]
        for name, title in (
            ("objects_an_image", "objects an image"),
            ("heights", "height"),
            ("widths", "width"),
        )
    ]
    rows += [
        [f"{area} objects", *(str(report.parts[part].areas[area]) for part in parts)]
        for area in ("small", "medium", "large")
    ]
    print_table(f"{report.root} (percentiles 0, 25, 50, 75, 100)", ["", *parts], rows)
    classes = [[name, *(str(report.parts[p].classes[name]) for p in parts)] for name in _classes(report)]
    imbalance = ", ".join(f"{part} {report.parts[part].imbalance:.1f}" for part in parts)
    print_table("objects a class", ["class", *parts], classes)
    out.print(f"most frequent class / rarest: {imbalance}", soft_wrap=True)
    for fault in report.faults:
        err.print(f"{'note' if fault.harmless else 'fault'}: {fault}", markup=False, soft_wrap=True)
    kinds = Counter(fault.kind for fault in report.serious)
    found = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
    out.print(f"faults: {found or 'none'}", soft_wrap=True)


def _row(name: str, report: "Report", parts: list[str]) -> list[str]:
    return [name.replace("_", " "), *(str(getattr(report.parts[part], name)) for part in parts)]


def _span(percentiles: list[float]) -> str:
    return " ".join(f"{value:g}" for value in percentiles)


def _classes(report: "Report") -> list[str]:
    first: PartReport = next(iter(report.parts.values()))
    return list(first.classes)


@data_app.command(help=SPLIT_HELP)
def split(
    path: Annotated[Path, typer.Option("--out", "-o", help="The split.json to write.")],
    ratio: Annotated[float, typer.Option(help="Share of the training images, in (0, 1].")],
    data: DataArg = "shapes",
    overrides: OverridesArg = None,
    task: TaskOpt = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice.", min=0)] = 0,
    overwrite: OverwriteOpt = False,
    debug: DebugOpt = False,
) -> None:
    """See SPLIT_HELP."""
    from gdseg.data.dataset import open_dataset, richest_task
    from gdseg.data.split import save_split, split_by_ratio

    if path.is_dir():
        raise UsageError("--out is a folder, a file is needed", path, "as --out split.json")
    if path.exists() and not overwrite:
        raise UsageError("the file exists", path, "use --overwrite to replace it or name another --out")
    keys = data_keys(data, overrides)
    chosen = check_task(task) if task else richest_task(keys, "train")
    records = open_dataset(keys, parts=("train",), task=chosen).train
    part = split_by_ratio(records, ratio, seed)
    save_split(part, path)
    message = f"{len(part.ids)} of {len(records)} training images, sha256 {part.sha256[:12]}, in {path}"
    out.print(message, soft_wrap=True)
