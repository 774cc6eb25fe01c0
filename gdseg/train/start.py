"""What both loops do before the first step: data, labelled split, records of the run.

Called by pretrain.py and distill.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gdseg import __version__
from gdseg.data.dataset import Dataset, labelled_records, open_dataset
from gdseg.data.inspect import files_of
from gdseg.data.split import Split, choose_split, load_split, save_split
from gdseg.errors import DataError, GdsegError
from gdseg.files import file_sha256, write_atomic, write_json
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import dump_recipe
from gdseg.runs import prepare_run, read_run, settle_run
from gdseg.structures import Record
from gdseg.train.counts import object_counts
from gdseg.words import counted

_FEW = 20  # labelled images


@dataclass
class Start:
    """The data of a run: the whole data set, the split, and the labelled records it names."""

    dataset: Dataset
    split: Split
    labelled: list[Record]

    @cached_property
    def counts(self) -> list[int]:
        """`object_counts` of the labelled images; label maps are read for it, once."""
        return object_counts(self.labelled, self.dataset.task)

    def some_counts(self) -> list[int]:
        """`counts`, of which one is not 0. Raises DataError: there is nothing to learn from."""
        maps = (record for record in self.labelled if record.label_map)  # of which `counts` saw a part
        if any(self.counts) or any(object_counts([record], self.dataset.task)[0] for record in maps):
            return self.counts
        images = counted(len(self.labelled), "labelled image")
        what = f"no object in any labelled image ({images})"
        hint = (
            "label some, or take another --split or --ratio; pseudo-labels: gdseg pseudo-label --conf LOWER"
        )
        raise DataError(what, self.dataset.train_json or self.dataset.root, hint)


def open_data(recipe: Recipe, resumed: Path | None = None) -> Start:
    """Open the data set and choose the labelled split, or reload that of the run `resumed`.

    Raises DataError.
    """
    if recipe.data.train == "none":
        hint = "none is for 'gdseg data inspect'; name their labels with data.train=FILE"
        raise DataError("there are no training images", "data.train", hint)
    dataset = open_dataset(recipe.data, task=recipe.task)
    if resumed:
        split = load_split(resumed / "split.json", dataset.train, named_by="the run's folder")
    else:
        split = choose_split(dataset.train, recipe.data, recipe.seed)
    return Start(dataset, split, labelled_records(dataset.train, split))


def advice(labelled: int, recipe: Recipe, verb: str) -> str:
    """A sentence on what to try with fewer than 20 labelled images, of what the recipe does not do yet."""
    augment = recipe.augment
    tips = ["data.ratio=1 (all labels that there are)"] * (verb == "pretrain" and recipe.data.ratio < 1)
    pasted = recipe.task == "instance" and not augment.copy_paste and recipe.train.batch_size > 1
    stronger = ["augment.copy_paste=0.5"] * pasted
    stronger += ["augment.weak_colour=true"] * (not augment.weak_colour)
    tips += [f"{' '.join(stronger)} (stronger augmentation)"] * bool(stronger)
    if labelled >= _FEW or not tips:
        return ""
    return f"advice: with only {counted(labelled, 'labelled image')}, try {', '.join(tips)}"


def validation_left_out(copies: int) -> str:
    """That some files named as unlabelled are validation images; empty if none is."""
    if not copies:
        return ""
    return f"warning: {counted(copies, 'file')} among the unlabelled images equal validation images: left out"


@contextmanager
def recorded_run(
    run: Path,
    recipe: Recipe,
    verb: str,
    start: Start,
    device: torch.device,
    *,
    resume: bool,
    overwrite: bool,
    **facts: Any,
) -> Iterator[None]:
    """Make the run directory, now that nothing can be wrong with the recipe or the data any more.

    Writes recipe.yaml, split.json and run.json: command, versions, git, device, seed and `facts`; of a run
    that is resumed the first command stays, and later ones are listed. Should the block fail before it has
    saved its state, a run that was to be replaced is put back.
    """
    about = {
        "verb": verb,
        **_commands(read_run(run) if resume else {}, device),
        "seed": recipe.seed,
        "data": str(start.dataset.root),
        "data_sha256": labels_sha256(start.dataset.train_json, start.dataset.train),
        "classes": start.dataset.classes,
        "images": {"train": len(start.dataset.train), "val": len(start.dataset.val)},
        "labelled": len(start.labelled),
        "split_sha256": start.split.sha256,
    }
    prepare_run(run, overwrite=overwrite and not resume)
    try:
        write_json(run / "run.json", {**about, **facts})  # first: by it --overwrite knows a run cut off here
        write_atomic(run / "recipe.yaml", dump_recipe(recipe))
        save_split(start.split, run / "split.json")
        yield
    except BaseException as error:
        if settle_run(run) and isinstance(error, GdsegError):
            kept = "the run that was there is kept"
            error.hint = f"{error.hint}; {kept}" if error.hint else kept
        raise


def _commands(before: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What started the run, by which code and where, and the same of each time it was resumed.

    before: run.json of the run that is resumed, else nothing.
    """
    now = {
        "command": shlex.join(["gdseg", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"gdseg": __version__, "torch": torch.__version__, "python": sys.version.split()[0]},
        "git": _git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    if "command" not in before:
        return now
    later = before.get("resumed")
    first = {key: before[key] for key in now if key in before}
    return {**first, "resumed": [*(later if isinstance(later, list) else []), now]}


def labels_sha256(labels: Path | None, records: Sequence[Record]) -> str | None:
    """Of a part's json; of other formats, of the records as read, with the sizes of label maps."""
    if labels is None:
        return None
    if labels.is_file() and labels.suffix.lower() == ".json":
        return file_sha256(labels)
    digest = hashlib.sha256()
    for record in records:
        said = [
            _relative(record.image_id, labels),
            _relative(record.path, labels),
            record.height,
            record.width,
            record.annotations,
            [[_relative(path, labels), path.stat().st_size] for path in files_of(record)[1:]],
        ]
        digest.update(json.dumps(said, sort_keys=True, default=_plain).encode())
    return digest.hexdigest()


def images_sha256(records: Sequence[Record]) -> str:
    """Of the names and sizes in bytes of images."""
    listed = [[str(record.path), record.path.stat().st_size] for record in records]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _relative(name: int | str | Path, labels: Path) -> int | str:
    """A path as seen from the labels, so that a data set may be moved; another name as it is."""
    if isinstance(name, Path) or (isinstance(name, str) and Path(name).is_absolute()):
        return Path(os.path.relpath(name, labels)).as_posix()
    return name


def _plain(value: Any) -> Any:
    """What JSON does not know: arrays, numbers of NumPy, compressed masks."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
