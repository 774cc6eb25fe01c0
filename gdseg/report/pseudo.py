"""The report's part on pseudo-labels: what teachers label, what the rule makes of it, how much is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gdseg.coco_json import truth_predictions
from gdseg.data.dataset import open_dataset, unlabelled_pool
from gdseg.data.images import read_image
from gdseg.data.label_maps import with_masks
from gdseg.errors import DataError, GdsegError
from gdseg.eval.run import Progress
from gdseg.eval.tables import percent
from gdseg.predict import Predictor, load_model
from gdseg.recipe import Distill
from gdseg.report.cells import CLASS_ROWS, bar
from gdseg.report.pseudo_review import THRESHOLDS, Fate, Reviewer
from gdseg.report.run import Run
from gdseg.structures import Predictions, Record
from gdseg.train.counts import labels_per_image
from gdseg.train.label_images import moved_thresholds, not_applied
from gdseg.train.start import Start
from gdseg.view.draw import Pixels, displayable
from gdseg.view.gallery import Card, Tag, picture
from gdseg.view.page import Block, Cell, Figure, Figures, Gallery, Section, Table, Text
from gdseg.view.report_plots import counts, precision_and_recall
from gdseg.view.sheets import spread
from gdseg.view.svg import inline_svg

_TAGS = 8  # named below a picture, of each fate
_UNITS = {"instance": "objects", "panoptic": "segments", "semantic": "pixels"}


@dataclass(frozen=True)
class Sample:
    """An unlabelled image, and the same with its labels where they are known."""

    record: Record
    truth: Record | None


def samples(run: Run, data: Start, truth: Path | None, number: int) -> list[Sample]:
    """At most `number` images of the unlabelled stream that are not labelled, spread evenly.

    Those of the training part have their own labels as truth, those of folders what `truth` (a COCO json or
    a folder of label maps) says of them. Raises DataError for a folder or a `truth` that cannot be read.
    """
    assert run.recipe is not None
    keys = replace(run.recipe.data, unlabelled_has_labelled=False)
    known: dict[Any, Record] = {record.image_id: record for record in data.dataset.train}
    for folder in keys.unlabelled if truth else ():
        place = replace(keys, train=str(truth), train_images=str(Path(folder).expanduser()), train_maps=None)
        labels = open_dataset(place, ("train",), task=run.recipe.task, strict=False)
        if labels.classes != data.dataset.classes:
            raise DataError(
                "the truth has other classes than the data", truth, "give labels of the same classes"
            )
        known |= {str(record.path.absolute()): record for record in labels.train}
    pool, _ = unlabelled_pool(data.dataset.train, data.split, keys, data.dataset.val)
    chosen = [pool[i] for i in spread(len(pool), number)]
    return [Sample(r, known.get(r.image_id) or known.get(str(r.path.absolute()))) for r in chosen]


def pseudo_labels(run: Run, images: Sequence[Sample], shown: int, device: str, progress: Progress) -> Section:
    """Label the images with each teacher there is, and show `shown` of them by the last.

    Raises CheckpointError, DataError.
    """
    assert run.recipe is not None
    assert run.data is not None
    makers = [name for name in ("pretrained teacher", "EMA teacher", "teacher") if name in run.files]
    reviewers, cards = dict[str, Reviewer](), list[Card]()
    visible = set(spread(len(images), shown))
    broken = 0
    for number, name in enumerate(makers):
        predictor = load_model(run.files[name], device)
        if (predictor.classes, predictor.network.recipe.task) != (run.data.dataset.classes, run.recipe.task):
            run.notes.append(f"The {name} knows other classes or another task, and labels nothing here.")
            continue
        thresholds = _thresholds(run, name, predictor)
        reviewer = reviewers[name] = Reviewer(predictor, run.recipe, run.data.dataset.things, thresholds)
        for place, image in enumerate(images):
            progress(number * len(images) + place + 1, len(makers) * len(images))
            try:
                pixels = read_image(image.record.path, predictor.network.recipe.backbone.in_channels)
                fate = reviewer.add(pixels, image.record, image.truth)
            except DataError:
                broken += 1
                continue
            if name == makers[-1] and place in visible:
                cards.append(_card(image, displayable(pixels), fate, run))
    blocks = _blocks(run, reviewers, cards, len(images)) if reviewers else []
    if broken:
        blocks.append(Text(f"{broken} images or their labels could not be read.", "note"))
    return Section("Pseudo-labels", blocks)


def _thresholds(run: Run, name: str, predictor: Predictor) -> Tensor | None:
    """Those that training had moved when it saved the network; for the frozen teacher, by its last step."""
    assert run.recipe is not None
    rule = run.recipe.distill
    step = rule.burn_in_steps if name == "pretrained teacher" else predictor.network.step
    return moved_thresholds(run.path, rule, len(predictor.classes), step)


def _blocks(run: Run, reviewers: dict[str, Reviewer], cards: list[Card], images: int) -> list[Block]:
    assert run.recipe is not None
    last = list(reviewers)[-1]
    judged, inference = reviewers[last].by_rule.judged, reviewers[last].predictor.network.recipe.inference
    tiled = reviewers[last].tiled
    about = f"{_rule(run)}{_moved(reviewers)} Looked at: {images} images outside the split, "
    about += f"in tiles of {inference.tile} pixels" if tiled else "at test-time size"
    about += ", without augmentation"
    about += f"; the truth of {judged} of them is known." if judged else "; their truth is not known."
    blocks: list[Block] = [Text(about)]
    if keys := not_applied(run.recipe.distill, inference, reviewers[last].thresholds, tiled=tiled):
        what = "Not applied here, so that training's own pseudo-labels may differ"
        blocks.append(Text(f"{what}: {', '.join(keys)}.", "note"))
    if judged:
        blocks.append(_judged_table(run, reviewers))
    swept = {name: each for name, each in reviewers.items() if each.sweep.images}
    if swept:
        blocks.append(Figures(list(_figures(run, swept))))
    blocks.append(_class_table(run, reviewers[last], last))
    legend = list(zip(reviewers[last].predictor.classes[:40], range(40), strict=False))
    title = f"{'Truth, and pseudo-labels' if judged else 'Pseudo-labels'} by the {last}"
    title += ": kept filled, ignored dashed, dropped dotted; numbers are class scores"
    title += " times mean mask probabilities" if tiled else ""
    return [*blocks, Gallery(title, cards, legend)]


def _rule(run: Run) -> str:
    assert run.recipe is not None
    rule, task = run.recipe.distill, run.recipe.task
    parts = []
    if task != "semantic":
        score = "a class score" if rule.score == "class" else "a class score times mean mask probability"
        parts.append(f"objects with {score} above {rule.class_threshold:g} are kept")
        if rule.ignore_threshold:
            parts.append(f"those above {rule.ignore_threshold:g} are neither object nor background (ignored)")
        if rule.mask_threshold:
            parts.append(f"masks need a mean probability of {rule.mask_threshold:g}")
        parts += _other_reasons(rule) if task == "instance" else []
    if task != "instance":
        parts.append(f"pixels get the best class above {rule.region_threshold:g}, others are ignored")
    return f"The rule: {'; '.join(parts)}."


def _other_reasons(rule: Distill) -> Iterator[str]:
    """Why an object is dropped however high its score is."""
    if rule.min_area:
        area = f"{rule.min_area:g} pixels at stride 4"
        yield f"those of an area (sum of mask probabilities) of at most {area} are dropped"
    if rule.mask_nms:
        yield f"so are duplicates, which overlap a surer one of their class by an IoU above {rule.mask_nms:g}"
    if rule.max_instances:
        yield f"so are all but the best {rule.max_instances} of an image"


def _moved(reviewers: dict[str, Reviewer]) -> str:
    """Which thresholds training had moved, and how far."""
    spans = {
        name: f"{float(each.thresholds.min()):.2f} to {float(each.thresholds.max()):.2f} for the {name}"
        for name, each in reviewers.items()
        if each.thresholds is not None
    }
    text = "As training moved it, each class has a threshold of its own"
    return f" {text}: {', '.join(spans.values())}." if spans else ""


def _judged_table(run: Run, reviewers: dict[str, Reviewer]) -> Table:
    assert run.recipe is not None
    rows: list[list[str | Cell]] = []
    for name, reviewer in reviewers.items():
        tally, images = reviewer.by_rule.tallies[0], max(reviewer.by_rule.images, 1)
        found = f"{reviewer.by_rule.found.sum() / images:.2f}"
        fit = reviewer.by_rule.fits[0]
        masks = [percent(fit.mask_iou), percent(fit.area_ratio)] if run.recipe.task == "instance" else []
        rows.append([name, found, bar(tally.precision()), bar(tally.recall()), *masks])
    unit = _UNITS[run.recipe.task]
    how = "one by one" if unit == "pixels" else "matched at IoU 0.5"
    fits = ["IoU", "area"] if run.recipe.task == "instance" else []  # short, for a phone
    how += "; of the right ones mean mask IoU, and median area over the true" if fits else ""
    return Table(
        f"At the recipe's threshold ({unit} {how}), %",
        ["labelled by", "an image", "precision", "recall", *fits],
        rows,
    )


def _figures(run: Run, reviewers: dict[str, Reviewer]) -> Iterator[Figure]:
    assert run.recipe is not None
    rule, swept = run.recipe.distill, next(iter(reviewers.values())).swept
    marks = [getattr(rule, key) for key in swept]
    axis = " and ".join(f"distill.{key}" for key in swept)
    if any(reviewer.sweep.judged for reviewer in reviewers.values()):
        lines = {
            name: (
                (THRESHOLDS, [tally.precision() for tally in reviewer.sweep.tallies]),
                (THRESHOLDS, [tally.recall() for tally in reviewer.sweep.tallies]),
            )
            for name, reviewer in reviewers.items()
        }
        svg = inline_svg(precision_and_recall(lines, marks, axis), "precision and recall over the threshold")
        yield Figure("Right, and found, by threshold", svg, "Dotted: the recipe's threshold.")
    many = {
        name: (THRESHOLDS, (reviewer.sweep.found.sum(1) / max(reviewer.sweep.images, 1)).tolist())
        for name, reviewer in reviewers.items()
    }
    truth = sum(_prior(run).values())
    svg = inline_svg(counts(many, marks, axis, truth), "pseudo-labels an image over the threshold")
    yield Figure("Pseudo-labels an image, by threshold", svg, "Dash-dotted: what the labelled images hold.")


def _prior(run: Run) -> dict[int, float]:
    assert run.data is not None
    assert run.recipe is not None
    try:
        return labels_per_image(run.data.labelled, run.recipe.task)
    except GdsegError:  # a label map that cannot be read
        return {}


def _class_table(run: Run, reviewer: Reviewer, name: str) -> Table:
    prior, by_rule = _prior(run), reviewer.by_rule
    rows: list[list[str | Cell]] = []
    names, found = reviewer.predictor.classes, by_rule.found[0] / max(by_rule.images, 1)
    frequent = sorted(range(len(names)), key=lambda label: -prior.get(label, 0) - found[label])
    shown = set(frequent[:CLASS_ROWS])
    for label, class_name in enumerate(names):
        if label not in shown:
            continue
        row: list[str | Cell] = [Cell(class_name, label=label), f"{prior.get(label, 0):.2f}"]
        row.append(f"{found[label]:.2f}")
        if by_rule.judged:
            row += [bar(by_rule.tallies[0].precision([label])), bar(by_rule.tallies[0].recall([label]))]
        rows.append(row)
    header = ["class", "by hand", "pseudo", *(["precision", "recall"] if by_rule.judged else [])]
    quality = ", precision and recall in %" if by_rule.judged else ""
    cut = f" (the {CLASS_ROWS} most frequent of {len(names)} classes)" if len(shown) < len(names) else ""
    return Table(f"Labels an image by hand, and pseudo-labels by the {name}{quality}{cut}", header, rows)


def _card(image: Sample, pixels: Pixels, fate: Fate, run: Run) -> Card:
    assert run.recipe is not None
    rule = run.recipe.distill
    faint = fate.dropped.filter((rule.ignore_threshold or rule.class_threshold) / 2)
    name = image.record.path.name
    pictures = []
    if image.truth is not None:
        drawn = with_masks(image.truth, run.recipe.task)
        names = fate.kept.names
        crowds = truth_predictions(drawn, names, crowds=True)
        pictures.append(picture(pixels, truth_predictions(drawn, names), f"truth of {name}", crowds))
    pictures.append(picture(pixels, fate.kept, f"pseudo-labels of {name}", fate.ignored, faint))
    lines = [
        ("kept", _tags(fate.kept, fate.right)),
        ("ignored", _tags(fate.ignored)),
        ("dropped", _tags(faint)),
    ]
    return Card(name, pictures, [line for line in lines if line[1]])


def _tags(found: Predictions, right: Sequence[bool | None] = ()) -> list[Tag]:
    words = {True: "right", False: "wrong", None: ""}
    tags = []
    for i, (label, score) in enumerate(zip(found.labels.tolist(), found.scores.tolist(), strict=True)):
        name = found.names[label] if label >= 0 else "unsure pixels"
        text = f"{name} {score:.2f}" if score == score else name
        tags.append(Tag(text, label, words[right[i]] if right else ""))
    rest = len(tags) - _TAGS
    return tags if rest <= 0 else [*tags[:_TAGS], Tag(f"and {rest} more", -1)]
