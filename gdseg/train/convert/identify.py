"""Which model a state dict is of.

The recipe that fits its tensors, from options, shapes or published configurations. Called by
`convert.convert_state_dict`. The table of published configurations, `published.json`, is made by
`make_published.py` from official configurations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from gdseg.errors import CheckpointError, RecipeError
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import recipe_with
from gdseg.train.convert.options import recipe_keys
from gdseg.train.convert.report import Report
from gdseg.train.convert.shapes import Shapes, architecture

Keys = dict[str, Any]  # dotted recipe keys, and num_classes, dataset, released files


@cache
def published() -> dict[str, Keys]:
    """Every published configuration.

    Name -> its keys where they differ from `Recipe()`, best choice first.
    """
    text = resources.files("gdseg.train.convert").joinpath("published.json").read_text(encoding="utf-8")
    table: dict[str, Keys] = json.loads(text)
    return table


def identify(
    shapes: Shapes, options: Mapping[str, Any] | str | None, report: Report, stated: Mapping[str, Any]
) -> Recipe:
    """The recipe of a model with these tensors; `report` learns where it came from and what was assumed.

    options: official ones in any spelling of `records.as_config`, or the name of a published configuration;
    None: the published configuration that fits. The file is right where both speak. stated: recipe keys that
    replace those of the options. Raises CheckpointError, also where the shapes contradict `stated`.
    """
    told = architecture(shapes)
    for key, value in stated.items():
        if key in told and told[key] != value:  # NaN differs from itself
            what = f"its configuration states {key}: {str(value)[:80]}, its tensors' shapes say {told[key]}"
            raise CheckpointError(what, hint="is this the configuration of these weights?")
    if options is None:
        name, others = _nearest(told, report.family)
        given, report.configuration, report.also_fits = dict(published()[name]), name, others
    elif isinstance(options, str):
        if options not in published():
            raise CheckpointError("no published configuration of this name", options, "gdseg convert --list")
        given, report.configuration = dict(published()[options]), options
    else:
        given = recipe_keys(dict(options))
        report.configuration = "the given options"
    defaults = _flat(Recipe())
    for key, value in {**stated, **told}.items():
        assumed = given.get(key, defaults.get(key))
        if assumed != value:
            report.differences.append(f"{key}: {value} (the configuration has {assumed})")
    report.assumed = sorted(key for key in given if key not in told and key not in stated and "." in key)
    keys = {**given, **stated, **told}
    keys.pop("files", None)
    report.blue_first = bool(keys.pop("blue_first", False))
    report.unlike = list(keys.pop("unlike", []))
    report.num_classes = int(keys.pop("num_classes"))
    dataset = str(keys.pop("dataset", ""))
    report.dataset = dataset if report.num_classes == given.get("num_classes") else ""
    return recipe_of(keys)


def recipe_of(keys: Keys) -> Recipe:
    """A recipe with these dotted keys set. Raises CheckpointError for values that no recipe may have."""
    try:
        return recipe_with(keys, "its architecture")
    except RecipeError as error:
        raise CheckpointError(f"a model that gdseg cannot build: {error.what}", hint=error.hint) from error


def _flat(recipe: Recipe) -> Keys:
    sections = {name: value for name, value in vars(recipe).items() if hasattr(value, "__dataclass_fields__")}
    return {f"{name}.{key}": value for name, part in sections.items() for key, value in vars(part).items()}


def _nearest(told: Keys, family: str) -> tuple[str, list[str]]:
    """The published configuration that contradicts the shapes least, and the others that do so no more."""
    defaults, home = _flat(Recipe()), family.split(" (")[0].lower().replace(" ", "_")

    def distance(name: str, keys: Keys) -> tuple[bool, int, bool, bool]:
        wrong = [k for k, value in told.items() if keys.get(k, defaults.get(k)) != value]
        foreign = name.split("/")[0] != home
        return "decoder.kind" in wrong, len(wrong), "num_classes" in wrong, foreign

    ranked = {name: distance(name, keys) for name, keys in published().items()}
    least = min(ranked.values())
    best = [name for name, value in ranked.items() if value == least]
    return best[0], best[1:] if least[1] == 0 else []
