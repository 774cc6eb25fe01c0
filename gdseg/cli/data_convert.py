"""`gdseg data convert`: a data set in another format. Parse, call gdseg.layouts, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdseg.cli.console import err, out, print_json, print_table
from gdseg.cli.options import OUTPUT, DebugOpt, JsonOpt, OverridesArg, OverwriteOpt, QuietOpt
from gdseg.cli.progress import progress
from gdseg.errors import UsageError
from gdseg.words import counted

if TYPE_CHECKING:
    from gdseg.layouts.convert import Summary

FORMATS = (
    "coco",
    "lvis",
    "yolo",
    "labelme",
    "cvat",
    "label_studio",
    "voc",
    "coco_panoptic",
    "cityscapes",
    "semantic",
)
IMAGES = ("link", "copy", "symlink")
HELP = """Write a data set in another format; the data set itself is left as it is.

Instances: coco, lvis, yolo, labelme, cvat (CVAT for images 1.1), label_studio, voc.
Panoptic: coco_panoptic, cityscapes (of its own classes). Semantic: semantic (folders of index PNGs).
Panoptic labels, as Cityscapes' and ADE20K's, can become all three. What a format cannot hold is counted.

[bold]Examples[/bold]

  gdseg data convert my-coco/ --to yolo --out my-yolo/

  gdseg data convert cityscapes/ --to coco --out cityscapes-coco/ --images symlink

  gdseg data convert photos/ data.format=labelme data.val=none --to coco --out coco/
"""


def command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder of the data set, or 'shapes'.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="The new folder.", rich_help_panel=OUTPUT)],
    to: Annotated[str, typer.Option("--to", help=f"The format: {', '.join(FORMATS)}.")],
    overrides: OverridesArg = None,
    images: Annotated[
        str, typer.Option("--images", help="link (hard, or a copy on another disk), copy or symlink.")
    ] = "link",
    overwrite: OverwriteOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """See HELP."""
    for value, known, option in ((to, FORMATS, "--to"), (images, IMAGES, "--images")):
        if value not in known:
            raise UsageError(f"'{value}' is not known", option, ", ".join(known))
    from gdseg.cli.data_keys import data_keys
    from gdseg.layouts.convert import convert

    with progress("images", quiet=quiet or json) as tell:
        summary = convert(data_keys(data, overrides), folder, to, images, tell, overwrite=overwrite)
    if json:
        from dataclasses import asdict

        print_json(asdict(summary))
    elif not quiet:
        _print(summary)


def _print(summary: "Summary") -> None:
    names = ("images", "objects", "crowds")
    rows = [[part, *(str(counts[name]) for name in names)] for part, counts in summary.parts.items()]
    print_table(
        f"{summary.task} labels of {counted(summary.classes, 'class')} as {summary.format}",
        ["", *names],
        rows,
    )
    for note, count in summary.notes.items():
        err.print(f"note: {note}: {count}", soft_wrap=True)
    out.print(f"written to {summary.out}", soft_wrap=True)
