"""What the verbs of `gdseg data` share: the data set and task that they are given."""

from typing import TYPE_CHECKING, Annotated

import typer

from gdseg.errors import UsageError

if TYPE_CHECKING:
    from gdseg.recipe import Data

DataArg = Annotated[str, typer.Argument(metavar="DATA", help="Folder of the data set, or 'shapes'.")]
TaskOpt = Annotated[
    str | None,
    typer.Option("--task", help="instance, panoptic or semantic labels (default: the richest there are)."),
]


def check_task(task: str) -> str:
    """The task itself. Raises UsageError if there is none of that name."""
    if task not in ("instance", "panoptic", "semantic"):
        raise UsageError(f"'{task}' is no task", "--task", "instance, panoptic or semantic")
    return task


def data_keys(root: str, overrides: list[str] | None) -> "Data":
    """The default data section; the overrides name files that looking does not find."""
    from gdseg.recipe_yaml import DEFAULT_RECIPE, load_recipe

    data = load_recipe(DEFAULT_RECIPE, overrides).data
    data.root = root
    return data


def chosen_task(task: str | None, data: "Data", *parts: str) -> str:
    """The task that was named, else the richest that the labels of the first of the parts hold."""
    from gdseg.data.dataset import richest_task

    return check_task(task) if task else richest_task(data, *parts)
