"""What a run was, how it went, and what it took: facts, curves, times, from the run directory alone."""

from __future__ import annotations

from typing import Any

from gdseg.files import plain
from gdseg.recipe_yaml import dump_recipe
from gdseg.report.run import Run
from gdseg.view.page import Block, Details, Facts, Figure, Figures, Section, Text
from gdseg.view.plots import is_number, panel_title, run_panels
from gdseg.view.svg import inline_svg
from gdseg.words import counted

_SHOWN_DIGITS = 16


def summary(run: Run) -> list[Block]:
    """What came of it in a sentence, and what is missing from this page."""
    best = run.best()
    blocks: list[Block] = []
    if best:
        parts = [f"{name} {_percent(value)}" for name, value in best.items()]
        blocks.append(Text(_sentence(f"{run.metric_name}, %: {', '.join(parts)}.{_gain(best)}"), "lead"))
    return blocks + [Text(note, "note") for note in run.notes]


def _gain(best: dict[str, float]) -> str:
    if not {"student", "pretrained teacher"} <= best.keys():
        return ""
    gain = best["student"] - best["pretrained teacher"]
    return f" The student is {100 * gain:+z.1f} against its teacher."


def setting(run: Run) -> Section:
    """Command, data, split, model, machine, and the whole recipe on demand."""
    about = run.about
    facts = [
        ("command", about.get("command")),
        ("started", about.get("started")),
        *_resumed(about.get("resumed")),
        ("data set", about.get("data")),
        ("sha256 of the training labels", _digest(about.get("data_sha256"))),
        ("labelled images", _labelled(run)),
        ("sha256 of the labelled ids", _digest(about.get("split_sha256") or run.split.get("sha256"))),
        ("unlabelled images", about.get("unlabelled")),
        ("validation images", _counts(run).get("val")),
        ("classes", _classes(about.get("classes"))),
        *_of_recipe(run),
        ("seed", about.get("seed")),
        ("device", about.get("device")),
        ("versions", _versions(about.get("versions"))),
        ("code", _digest(about.get("git"))),
    ]
    rows = [(name, str(value)) for name, value in facts if value not in (None, "", {}, [])]
    blocks: list[Block] = [Facts(rows)]
    if run.recipe:
        blocks.append(Details("recipe.yaml", dump_recipe(run.recipe)))
    return Section("Setting", blocks)


def _resumed(entries: Any) -> list[tuple[str, Any]]:
    """A row for each later command."""
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [("resumed", f"{entry.get('started')}: {entry.get('command')}") for entry in found]


def _of_recipe(run: Run) -> list[tuple[str, Any]]:
    if run.recipe is None:
        return []
    recipe, rule = run.recipe, run.recipe.distill
    facts: list[tuple[str, Any]] = [
        ("task", recipe.task),
        ("network", f"{recipe.decoder.kind}, {recipe.backbone.name}"),
    ]
    if run.about.get("verb") != "distill":
        return [
            *facts,
            ("steps", f"{recipe.train.steps} of {counted(recipe.train.batch_size, 'labelled image')}"),
        ]
    batch = (
        f"{recipe.train.batch_size} labelled and {counted(rule.unlabelled_batch_size, 'unlabelled image')}"
    )
    return [
        *facts,
        ("steps", f"{rule.steps} of {batch}; burn-in ends at {rule.burn_in_steps}"),
        ("teacher's moving average", f"decay {rule.ema_decay:g}"),
        ("weight of the unlabelled loss", f"{rule.unlabelled_weight:g}, pseudo-labels {rule.weighting}"),
        ("pretrained teacher", run.about.get("teacher")),
    ]


def _counts(run: Run) -> dict[str, Any]:
    """Images of each part, as recorded or, of older runs, as found."""
    images = run.about.get("images")
    if isinstance(images, dict):
        return images
    return {"train": len(run.data.dataset.train), "val": len(run.data.dataset.val)} if run.data else {}


def labelled_images(run: Run) -> int | None:
    """How many labelled images the run had."""
    count = run.about.get("labelled")
    ids = run.split.get("ids")
    return count if isinstance(count, int) else len(ids) if isinstance(ids, list) else None


def _labelled(run: Run) -> str | None:
    count, total = labelled_images(run), _counts(run).get("train")
    if count is None:
        return None
    share = f" of {total} ({100 * count / total:.3g} %)" if is_number(total) and total else ""
    drawn = run.split.get("ratio")
    how = f", drawn with seed {run.split.get('seed')}" if is_number(drawn) and drawn != 1 else ""
    return f"{count}{share}{how}"


def _classes(names: Any) -> str | None:
    if not isinstance(names, list) or not names:
        return None
    shown = ", ".join(str(name) for name in names[:12])
    return f"{len(names)}: {shown}{' ..' if len(names) > 12 else ''}"


def _versions(versions: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else ""


def _digest(value: Any) -> str:
    return f"{str(value)[:_SHOWN_DIGITS]}.." if value else ""


def curves(run: Run) -> Section | None:
    """Losses, the main metrics, pseudo-labels; None where nothing was logged."""
    figures = [
        Figure(_sentence(panel_title(name)), inline_svg(paint, f"{name} over steps"))
        for name, paint in run_panels(run.path).items()
    ]
    return Section("Curves", [Figures(figures)]) if figures else None


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] if text.split()[0].islower() else text  # mIoU stays


def resources(run: Run) -> Section:
    """Time, speed and memory."""
    seconds = [row["seconds"] for row in run.times if is_number(row.get("seconds"))]
    steps = run.metrics[-1]["step"] if run.metrics else None
    speed = [row["images_per_s"] for row in run.metrics if is_number(row.get("images_per_s"))]
    facts = [
        ("time", _duration(sum(seconds)) if seconds else None),
        ("sittings", len(seconds) if len(seconds) > 1 else None),
        ("steps done", _steps(run, steps) if steps else None),
        ("time a step", f"{sum(seconds) / steps:.2f} s, evaluations included" if seconds and steps else None),
        ("images a second", f"{speed[-1]:.1f}" if speed else None),
        ("most memory of the process", _memory(run, "peak_rss_mib")),
        ("most memory of the GPU", _memory(run, "peak_cuda_mib")),
    ]
    rows = [(name, str(value)) for name, value in facts if value is not None]
    if not seconds:
        return Section(
            "Time and memory", [Facts(rows), Text("The run has not ended yet, or was killed.", "note")]
        )
    return Section("Time and memory", [Facts(rows)])


def _steps(run: Run, done: float) -> str:
    if run.recipe is None:
        return f"{done:g}"
    distills = run.about.get("verb") == "distill"
    return f"{done:g} of {run.recipe.distill.steps if distills else run.recipe.train.steps}"


def _memory(run: Run, key: str) -> str | None:
    values = [row[key] for row in run.times if is_number(row.get(key))]
    return f"{max(values) / 1024:.2f} GiB" if values else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _percent(value: float) -> str:
    return f"{100 * float(plain(value)):.1f}"
