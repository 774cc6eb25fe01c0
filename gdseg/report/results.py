"""The report's part on validation images: scores, classes, precision and recall, best and worst images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gdseg.coco_json import truth_predictions
from gdseg.data.dataset import Dataset
from gdseg.data.images import read_image
from gdseg.data.label_maps import with_masks
from gdseg.eval.run import Progress
from gdseg.eval.scores import Scores
from gdseg.eval.single_images import CONFIDENCES, Reviewed, review
from gdseg.eval.tables import main_table, percent
from gdseg.models.checkpoint import Network, load_network
from gdseg.predict import Predictor
from gdseg.report.cells import CLASS_ROWS, bar
from gdseg.report.run import METRIC_NAMES, Run
from gdseg.runs import find_checkpoint, network_name
from gdseg.view.draw import displayable
from gdseg.view.gallery import Card, picture
from gdseg.view.page import Block, Cell, Figure, Figures, Gallery, Section, Table, Text
from gdseg.view.plots import is_number
from gdseg.view.report_plots import pr_curves, precision_and_recall
from gdseg.view.sheets import spread
from gdseg.view.svg import inline_svg

_CLASS_METRIC = {"instance": "mask_ap", "panoptic": "pq", "semantic": "iou"}
_COUNTS = {"instance": "objects", "panoptic": "", "semantic": "pixels"}
_QUALITY = {  # what single_images.py ranks images by
    "instance": "the IoU of the objects found, less for each missed or wrong one",
    "panoptic": "panoptic quality, all classes together",
    "semantic": "mean IoU of their classes",
}
_CURVES = 8  # classes with a curve of their own


def logged_results(run: Run) -> Section | None:
    """The last logged scores of each role, where no network is run; None if there are none."""
    verb = run.about.get("verb")
    last = {network_name(str(row.get("role", "network")), verb): row for row in run.evals}
    scores = {
        name: Scores({key: value for key, value in row.items() if is_number(value)})
        for name, row in last.items()
    }
    scores = {name: each for name, each in scores.items() if each.metrics.keys() & METRIC_NAMES.keys()}
    return Section("Validation images", [Table(*main_table(scores))]) if scores else None


def results(run: Run, limit: int, shown: int, device: torch.device, progress: Progress) -> Section | None:
    """Run the pretrained teacher and the run's best network over at most `limit` (0: all) validation images.

    None where no network fits the data. Raises CheckpointError, DataError.
    """
    assert run.data is not None
    whole = run.data.dataset
    chosen = spread(len(whole.val), limit or len(whole.val))
    dataset = replace(whole, val=[whole.val[i] for i in chosen])
    networks = _networks(run, device)
    reviewed = dict[str, Reviewed]()
    for number, (name, network) in enumerate(networks.items()):
        if (network.classes, network.recipe.task) != (whole.classes, whole.task):
            run.notes.append(f"The {name} knows other classes or another task, and is not evaluated.")
            continue
        done, total = number * len(chosen), len(networks) * len(chosen)
        reviewed[name] = review(network, dataset, device, _shifted(progress, done, total))
    if not reviewed:
        return None
    last = list(reviewed)[-1]
    part = "all" if len(chosen) == len(whole.val) else f"{len(chosen)} of {len(whole.val)}"
    about = f"Measured on {part} validation images."
    if "best" in find_checkpoint(run.path).name:
        about += f" Each network's best checkpoint, chosen on them by {run.metric_name}."
    if len(run.files) > len(networks):
        about += f" Of the run's own networks the best is shown, the {last}."
    blocks: list[Block] = [Text(about)]
    blocks.append(Table(*main_table({name: each.scores for name, each in reviewed.items()})))
    blocks.append(_class_table(whole, {name: each.scores for name, each in reviewed.items()}))
    figures = _figures(whole, reviewed, last)
    if figures:
        blocks.append(Figures(figures))
    predictor = Predictor(networks[last], device, run.path)
    blocks += _galleries(dataset, reviewed[last], predictor, shown)
    return Section("Validation images", blocks)


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    """Progress of a part of the work, which begins when `before` of `total` are done."""
    return lambda done, _: progress(before + done, total)


def _networks(run: Run, device: torch.device) -> dict[str, Network]:
    """The pretrained teacher, then the run's best network by its name."""
    files = {name: file for name, file in run.files.items() if name == "pretrained teacher"}
    best = load_network(find_checkpoint(run.path), device)
    name = network_name(best.role, run.about.get("verb"))
    return {**{name: load_network(file, device) for name, file in files.items()}, name: best}


