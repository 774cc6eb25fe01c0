"""The official configurations as recipes: `recipes/official.yaml`, a table, read as whole recipes.

A name is its parts, as coco_panoptic_mask2former_swinl: data set, task, decoder, backbone. The keys of the
parts, which do not overlap, and what a line of the table changes are all there is; a user meets the complete
flat recipe only. No torch here. Called by `recipe_yaml`, `gdseg recipe list` and `gdseg convert --list`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Keys = dict[str, Any]  # dotted key -> value
_DISTILLED = "guided_distillation"


@dataclass(frozen=True)
class Entry:
    """One recipe of the table. `parts`: the keys of each part; `changes`: those of its line.

    `official`: names as of `gdseg convert --list`; `about` and `result` are for people, `notes` comments.
    """

    name: str
    group: str
    about: str
    result: str
    official: tuple[str, ...]
    notes: tuple[str, ...]
    parts: tuple[Keys, ...]
    changes: Keys

    @property
    def keys(self) -> Keys:
        """Every key that the table sets for the recipe."""
        return {key: value for part in (*self.parts, self.changes) for key, value in part.items()}

    @property
    def header(self) -> str:
        """The comment at the top of the recipe: what it is, its commands, what to know."""
        result = f"; officially {self.result} with all labels" if self.result else ""
        few = " && ".join(f"gdseg {verb} -r {self.name}" for verb in ("pretrain", "distill"))
        lines = [
            f"{self.group} with {self.about}{result}.",
            f"  {few} && gdseg eval   (from 10 % of the labels)",
            f"  gdseg pretrain -r {self.name} --ratio 1   (from all of them, as officially)",
            f"Every key is explained in recipes/custom.yaml and by: gdseg recipe show {self.name} --keys",
            *self.notes,
        ]
        return "".join(f"# {line}\n" for line in lines)


def recipe_folder() -> Path:
    """The folder of the shipped recipes: inside the wheel, or at the top of a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def table_file() -> Path:
    """The table, which is no recipe itself."""
    return recipe_folder() / "official.yaml"


@cache
def official_recipes() -> dict[str, Entry]:
    """Every recipe of the table by name, in its order."""
    table = yaml.safe_load(table_file().read_text(encoding="utf-8"))
    entries = (
        _entry(table, group, line)
        for group, lines in table["recipes"].items()
        for line in lines
        if line != "from"
    )
    return {entry.name: entry for entry in entries}


def _entry(table: dict[str, Any], group: str, line: str) -> Entry:
    told = {"from": table["recipes"][group]["from"], **table["recipes"][group][line]}
    backbone = line if line in table["backbone"] else line.partition("_")[0]
    kinds, names = ("data", "task", "decoder", "backbone"), (*group.split("_"), backbone)
    described = [table[kind][name] for kind, name in zip(kinds, names, strict=True)]
    data, task, decoder, network = described
    files = told.get("file", [])
    files = [files] if isinstance(files, str) else files
    official = tuple(f"{source}/{file}" for file in files for source in told["from"])
    special = f", {told['about']}" if "about" in told else ""
    return Entry(
        f"{group}_{line}",
        f"{data['title']} {task['title']}",
        f"{decoder['title']} and {network['title']}{special}",
        f"{told['result']} {task['metric']}" if "result" in told else "",
        official,
        tuple(_notes(table, data, told, official)),
        tuple(_dotted(keys) for keys in (table["common"], *(part["keys"] for part in described))),
        _dotted(told.get("keys", {})),
    )


def _notes(
    table: dict[str, Any], data: dict[str, Any], told: dict[str, Any], official: tuple[str, ...]
) -> list[str]:
    found = [f"Official configuration: {name}" for name in official]
    found.append(f"Data: its folder holds {data['folder']}; or --data FOLDER.")
    if any(name.startswith(_DISTILLED) for name in official):
        found += [*data["labels"], *table["notes"]["distilled"]]
    else:
        found += table["notes"]["taken_over"]
    if "reported" in told:
        found.append(f"Reported for guided distillation: {told['reported']} of the labels.")
    return found


def _dotted(sections: dict[str, Any]) -> Keys:
    """{"train": {"steps": 3}, "task": "instance"} -> {"train.steps": 3, "task": "instance"}."""
    found: Keys = {}
    for section, value in sections.items():
        nested = {f"{section}.{k}": v for k, v in value.items()} if isinstance(value, dict) else None
        found |= {section: value} if nested is None else nested
    return found
