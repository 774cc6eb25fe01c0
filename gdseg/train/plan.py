"""`--dry-run`: what a run would do, without writing anything."""

from __future__ import annotations

from pathlib import Path

import torch

from gdseg.data.dataset import unlabelled_pool
from gdseg.models.model import build_model
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import dump_recipe
from gdseg.train.counts import settle
from gdseg.train.start import advice, open_data, validation_left_out
from gdseg.train.teacher import load_guide
from gdseg.words import counted


def describe(recipe: Recipe, run: Path, device: torch.device, verb: str, teacher: Path | None = None) -> str:
    """Recipe, data, split, model size and run directory as text; teacher: of a distillation.

    Raises what the run itself would.
    """
    data = open_data(recipe)
    like = load_guide(teacher, data.dataset, torch.device("cpu")).recipe if teacher else None
    recipe = settle(recipe, data.some_counts(), like if recipe.distill.student_init == "teacher" else None)
    with torch.device("meta"):
        model = build_model(recipe, len(data.dataset.classes), load_weights=False)
    parameters = sum(p.numel() for p in model.parameters())
    steps = recipe.train.steps if verb == "pretrain" else recipe.distill.steps
    lines = [
        dump_recipe(recipe),
        f"run directory   {run}",
        f"device          {device}",
        f"classes         {len(data.dataset.classes)}: {', '.join(data.dataset.classes[:8])}",
        f"images          {len(data.dataset.train)} train, {len(data.dataset.val)} val",
        f"labelled        {counted(len(data.labelled), 'image')}, split sha256 {data.split.sha256[:12]}",
        f"model           {parameters / 1e6:.1f} M parameters: {recipe.decoder.kind}, {recipe.backbone.name}",
        f"steps           {steps}",
    ]
    if verb == "distill":
        unlabelled, copies = unlabelled_pool(data.dataset.train, data.split, recipe.data, data.dataset.val)
        lines.insert(-2, f"unlabelled      {counted(len(unlabelled), 'image')}")
        lines += [warning] if (warning := validation_left_out(copies)) else []
    lines += [hint] if (hint := advice(len(data.labelled), recipe, verb)) else []
    return "\n".join(lines)