def _class_table(dataset: Dataset, scores: Mapping[str, Scores]) -> Table:
    key, count = _CLASS_METRIC[dataset.task], _COUNTS[dataset.task]
    first = next(iter(scores.values())).per_class
    labels = range(len(dataset.classes))
    if count:
        labels = sorted(labels, key=lambda i: -first[dataset.classes[i]].get(count, 0))  # type: ignore[assignment]
    rows: list[list[str | Cell]] = []
    for label in labels[:CLASS_ROWS]:
        name = dataset.classes[label]
        row: list[str | Cell] = [Cell(name, label=label)]
        row += [f"{first[name].get(count, 0):.0f}"] if count else []
        rows.append(row + [bar(each.per_class[name].get(key, float("nan"))) for each in scores.values()])
    word = METRIC_NAMES.get(key, "IoU")
    cut = f" (the {CLASS_ROWS} most frequent of {len(labels)})" if len(labels) > CLASS_ROWS else ""
    header = ["class", *([count] if count else []), *(f"{name}" for name in scores)]
    return Table(f"Each class, {word}, %{cut}", header, rows)


def _figures(dataset: Dataset, reviewed: Mapping[str, Reviewed], last: str) -> list[Figure]:
    """Precision over recall of all classes and of each, and both over the confidence; instances only."""
    tables = {name: each.scores.precision for name, each in reviewed.items()}
    curves, styles = dict[str, NDArray[np.float64]](), dict[str, tuple[int, str]]()
    for name, table in tables.items():
        for number, iou, line in ((0, "0.5", "-"), (5, "0.75", "--")):
            if table is not None and (table[number] > -1).any():
                label = f"{name}, IoU {iou}"
                curves[label] = table[number][:, table[number].max(0) > -1].mean(1)
                styles[label] = {"pretrained teacher": 2, "student": 5}.get(name, 4), line
    if not curves:
        return []
    svg = inline_svg(pr_curves(curves, styles, legend=True), "precision over recall, mean of the classes")
    figures = [Figure("Precision over recall, mean of the classes", svg)]
    own = tables[last]
    if own is not None and 1 < len(dataset.classes) <= _CURVES:
        there = {name: own[0, :, i] for i, name in enumerate(dataset.classes) if own[0, 0, i] > -1}
        of_class = {name: (dataset.classes.index(name), "-") for name in there}
        svg = inline_svg(pr_curves(there, of_class, legend=False), "precision over recall of each class")
        figures.append(
            Figure(f"Each class of the {last}, IoU 0.5", svg, "Colours as in the table of classes.")
        )
    best = reviewed[last]
    if best.confidence is not None:
        pair = (
            (CONFIDENCES, [tally.precision() for tally in best.tallies]),
            (CONFIDENCES, [tally.recall() for tally in best.tallies]),
        )
        paint = precision_and_recall({last: pair}, [best.confidence], "score from which a prediction counts")
        svg = inline_svg(paint, "precision and recall over the score")
        conf = f"{best.confidence:g}"
        advice = f"F1 is highest from a score of {conf} on (dotted): gdseg predict --conf {conf}"
        figures.append(Figure("Precision and recall by score, IoU 0.5", svg, advice))
    return figures


def _galleries(dataset: Dataset, reviewed: Reviewed, predictor: Predictor, shown: int) -> list[Block]:
    """Truth beside prediction of the images that went worst and best."""
    order = sorted(reviewed.quality, key=lambda image_id: reviewed.quality[image_id])
    worst, best = order[:shown], order[shown:][-shown:][::-1]
    legend = list(zip(dataset.classes[:40], range(40), strict=False))
    counted = f", scores from {reviewed.confidence:g} on" if reviewed.confidence is not None else ""
    blocks: list[Block] = []
    for name, ids in (("Worst", worst), ("Best", best)):
        cards = [_card(image_id, dataset, reviewed, predictor) for image_id in ids]
        if cards:
            title = f"{name} images (by {_QUALITY[dataset.task]}): truth beside prediction{counted}"
            blocks.append(Gallery(title, cards, legend))
            legend = []
    return blocks


def _card(image_id: int | str, dataset: Dataset, reviewed: Reviewed, predictor: Predictor) -> Card:
    record = next(r for r in dataset.val if r.image_id == image_id)
    image = read_image(record.path, predictor.network.recipe.backbone.in_channels)
    pixels, name = displayable(image), record.path.name
    drawn = with_masks(record, dataset.task)
    true = truth_predictions(drawn, dataset.classes)
    crowds = truth_predictions(drawn, dataset.classes, crowds=True)
    found = predictor.predict_tensor(image, _confidence(reviewed))
    pictures = [
        picture(pixels, true, f"truth of {name}", crowds),
        picture(pixels, found, f"prediction for {name}"),
    ]
    return Card(f"{name}: {percent(reviewed.quality[image_id])} %", pictures)


def _confidence(reviewed: Reviewed) -> Any:
    return reviewed.confidence  # None for maps: the recipe's own
