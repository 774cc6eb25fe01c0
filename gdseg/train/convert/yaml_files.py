"""`--config`: an official yaml with its _BASE_ files and the code's defaults, or a published name.

Called by `files.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from gdseg.errors import CheckpointError
from gdseg.train.convert import defaults
from gdseg.train.convert.identify import published

_NUMBER = re.compile(r"^[-+]?\d+(\.\d*)?([eE][-+]?\d+)?$")


def read_options(config: str) -> str | dict[str, Any]:
    """A published configuration's name in full, or the resolved options of a yaml file.

    A file of an official `configs/` folder whose _BASE_ files are not there is known by its name. Raises
    CheckpointError for anything else.
    """
    names = [name for name in published() if config in (name, name.split("/")[1])]
    if names:
        return names[0]
    path = Path(config)
    if not path.is_file():
        raise CheckpointError("neither a published configuration nor a file", config, "gdseg convert --list")
    try:
        merged = _merged(path, 0)
    except CheckpointError:
        name = _published_name(path)
        if name is None:
            raise
        return name
    return _with_defaults(merged)


def _merged(path: Path, depth: int) -> dict[str, Any]:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise CheckpointError(f"the configuration cannot be read: {error}", path) from error
    if not isinstance(given, dict) or depth > 10:
        raise CheckpointError("not an official configuration", path)
    given = {str(key): _plain(value) for key, value in given.items()}
    base = given.pop("_BASE_", None)
    return _overlay(_merged(path.parent / str(base), depth + 1), given) if base else given


def _plain(value: Any) -> Any:
    """Values as detectron2 reads them: text that looks like a tuple or a number is one."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith("(") and value.endswith(")"):
        return [_plain(part.strip()) for part in value[1:-1].split(",") if part.strip()]
    if isinstance(value, str) and _NUMBER.match(value):
        return float(value) if re.search(r"[.eE]", value) else int(value)
    return value


def _with_defaults(given: dict[str, Any]) -> dict[str, Any]:
    model = given.get("MODEL", {})
    below: dict[str, Any] = {"MODEL": defaults.MODEL, "INPUT": defaults.INPUT, "SOLVER": defaults.SOLVER}
    own = {"MASK_FORMER": defaults.MASK_FORMER} if "MASK_FORMER" in model else {"MaskDINO": defaults.MASKDINO}
    below["MODEL"] = {**defaults.MODEL, **own}
    below["TEST"] = {"DETECTIONS_PER_IMAGE": 100}
    if "SSL" in given:
        below["SSL"] = defaults.SSL
    merged = _overlay(below, given)
    for key in ("TRAIN", "TEST"):  # a tuple of one name, which yaml reads as text
        names = merged.get("DATASETS", {}).get(key)
        if isinstance(names, str):
            merged["DATASETS"][key] = [names]
    return merged


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _published_name(path: Path) -> str | None:
    """The published configuration that a file in an official `configs/` folder is."""
    parts = path.resolve().with_suffix("").parts
    if "configs" not in parts:
        return None
    dataset, *rest = parts[parts.index("configs") + 1 :]
    if len(rest) < 2:
        return None
    name = "_".join([dataset, rest[0].split("-")[0], *rest[1:]])
    return next((full for full in published() if full.split("/")[1] == name), None)
