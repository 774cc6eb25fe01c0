"""`gdseg data inspect`: counts, faults, a picture, a repaired copy. Parse, call gdseg.data, print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, out, print_json, print_table
from gdseg.cli.data_keys import DataArg, TaskOpt, chosen_task, data_keys
from gdseg.cli.progress import progress
from gdseg.errors import UsageError
from gdseg.words import counted

if TYPE_CHECKING:
    from gdseg.data.dataset import Dataset
    from gdseg.data.inspect import PartReport, Report
    from gdseg.data.part import Fault
    from gdseg.recipe import Data

EXAMPLES = """Count what a data set holds and list everything wrong with it (exit code 3 if something is).

[bold]Examples[/bold]

  gdseg data inspect shapes

  gdseg data inspect cityscapes/ --task semantic --no-pixels

  gdseg data inspect my-data/ data.train=labels.json data.train_images=photos --json > report.json

  gdseg data inspect my-data/ --picture samples.jpg --fix my-data-repaired/
"""
_BAR = 24  # characters
_SAMPLES = 12  # images of a part in the picture
_SHOWN = 20  # faults of a kind, without --all
_FEW_CLASSES = 100  # all are in the table; of more the most and the least frequent
PictureOpt = Annotated[
    Path | None, typer.Option("--picture", help="Draw a few images with their labels (.png, .jpg).")
]
FixOpt = Annotated[
    Path | None,
    typer.Option(
        "--fix", metavar="DIR", help="Write a repaired copy into a new folder; images are hard links."
    ),
]
FilesOpt = Annotated[
    bool, typer.Option("--files/--no-files", help="Open image files: sizes, copies, training images in val.")
]
PixelsOpt = Annotated[
    bool,
    typer.Option("--pixels/--no-pixels", help="Decode them too: cut-off files, copies in another format."),
]
AllOpt = Annotated[bool, typer.Option("--all", help=f"Print all faults, not {_SHOWN} of a kind.")]


def command(
    data: DataArg = "shapes",
    overrides: o.OverridesArg = None,
    task: TaskOpt = None,
    picture: PictureOpt = None,
    fix: FixOpt = None,
    files: FilesOpt = True,
    pixels: PixelsOpt = True,
    show_all: AllOpt = False,
    overwrite: o.OverwriteOpt = False,
    json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """See EXAMPLES."""
    from gdseg.data.dataset import open_dataset

    if picture is not None:
        _check_picture(picture, overwrite)
    keys, silent = data_keys(data, overrides), quiet or json
    if fix is not None:
        from gdseg.data.repair import check_target, relative_keys

        keys = relative_keys(keys)
    dataset = open_dataset(keys, task=chosen_task(task, keys, "train", "val"), strict=False, complete=False)
    if not silent:
        _say_missing(dataset, keys)
    if fix is not None:
        check_target(dataset, fix)
    report = _inspect(dataset, files, pixels, silent)
    document = report.to_dict()
    if not silent:
        _print_report(report, files, pixels, show_all)
    if picture is not None:
        document["picture"] = _draw(dataset, report.faults, picture)
    left = report.serious
    if fix is not None and report.faults:
        done = _fix(dataset, keys, report.faults, fix, silent)
        copy = open_dataset(replace(keys, root=str(fix)), task=dataset.task, strict=False, complete=False)
        again = _inspect(copy, files, pixels, silent)
        left = again.serious
        document |= {"copy": str(fix), "repairs": [asdict(f) for f in done]}
        document["left"] = [asdict(f) for f in again.faults]
        if not silent:
            _print_repairs(fix, done, again, show_all)
    elif fix is not None:
        document |= {"copy": None, "repairs": [], "left": []}
        if not silent:
            out.print("nothing to mend, no copy written")
    if json:
        print_json(document)
    if left:
        raise typer.Exit(3)


def _say_missing(dataset: Dataset, keys: Data) -> None:
    """Which part is looked for and not there."""
    for part, found, key in (("train", dataset.train_json, keys.train), ("val", dataset.val_json, keys.val)):
        if found is None and key != "none":
            text = f"note: no labels of {part} were found, the other part alone is inspected"
            err.print(f"{text}; data.{part}=FILE names them", highlight=False, markup=False, soft_wrap=True)


def _check_picture(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UsageError("the file exists", path, "use --overwrite to replace it or name another --picture")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"'{path.suffix}' is no picture", path, "use .png or .jpg")


def _draw(dataset: Dataset, faults: Sequence[Fault], target: Path) -> list[str]:
    """A contact sheet of images without serious faults, spread over each part; the files shown."""
    from gdseg.cli.visualize import draw_sheet, truth_views
    from gdseg.view.sheets import spread

    bad = {(fault.part, fault.image_id) for fault in faults if not fault.harmless}
    chosen = []
    for part, records in (("train", dataset.train), ("val", dataset.val)):
        good = [record for record in records if (part, record.image_id) not in bad]
        chosen += [good[i] for i in spread(len(good), _SAMPLES)]
    if not chosen:
        raise UsageError("no image is without a serious fault", "--picture", "leave it away")
    shown = draw_sheet(
        chosen, lambda record: [truth_views(record, dataset, "objects")], str(dataset.root), target
    )
    err.print(f"written to {target}", soft_wrap=True)
    return shown


def _inspect(dataset: Dataset, files: bool, pixels: bool, silent: bool) -> Report:
    from gdseg.data.inspect import inspect_labels
    from gdseg.data.inspect_files import inspect_files

    with progress("labels of image", quiet=silent) as tell:
        report = inspect_labels(dataset, tell)
    if files:
        with progress("image file", quiet=silent) as tell:
            report.faults += inspect_files(dataset, pixels=pixels, tell=tell)
    return report


def _fix(dataset: Dataset, keys: Data, faults: Sequence[Fault], target: Path, silent: bool) -> list[Fault]:
    from gdseg.data.repair import repair_dataset

    with progress("file of the copy", quiet=silent) as tell:
        return repair_dataset(dataset, keys, faults, target, tell)


def _print_repairs(target: Path, done: Sequence[Fault], again: Report, show_all: bool) -> None:
    """What was mended, and what the same inspection finds in the copy."""
    _print_faults(done, show_all, lambda fault: "mended")
    _print_faults(again.faults, show_all, lambda fault: "note, left" if fault.harmless else "left")
    kept = ", ".join(f"{counted(counts.images, 'image')} of {part}" for part, counts in again.parts.items())
    out.print(f"copy in {target}: {kept}", soft_wrap=True)
    out.print(f"mended {_kinds(done)}", soft_wrap=True)
    out.print(f"left {_kinds(again.serious)}", soft_wrap=True)


def _print_report(report: Report, files: bool, pixels: bool, show_all: bool) -> None:
    parts = report.parts
    _print_counts(report)
    title = "objects a class" if report.task == "instance" else "segments a class"
    print_table(title, *_class_table(report))
    if parts:
        print_table("objects by the side of a square of their area, pixels", *_histogram(parts))
    for part, counts in parts.items():
        if without := [name for name, count in counts.classes.items() if not count.objects]:
            names = ", ".join(without[:20]) + (" .." if len(without) > 20 else "")
            out.print(f"{part}: {counted(len(without), 'class')} without an object: {names}", soft_wrap=True)
    imbalance = ", ".join(f"{part} {counts.imbalance:.1f}" for part, counts in parts.items())
    out.print(f"most frequent class / rarest: {imbalance}", soft_wrap=True)
    _print_faults(report.faults, show_all, lambda fault: "note" if fault.harmless else "fault")
    out.print(_kinds(report.serious), soft_wrap=True)
    if files:
        from gdseg.data.inspect_files import NOT_FOUND

        how = "bytes and by decoded pixels" if pixels else "bytes"
        out.print(f"copies of images were looked for by {how}; not found are {NOT_FOUND}", soft_wrap=True)
    else:
        out.print("image files were not opened (--no-files)")


def _print_counts(report: Report) -> None:
    parts = report.parts
    rows = [
        [name.replace("_", " "), *(str(getattr(part, name)) for part in parts.values())]
        for name in ("images", "empty_images", "objects", "crowds")
    ]
    spans = {"objects_an_image": "objects an image", "heights": "height", "widths": "width"}
    for name, title in (spans | {"area_shares": "area / image, %"}).items():
        scale = 100 if name == "area_shares" else 1
        rows.append([title, *(_span(getattr(part, name), scale) for part in parts.values())])
    first, second = report.area_limits
    spans = {"small": f"below {first:.0f}", "medium": "between", "large": f"from {second:.0f}"}
    for area, span in spans.items():
        rows.append([f"{area} objects ({span})", *(str(part.areas[area]) for part in parts.values())])
    title = f"{report.root}, {report.task} labels (percentiles 0, 25, 50, 75, 100)"
    print_table(title, ["", *parts], rows)


def _span(percentiles: Sequence[float], scale: float) -> str:
    return " ".join(f"{value * scale:.3g}" if scale != 1 else f"{value:g}" for value in percentiles)


def _class_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Objects of each part, their share, and the images they are in; with stuff the share of pixels."""
    parts, stuff = report.parts, report.task != "instance"
    header = ["class"]
    for part in parts:
        header += [part, "pixels" if stuff else "images"]
    names = list(next(iter(parts.values())).classes) if parts else []
    if len(names) > _FEW_CLASSES:
        first = next(iter(parts.values())).classes
        ranked = sorted(names, key=lambda name: -first[name].objects)
        shown = [*ranked[: _FEW_CLASSES // 2], *ranked[-_FEW_CLASSES // 2 :]]
    else:
        shown = names
    rows = [
        [name, *(cell for part in parts.values() for cell in _class_cells(part, name, stuff))]
        for name in shown
    ]
    if len(shown) < len(names):
        rows.insert(
            _FEW_CLASSES // 2, [f".. {len(names) - len(shown)} more: --json", *[""] * (len(header) - 1)]
        )
    return header, rows


def _class_cells(part: PartReport, name: str, stuff: bool) -> list[str]:
    count, pixels = part.classes[name], sum(each.pixels for each in part.classes.values())
    second = _percent(count.pixels, pixels) if stuff else str(count.images)
    return [f"{count.objects} ({_percent(count.objects, part.objects)})", second]


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.3g} %" if total else "-"


def _histogram(parts: Mapping[str, PartReport]) -> tuple[list[str], list[list[str]]]:
    """A row for each range of areas from the smallest that is not empty on: counts and bars."""
    ranges = max((part.area_edges for part in parts.values()), key=len)
    counts = [part.area_counts + [0] * (len(ranges) - len(part.area_counts)) for part in parts.values()]
    rows = []
    for i, edge in enumerate(ranges):
        if any(any(part[: i + 1]) for part in counts):
            cells = [cell for part in counts for cell in (str(part[i]), _bar(part[i], max(part)))]
            rows.append([f"{round(edge**0.5)}..{2 * round(edge**0.5)}", *cells])
    return ["side", *(cell for part in parts for cell in (part, ""))], rows


def _bar(count: int, largest: int) -> str:
    length = max(round(_BAR * count / largest), count > 0) if largest else 0
    return "█" * length + "\u00a0" * (_BAR - length)  # no-break spaces: others would be stripped


def _print_faults(faults: Sequence[Fault], show_all: bool, word: Any) -> None:
    """The faults, the first of each kind unless all are wanted."""
    shown = Counter[str]()
    for fault in faults:
        shown[fault.kind] += 1
        if show_all or shown[fault.kind] <= _SHOWN:
            place = f"{fault.part}: " if fault.part else ""
            err.print(f"{word(fault)}: {place}{fault}", soft_wrap=True)
    for kind, count in shown.items():
        if not show_all and count > _SHOWN:
            err.print(f".. {count - _SHOWN} more of '{kind}': --all or --json shows them")


def _kinds(faults: Sequence[Fault]) -> str:
    found = ", ".join(f"{count} x {kind}" for kind, count in Counter(f.kind for f in faults).most_common())
    return f"faults: {found or 'none'}"
