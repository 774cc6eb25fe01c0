"""`gdseg data`: make the built-in data set, look into a data set, choose the labelled images."""

from pathlib import Path
from typing import Annotated

import typer

from gdseg.cli import data_convert, data_inspect
from gdseg.cli.console import out
from gdseg.cli.data_keys import DataArg, TaskOpt, check_task, chosen_task, data_keys
from gdseg.cli.options import DebugOpt, OverridesArg, OverwriteOpt
from gdseg.errors import UsageError

data_app = typer.Typer(
    help="Make, inspect, split and convert data sets.", no_args_is_help=True, rich_markup_mode="rich"
)
data_app.command("convert", help=data_convert.HELP)(data_convert.command)
SHAPES_HELP = """Make the built-in data set of textured shapes: COCO, or folders of label maps.

[bold]Examples[/bold]

  gdseg data shapes --out shapes/

  gdseg data shapes --out scenes/ --task panoptic

  gdseg data shapes --out big/ --train 5000 --val 500 --size 256 --seed 7
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


data_app.command("inspect", help=data_inspect.EXAMPLES)(data_inspect.command)


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
    from gdseg.data.dataset import open_dataset
    from gdseg.data.split import save_split, split_by_ratio

    if path.is_dir():
        raise UsageError("--out is a folder, a file is needed", path, "as --out split.json")
    if path.exists() and not overwrite:
        raise UsageError("the file exists", path, "use --overwrite to replace it or name another --out")
    keys = data_keys(data, overrides)
    chosen = chosen_task(task, keys)
    records = open_dataset(keys, parts=("train",), task=chosen).train
    part = split_by_ratio(records, ratio, seed)
    save_split(part, path)
    message = f"{len(part.ids)} of {len(records)} training images, sha256 {part.sha256[:12]}, in {path}"
    out.print(message, soft_wrap=True)
