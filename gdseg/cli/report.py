"""`gdseg report`: parse, call `report.write.write_report`, print where the page is."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, print_json
from gdseg.cli.progress import progress
from gdseg.cli.run_options import say_last
from gdseg.errors import UsageError

EXAMPLES = """Examples:

  gdseg report                                      the last run, as report.html in its folder

  gdseg report runs/A runs/B runs/C -o report.html  compared, with the curve over labels

  gdseg report runs/R --no-network                  at once, from the logs alone

  gdseg report runs/R --truth labels.json           labels of the images in its unlabelled folders
"""


RunsArg = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUN]...", help="Runs (default: the last one).", show_default=False),
]
TargetOpt = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="The page to write (default: report.html, in the run if there is one only).",
        rich_help_panel=o.OUTPUT,
    ),
]
ImagesOpt = Annotated[
    int, typer.Option("--images", help="Unlabelled images to pseudo-label and judge, spread evenly.", min=0)
]
ValImagesOpt = Annotated[
    int, typer.Option("--val-images", help="Validation images to evaluate, spread evenly; 0: all.", min=0)
]
NoNetworkOpt = Annotated[
    bool, typer.Option("--no-network", help="Show what the run directory holds, run no network.")
]
TruthOpt = Annotated[
    Path | None,
    typer.Option(
        "--truth",
        help="Labels of the images in the unlabelled folders: COCO json or folder of label maps.",
        rich_help_panel=o.DATA,
    ),
]


def command(
    runs: RunsArg = None,
    target: TargetOpt = None,
    images: ImagesOpt = 96,
    val_images: ValImagesOpt = 300,
    no_network: NoNetworkOpt = False,
    truth: TruthOpt = None,
    overwrite: o.OverwriteOpt = False,
    device: o.DeviceOpt = "auto",
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Write one HTML page about runs, to look at offline and to send to others.

    Setting, curves, pseudo-labels and how many are right, threshold sweep, scores of
    classes, best and worst images, times and memory. The page is one file without scripts.
    """
    from gdseg.runs import last_run

    paths = runs or [last_run()]
    if not runs:
        say_last(paths[0], quiet=quiet)
    out = target or (paths[0] / "report.html" if len(paths) == 1 else Path("report.html"))
    if out.is_dir():
        raise UsageError("--out is a folder, a file is needed", out, "name a file, as report.html")
    if out.exists() and not overwrite:
        raise UsageError("the file exists", out, "use --overwrite to replace it or name another --out")
    if truth is not None and not truth.exists():
        raise UsageError("there are no such labels", truth, "check --truth")
    from gdseg.report.write import Options, write_report

    options = Options(images, val_images, not no_network, truth, device)
    size = write_report(paths, out, options, partial(progress, quiet=quiet or as_json))
    if as_json:
        print_json({"out": str(out), "bytes": size, "runs": [str(path) for path in paths]})
    elif not quiet:
        err.print(f"written to {out}, {size / 1e6:.1f} MB", highlight=False, soft_wrap=True)
