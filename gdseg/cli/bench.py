"""`gdseg bench`: print what `gdseg.bench` measures."""

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from gdseg.cli import options as o
from gdseg.cli.console import out, print_json, print_table
from gdseg.cli.run_options import recipe_changes
from gdseg.errors import UsageError
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import DEFAULT_RECIPE, load_recipe

if TYPE_CHECKING:
    import torch

    from gdseg.bench.operator import OperatorRow
    from gdseg.bench.operator_bars import Verdict

EXAMPLES = """Examples:

  gdseg bench op

  gdseg bench train -r coco_instance_maskdino_r50 --data shapes --device cuda

  gdseg bench predict -r coco_instance_maskdino_r50 inference.tile=1000   a 4000 x 3000 image, 300 objects

  gdseg bench objects -r custom augment.canvas=[512,512]   one image with 1000 objects, trained on and judged
"""


def command(
    context: typer.Context,
    part: Annotated[
        str, typer.Argument(help="op, model, train, data, predict, objects, or all but the last two.")
    ] = "all",
    overrides: o.OverridesArg = None,
    recipe: o.RecipeOpt = None,
    data: o.DataOpt = None,
    repeats: Annotated[int, typer.Option(help="Calls timed; the median counts.", min=1)] = 5,
    device: o.DeviceOpt = "auto",
    check: Annotated[
        bool,
        typer.Option(help="op: end with exit code 1 if a bar was missed, as make gpu does."),
    ] = False,
    as_json: o.JsonOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Time the operator, the model, a training step, the loader, a large or a full image on this machine."""
    resolved = load_recipe(recipe or DEFAULT_RECIPE, recipe_changes(context.params))

    from gdseg.bench.parts import PARTS, bench
    from gdseg.device import resolve_device
    from gdseg.models.deform_attn_kernel import announce

    if part not in ("op", *PARTS, "predict", "objects", "all"):
        choices = ", ".join(("op", *PARTS, "predict", "objects", "all"))
        raise UsageError(f"there is nothing called '{part}' to time", hint=f"one of {choices}")
    chosen = resolve_device(device)
    announce(logging.INFO)
    if part in ("predict", "objects"):
        _one_image(part, resolved, chosen, as_json=as_json)
        return
    wanted = [p for p in PARTS if part in (p, "all")]
    operator = _operator(chosen, repeats, short=part == "all") if part in ("op", "all") else []
    rows = {p: bench(p, resolved, chosen, repeats) for p in wanted}
    if as_json:
        from gdseg.bench.operator import as_json as plain

        found = {"op": plain(operator)} if operator else {}
        print_json({**found, **{p: dict(times) for p, times in rows.items()}})
    else:
        _print_all(operator, rows, chosen)
    if check and any(v.met is False for v in _verdicts(operator, chosen)):
        raise typer.Exit(1)


def _print_all(
    operator: "list[OperatorRow]", rows: "dict[str, list[tuple[str, float]]]", device: "torch.device"
) -> None:
    if operator:
        _print_operator(operator, device)
    table = [
        [p, what, f"{1000 * s:.1f} ms", f"{s / times[0][1]:.2f}"]
        for p, times in rows.items()
        for what, s in times
    ]
    if table:
        print_table(f"gdseg bench on {device}", ["part", "what", "median", "ratio to the first"], table)


def _one_image(part: str, recipe: Recipe, device: "torch.device", *, as_json: bool) -> None:
    from dataclasses import asdict

    from gdseg.bench.large_image import HEIGHT, WIDTH, bench_predict
    from gdseg.bench.many_objects import COLUMNS, ROWS, bench_objects

    if part == "predict":
        rows, what = bench_predict(recipe, device), f"{WIDTH} x {HEIGHT} pixels with 300 objects"
    else:
        rows, what = bench_objects(recipe, device), f"{ROWS * COLUMNS} objects"
    if as_json:
        print_json({part: [asdict(row) for row in rows]})
        return
    table = [
        [
            row.what,
            f"{row.seconds:.1f}",
            f"{row.cpu_seconds:.1f}",
            f"{row.bytes_peak / 1e6:.0f}",
            f"{(row.bytes_peak - row.bytes_before) / 1e6:.0f}",
            str(row.found),
        ]
        for row in rows
    ]
    columns = ["how", "seconds", "CPU seconds", "peak MB", "of which for the image", "objects"]
    print_table(f"an image of {what} on {device}", columns, table)


def _operator(device: "torch.device", repeats: int, short: bool) -> "list[OperatorRow]":
    """All sizes take minutes on a CPU; among the other parts the smallest must do."""
    from gdseg.bench.operator import SIZES, bench_op

    names = list(SIZES)[-1:] if short else list(SIZES)
    return bench_op(device, repeats, {name: SIZES[name] for name in names})


def _verdicts(rows: "list[OperatorRow]", device: "torch.device") -> "list[Verdict]":
    from gdseg.bench.operator_bars import verdicts

    return verdicts(rows, device.type, _name(device))


def _name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _print_operator(rows: "list[OperatorRow]", device: "torch.device") -> None:
    """A table a size and work, narrow enough for 80 columns, and the bars."""
    from gdseg.bench.operator_bars import TIMED_ON
    from gdseg.models.deform_attn import kernel_in_use

    out.print(f"deformable attention on {device}: {kernel_in_use()}")
    for size, work in dict.fromkeys((row.size, row.work) for row in rows):
        table = [
            [
                row.path,
                _milliseconds(row.median_s),
                _milliseconds(row.min_s),
                f"{row.speedup:.2f}",
                "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}",
            ]
            for row in rows
            if (row.size, row.work) == (size, work)
        ]
        print_table(f"{size}: {work}", ["path", "median ms", "min ms", "times", "peak MB"], table)
    bars: list[list[str]] = []
    for v in _verdicts(rows, device):
        if [v.where, "", "", ""] not in bars:
            bars.append([v.where, "", "", ""])
        met = {True: "met", False: "MISSED", None: "not run"}[v.met]
        bars.append([f"  {v.what}", v.bar, v.found, met])
    held = "what it is held to"
    if device.type == "cuda":
        held += f" on {_name(device)} (times in us: on an {TIMED_ON} alone)"
    print_table(held, ["", "bar", "found", ""], bars)


def _milliseconds(seconds: float) -> str:
    digits = 3 if seconds < 0.01 else 1
    return f"{1000 * seconds:.{digits}f}"
