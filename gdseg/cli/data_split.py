"""`gdseg data split`: choose the labelled images, read others' choices, set validation images apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, out, print_json, print_table
from gdseg.cli.data_keys import DataArg, TaskOpt, chosen_task, data_keys
from gdseg.cli.progress import progress
from gdseg.errors import UsageError
from gdseg.words import counted

if TYPE_CHECKING:
    from gdseg.data.dataset import Dataset
    from gdseg.data.split import Split
    from gdseg.data.stratify import Labels
    from gdseg.structures import Record

EXAMPLES = """Choose the labelled images and save their ids; a smaller split is part of a larger one.

[bold]Examples[/bold]

  gdseg data split shapes --ratio 0.1 --out split.json

  gdseg data split my-data/ --count 100 --seed 3 --stratify --out hundred.json

  gdseg data split my-data/ --from hundred.json                    what a split holds

  gdseg data split coco/ --from COCO_supervision.txt --entry 10.0/1 --out ten-percent.json

  gdseg data split one-folder/ data.train=labels.json data.train_images=photos --val-share 0.2 --out my-data/
"""
_SHOWN = 20  # names in a warning
_FEW_CLASSES = 100  # rows of the table
OutOpt = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="The split.json to write; with --val-share a folder.", show_default=False
    ),
]
RatioOpt = Annotated[float | None, typer.Option(help="Share of the training images, in (0, 1].")]
CountOpt = Annotated[int | None, typer.Option(help="Number of training images.", min=1)]
StratifyOpt = Annotated[
    bool,
    typer.Option(
        "--stratify",
        help="Every class at least once where possible, and in about its share (Sechidis et al. 2011).",
    ),
]
FromOpt = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Read a split: split.json, ids or file names a line or as json, COCO json of the labelled part,"
        " COCO_supervision.txt.",
    ),
]
EntryOpt = Annotated[str | None, typer.Option(help="PERCENT/SEED of a COCO_supervision.txt.")]
ValShareOpt = Annotated[
    float | None,
    typer.Option(help="Instead: make a data set with this share of the images as its validation part."),
]
SeedOpt = Annotated[int, typer.Option(help="Seed of the choice.", min=0)]


def command(
    data: DataArg = "shapes",
    overrides: o.OverridesArg = None,
    path: OutOpt = None,
    ratio: RatioOpt = None,
    count: CountOpt = None,
    source: FromOpt = None,
    entry: EntryOpt = None,
    val_share: ValShareOpt = None,
    stratify: StratifyOpt = False,
    task: TaskOpt = None,
    seed: SeedOpt = 0,
    overwrite: o.OverwriteOpt = False,
    json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """See EXAMPLES."""
    from gdseg.data.dataset import open_dataset
    from gdseg.data.stratify import count_labels

    ways = {"--ratio": ratio, "--count": count, "--from": source, "--val-share": val_share}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise UsageError(
            f"one way of choosing is needed, not {len(given)}", hint=f"use one of {', '.join(ways)}"
        )
    if path is None and source is None:
        raise UsageError("where to write is not said", "--out", "as --out split.json")
    if stratify and source is not None:
        raise UsageError("a split that is read stays as it is", "--stratify", "leave it away")
    if path is not None and val_share is None:
        _check_file(path, overwrite)
    keys, silent = data_keys(data, overrides), quiet or json
    dataset = open_dataset(keys, parts=("train",), task=chosen_task(task, keys, "train"))
    with progress("labels of image", quiet=silent) as tell:
        labels = count_labels(dataset.train, dataset.task, tell)
    order = _order(dataset.train, labels, seed) if stratify else None
    split = _choose(dataset.train, val_share if ratio is None else ratio, count, source, entry, seed, order)
    if path is not None and val_share is not None:
        if len(split.ids) == len(dataset.train):
            raise UsageError("no training image is left", "--val-share", "use a smaller share")
        _write_parts(dataset, split, path, silent)
    elif path is not None:
        from gdseg.data.split import save_split

        save_split(split, path)
    chosen = "validation" if val_share is not None else "labelled"
    if json:
        print_json({**asdict(split), "classes": _counts(dataset, labels, split)})
    elif not quiet:
        _print(dataset, labels, split, path, chosen)


def _check_file(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise UsageError("--out is a folder, a file is needed", path, "as --out split.json")
    if path.exists() and not overwrite:
        raise UsageError("the file exists", path, "use --overwrite to replace it or name another --out")


def _order(records: Sequence[Record], labels: Labels, seed: int) -> list[int | str]:
    from gdseg.data.stratify import stratified_order

    return stratified_order(records, labels, seed)


def _choose(
    records: Sequence[Record],
    ratio: float | None,
    count: int | None,
    source: Path | None,
    entry: str | None,
    seed: int,
    order: Sequence[int | str] | None,
) -> Split:
    from gdseg.data.split import load_split, split_by_count, split_by_ratio

    if source is not None:
        return load_split(source, records, entry, "--from")
    if entry is not None:
        raise UsageError("an entry is of a file", "--entry", "name the file with --from")
    if count is not None:
        return split_by_count(records, count, seed, order)
    assert ratio is not None
    return split_by_ratio(records, ratio, seed, order)


def _write_parts(dataset: Dataset, split: Split, target: Path, silent: bool) -> None:
    from gdseg.data.val_part import make_val_part

    with progress("file", quiet=silent) as tell:
        make_val_part(dataset, split.ids, target, tell)


def _counts(dataset: Dataset, labels: Labels, split: Split) -> dict[str, dict[str, int]]:
    """Of each class: objects and images in the split, and in all training images."""
    counts = {
        name: {"objects": 0, "images": 0, "all_objects": 0, "all_images": 0} for name in dataset.classes
    }
    chosen = set(split.ids)
    for image_id, found in labels.items():
        for label, number in found.items():
            own = counts[dataset.classes[label]]
            own["all_objects"] += number
            own["all_images"] += 1
            own["objects"] += number * (image_id in chosen)
            own["images"] += image_id in chosen
    return counts


def _print(dataset: Dataset, labels: Labels, split: Split, path: Path | None, word: str) -> None:
    counts = _counts(dataset, labels, split)
    rows = [[name, *(str(value) for value in own.values())] for name, own in counts.items()]
    header = ["class", f"{word} objects", "images", "all objects", "images"]
    if len(rows) <= _FEW_CLASSES:
        print_table(f"{word} part of {dataset.root}", header, rows)
    else:
        out.print(f"{len(rows)} classes; --json counts each")
    where = "" if path is None else f", in {path}"
    total = f"{len(split.ids)} of {counted(len(dataset.train), 'training image')}"
    out.print(f"{word}: {total}, sha256 {split.sha256[:12]}{where}", soft_wrap=True)
    without = [name for name, own in counts.items() if own["all_objects"] and not own["objects"]]
    if without:
        names = ", ".join(without[:_SHOWN]) + (" .." if len(without) > _SHOWN else "")
        text = f"warning: {counted(len(without), 'class')} without a {word} object: {names}"
        err.print(text + " (--stratify takes each in, where it can)" * (not split.stratified), soft_wrap=True)
