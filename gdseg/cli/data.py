"""`gdseg data`: make the built-in data set, look into a data set, choose the labelled images."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gdseg.cli import data_convert, data_inspect, data_split
from gdseg.cli.console import out
from gdseg.cli.data_keys import check_task
from gdseg.cli.options import DebugOpt
from gdseg.words import counted

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
    from gdseg.files import replace_folder
    from gdseg.runs import refuse_non_empty

    options = ShapesOptions(train, val, size, seed)
    make = make_shapes if check_task(task) == "instance" else partial(make_scenes, task=task)
    refuse_non_empty(folder, overwrite=None)
    replace_folder(folder, partial(make, options=options))
    out.print(f"made {train} training and {counted(val, 'validation image')} in {folder}", soft_wrap=True)


data_app.command("inspect", help=data_inspect.EXAMPLES)(data_inspect.command)
data_app.command("split", help=data_split.EXAMPLES)(data_split.command)
