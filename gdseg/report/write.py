"""`gdseg report`: one HTML file about one or several runs. Called by the CLI."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from gdseg import __version__
from gdseg.device import resolve_device
from gdseg.errors import CheckpointError, DataError, GdsegError
from gdseg.eval.run import Progress
from gdseg.files import write_atomic
from gdseg.report.compare import comparison
from gdseg.report.pseudo import pseudo_labels, samples
from gdseg.report.results import logged_results, results
from gdseg.report.run import Run, open_run
from gdseg.report.setting import curves, resources, setting, summary
from gdseg.view.page import Section, render

Phase = Callable[[str], AbstractContextManager[Progress]]  # what is done -> its progress
_PSEUDO_SHOWN, _RESULTS_SHOWN = 24, 6  # pictures of each kind, shared among the runs


@dataclass(frozen=True)
class Options:
    """images: unlabelled ones that are pseudo-labelled; val_images: those evaluated, 0 for all.

    network: whether networks run at all; truth: labels of the unlabelled folders' images.
    """

    images: int = 96
    val_images: int = 300
    network: bool = True
    truth: Path | None = None
    device: str = "auto"


def write_report(paths: Sequence[Path], target: Path, options: Options, phase: Phase) -> int:
    """Write the page and return its size in bytes.

    Raises UsageError for a folder that is no run, MachineError for a device or a disk that will not do,
    DataError for a `truth` that cannot be read. Whatever else is gone is said on the page.
    """
    resolve_device(options.device)
    runs = [open_run(path) for path in paths]
    sections = [_section(run, options, len(runs), phase) for run in runs]
    if len(runs) > 1:
        sections.insert(0, comparison(runs))
    title = f"gdseg: {runs[0].name}" if len(runs) == 1 else f"gdseg: {len(runs)} runs"
    made = time.strftime("%Y-%m-%d %H:%M")
    foot = f"Made by gdseg {__version__} on {made}; this file needs nothing else."
    page = render(title, sections, foot)
    write_atomic(target, page)
    return len(page)


def _section(run: Run, options: Options, runs: int, phase: Phase) -> Section:
    parts = [setting(run), curves(run)]
    if options.network and run.data is not None and run.files:
        parts += [_pseudo(run, options, runs, phase), _results(run, options, runs, phase)]
    else:
        parts.append(logged_results(run))
    parts.append(resources(run))
    return Section(run.name, summary(run), [part for part in parts if part is not None])


def _pseudo(run: Run, options: Options, runs: int, phase: Phase) -> Section | None:
    assert run.data is not None
    if run.about.get("verb") != "distill" or not options.images:
        return None
    try:
        images = samples(run, run.data, options.truth, options.images)
    except DataError as error:
        if options.truth is not None:
            raise
        run.notes.append(f"No pseudo-labels are shown: {error.what}.")
        return None
    with phase(f"{run.name}: pseudo-labels of image") as tell:
        try:
            return pseudo_labels(run, images, max(4, _PSEUDO_SHOWN // runs), options.device, tell)
        except CheckpointError as error:
            run.notes.append(f"No pseudo-labels are shown: {error.what}.")
            return None


def _results(run: Run, options: Options, runs: int, phase: Phase) -> Section | None:
    assert run.data is not None
    if not run.data.dataset.val:
        run.notes.append("There are no validation images (data.val: none), and so no scores.")
        return None
    device = resolve_device(options.device)
    with phase(f"{run.name}: validation image") as tell:
        try:
            shown = max(2, _RESULTS_SHOWN // runs)
            return results(run, options.val_images, shown, device, tell) or logged_results(run)
        except GdsegError as error:
            run.notes.append(f"The validation images were not evaluated: {error.what}.")
            return logged_results(run)
