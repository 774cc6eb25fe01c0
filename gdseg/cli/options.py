"""The shared flags, one spelling each (DESIGN.md, "Command line"). No torch here."""

from pathlib import Path
from typing import Annotated

import typer

DATA, TRAINING, OUTPUT, ADVANCED = "Data", "Training", "Output", "Advanced"
LARGE = "Large images, several views"

RecipeOpt = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        help="Recipe: a name of `gdseg recipe list` or a YAML file.",
        rich_help_panel=TRAINING,
    ),
]
DataOpt = Annotated[
    str | None,
    typer.Option(
        "--data", help="Folder of the data set; 'shapes' is the built-in one.", rich_help_panel=DATA
    ),
]
RatioOpt = Annotated[
    float | None,
    typer.Option(
        "--ratio", help="Share of the training images whose labels are used, in (0, 1].", rich_help_panel=DATA
    ),
]
SplitOpt = Annotated[
    str | None,
    typer.Option("--split", help="File with the ids of the labelled images.", rich_help_panel=DATA),
]
OutOpt = Annotated[
    Path | None, typer.Option("--out", "-o", help="Where the results go.", rich_help_panel=OUTPUT)
]
OverwriteOpt = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is in --out.", rich_help_panel=OUTPUT)
]
JsonOpt = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout instead of tables.", rich_help_panel=OUTPUT),
]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=OUTPUT)]
SeedOpt = Annotated[
    int | None, typer.Option("--seed", help="Seed of everything random.", rich_help_panel=TRAINING)
]
DeviceOpt = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=ADVANCED)
]
PrecisionOpt = Annotated[
    str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.", rich_help_panel=ADVANCED)
]
BatchSizeOpt = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images a step.", rich_help_panel=TRAINING)
]
StepsOpt = Annotated[int | None, typer.Option("--steps", help="Optimiser steps.", rich_help_panel=TRAINING)]
DebugOpt = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=ADVANCED)
]
DryRunOpt = Annotated[
    bool, typer.Option("--dry-run", help="Say what would happen, write nothing.", rich_help_panel=ADVANCED)
]
ResumeOpt = Annotated[bool, typer.Option("--resume", help="Go on with a run.", rich_help_panel=OUTPUT)]
TeacherOpt = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="Teacher: a .safetensors file or a run (default: the last pretrained one).",
        rich_help_panel=TRAINING,
    ),
]
UnlabelledOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--unlabelled",
        "--unlabeled",
        help="Folder of unlabelled images; may be given again.",
        rich_help_panel=DATA,
    ),
]
TileOpt = Annotated[
    int | None,
    typer.Option(
        "--tile",
        help="Side of tiles, pixels of the image given, as large as training images are (0: whole images).",
        rich_help_panel=LARGE,
    ),
]
OverlapOpt = Annotated[
    str | None,
    typer.Option(
        "--overlap",
        metavar="PIXELS|auto",
        help="Pixels that tiles share at least (auto: a fifth of --tile).",
        rich_help_panel=LARGE,
    ),
]
ScalesOpt = Annotated[
    str | None,
    typer.Option(
        "--scales",
        metavar="A,B,..",
        help="See the image at these multiples of its test size, as 0.75,1,1.5, and average.",
        rich_help_panel=LARGE,
    ),
]
FlipOpt = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="See the image mirrored too.", rich_help_panel=LARGE),
]
OverridesArg = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Override any recipe key, as train.lr=5e-5.", show_default=False
    ),
]
