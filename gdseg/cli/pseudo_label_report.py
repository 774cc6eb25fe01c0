"""What `gdseg pseudo-label` says of the labels it wrote: counts a class, precision and recall, the files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gdseg.cli.console import err, out, print_json, print_table
from gdseg.errors import DataError
from gdseg.eval.tables import percent
from gdseg.files import plain
from gdseg.words import counted

if TYPE_CHECKING:
    from gdseg.eval.label_truth import LabelTruth
    from gdseg.train.label_folder import Folder
    from gdseg.train.label_write import Summary

_FAR = 0.05  # from 1, of areas over the true ones


def sheet_title(folder: Folder) -> str:
    """What stands above the contact sheet."""
    if folder.predictor.network.recipe.task != "instance":
        return "Pseudo-labels. Filled: kept. Dashed outline: not sure enough, of no class"
    rule, thresholds = folder.applied()
    above = f"class score above {f'{rule.class_threshold:g}' if thresholds is None else 'its threshold'}"
    return f"Pseudo-labels. Filled: kept, {above}. Dotted outline: not kept, score below"


def say_shard(folder: Folder, shard: str, *, as_json: bool, quiet: bool) -> None:
    """That a shard is done, how many images the others still have, and what comes then."""
    missing = folder.missing()
    if as_json:
        print_json({"shard": shard, "missing": missing})
    elif not quiet:
        rest = f"{counted(missing, 'image')} of other shards to do, then" if missing else "all are done:"
        text = f"shard {shard} is done; {rest} the same command without --shard writes {folder.target}"
        err.print(text, soft_wrap=True)


def report(
    folder: Folder,
    summary: Summary,
    truth: LabelTruth | None,
    *,
    with_sheet: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Counts a class, precision and recall, and where the files are."""
    classes = folder.predictor.classes
    if as_json:
        print_json(plain(_facts(folder, summary, truth)))
        return
    if quiet or not summary.done:
        return
    rows = [
        [name, str(summary.objects[name]), str(summary.images[name]), _mean(summary, name)]
        for name in classes
    ]
    title = f"{counted(sum(summary.objects.values()), 'pseudo-label')} in {counted(summary.done, 'image')}"
    if summary.left_out:
        title += f"; {counted(summary.left_out, 'image')} left out by the --keep file"
    print_table(title, ["class", "objects", "images", "mean score"], rows)
    if folder.predictor.network.recipe.task != "semantic":
        asked = " (which thresholds ask for)" * (folder.rule.score == "class")
        err.print(f"score: class score{asked} times mean mask probability")
    if truth is not None:
        _print_truth(truth, classes, summary.done)
    sheet = f", contact sheet in {folder.target.with_suffix('.png')}" if with_sheet else ""
    err.print(f"labels in {folder.target}{sheet}", soft_wrap=True)


def _mean(summary: Summary, name: str) -> str:
    return f"{summary.scores[name] / summary.objects[name]:.2f}" if summary.objects[name] else "-"


def _facts(folder: Folder, summary: Summary, truth: LabelTruth | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "out": str(folder.target) if summary.done else None,
        "images": summary.done,
        "objects": {name: summary.objects[name] for name in folder.predictor.classes},
        "failed": [str(folder.paths[n]) for n, _ in summary.failed],
    }
    facts |= {"left_out": summary.left_out} if folder.keep is not None else {}
    if truth is not None:
        judged = truth.summary(folder.predictor.classes)
        facts["truth"] = {**judged, "not_judged": summary.done - truth.judged}
    return facts


def _print_truth(truth: LabelTruth, classes: list[str], images: int) -> None:
    found = truth.summary(classes)
    everything = {
        name: sum(row[name] for row in found["classes"].values()) for name in ("right", "wrong", "missed")
    }
    named = {**found["classes"], "all": {**found, **everything}}
    rows = [
        [
            name,
            *(str(row[key]) for key in ("right", "wrong", "missed")),
            percent(row["precision"]),
            percent(row["recall"]),
        ]
        for name, row in named.items()
    ]
    print_table(
        f"{truth.measure}, {counted(truth.judged, 'image')}",
        ["class", "right", "wrong", "missed", "precision", "recall"],
        rows,
    )
    if truth.tally.right.any() and truth.task == "instance":
        ratio, iou = found["area_ratio"], percent(found["mask_iou"])
        text = (
            f"masks of the right ones: IoU {iou} % on average, area {percent(ratio)} % of the true (median)"
        )
        if abs(ratio - 1) > _FAR:
            way = ("higher", "smaller") if ratio > 1 else ("lower", "larger")
            text += "; a {} distill.pixel_threshold makes them {}".format(*way)
        out.print(text, soft_wrap=True)
    if images > truth.judged:
        others = (
            f", {len(truth.other_size)} for their size differs from the truth's" if truth.other_size else ""
        )
        out.print(
            f"not judged: {counted(images - truth.judged, 'image')} without truth{others}", soft_wrap=True
        )


def say_if_empty(folder: Folder, summary: Summary) -> None:
    """Say that no image has a label, and why: the class score, or what else the rule asks for.

    Raises DataError where the --keep file left out every image, so that nothing was written.
    """
    if summary.objects or not summary.done + summary.left_out:
        return
    rule, thresholds = folder.applied()
    task = folder.predictor.network.recipe.task
    of_objects = rule.class_threshold if thresholds is None else float(thresholds.min())
    bars = [of_objects] * (task != "semantic") + [rule.region_threshold] * (task != "instance")
    enough, best = summary.best > min(bars), f"the best class score is {summary.best:.3g}"
    means = ["--conf"] * (task != "semantic") + ["distill.region_threshold"] * (task != "instance")
    why, advice = "which is not enough", f"lower {' or '.join(means)}"
    if enough:
        keys = ["min_area"]
        if task != "semantic":
            keys += ["mask_threshold"] * bool(rule.mask_threshold) + ["score"] * (rule.score != "class")
        why = "but the rule asks for more than that"
        advice = f"lower {' or '.join([', '.join(f'distill.{key}' for key in keys), *means])}"
    if folder.keep is not None:
        advice = f"change the --keep file, or {advice}"
    if not summary.done:
        what = f"nothing was written: the --keep file leaves out all {counted(summary.left_out, 'image')}"
        raise DataError(what if enough else f"{what}; {best}, {why}", folder.target, advice)
    err.print(f"warning: no image has a label; {best}, {why}: {advice}", soft_wrap=True)
