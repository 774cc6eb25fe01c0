"""`--config`: an official yaml with its _BASE_ files and the code's defaults, or a published name.

Called by `files.py`. A yaml is data here: the one expression that official files hold is recognised, not run.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from gdseg.errors import CheckpointError, UsageError
from gdseg.train.convert import defaults
from gdseg.train.convert.identify import published

_NUMBER = re.compile(r"^[-+]?\d+(\.\d*)?([eE][-+]?\d+)?$")
_SIZES = re.compile(r"\[int\(x \* ([\d.]{1,6}) \* (\d{1,5})\) for x in range\((\d{1,3}), (\d{1,3})\)\]")
_MAX_BYTES = 1 << 20
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "a word"),
    (list, "a list"),
    (dict, "options"),
)


class _Loader(yaml.SafeLoader):
    """Plain values, and the list of sizes that official yaml files write as a Python expression."""

    def sizes(self, node: yaml.Node) -> list[int]:
        """[int(x * 0.1 * 512) for x in range(5, 21)], without evaluating it."""
        parts = self.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
        found = _SIZES.fullmatch(str(parts[0])) if len(parts) == 1 else None
        if found is None:
            raise yaml.constructor.ConstructorError(None, None, "a Python expression", node.start_mark)
        share, size, first, end = float(found[1]), int(found[2]), int(found[3]), int(found[4])
        return [int(x * share * size) for x in range(first, end)]


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _Loader.sizes)


def read_options(config: str) -> str | dict[str, Any]:
    """A published configuration's name in full, or the resolved options of a yaml file.

    A file of an official `configs/` folder whose _BASE_ files are not there is known by its name. Raises
    CheckpointError for anything else, UsageError for a name that several have.
    """
    name = _one_of([name for name in published() if config in (name, name.split("/")[1])], config)
    if name is not None:
        return name
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
    return _with_defaults(merged, path)


def _one_of(names: list[str], config: str) -> str | None:
    if len(names) > 1:
        raise UsageError(
            f"ambiguous: {len(names)} configurations have this name", config, f"--config {' or '.join(names)}"
        )
    return names[0] if names else None


def _merged(path: Path, depth: int) -> dict[str, Any]:
    given = _read(path)
    if not isinstance(given, dict) or depth > 10:
        raise CheckpointError("not an official configuration", path)
    base = given.pop("_BASE_", None)
    return _overlay(_merged(path.parent / str(base), depth + 1), given) if base else given


def _read(path: Path) -> Any:
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise CheckpointError("no such configuration file, or too large for one", path)
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):  # they can grow without end
            raise CheckpointError("the configuration cannot be read: it holds aliases", path)
        return _plain(yaml.load(text, _Loader))  # a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise CheckpointError(f"the configuration cannot be read: {error}", path) from error


def _plain(value: Any) -> Any:
    """Values as detectron2 reads them: text that looks like a tuple or a number is one."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith("(") and value.endswith(")"):
        return [_plain(part.strip().strip("'\"")) for part in value[1:-1].split(",") if part.strip()]
    if isinstance(value, str) and _NUMBER.match(value):
        return float(value) if re.search(r"[.eE]", value) else int(value)
    return value


def _with_defaults(given: dict[str, Any], path: Path) -> dict[str, Any]:
    below: dict[str, Any] = {
        "INPUT": defaults.INPUT,
        "SOLVER": defaults.SOLVER,
        "TEST": {"DETECTIONS_PER_IMAGE": 100},
        "DATASETS": {"TRAIN": [], "TEST": []},
    }
    model = given.get("MODEL")
    own = "MASK_FORMER" if isinstance(model, dict) and "MASK_FORMER" in model else "MaskDINO"
    below["MODEL"] = {**defaults.MODEL, own: getattr(defaults, own.upper())}
    if "SSL" in given:
        below["SSL"] = defaults.SSL
    _check_kinds(below, given, "", path)
    return _overlay(below, given)


def _check_kinds(below: dict[str, Any], given: dict[str, Any], prefix: str, path: Path) -> None:
    """Options of another kind than the code's default are errors, as in detectron2.

    A list of one name may be written without brackets.
    """
    for key, default in below.items():
        value: Any = given.get(key, default)
        kinds, word = next(pair for pair in (*_KINDS, (object, "")) if isinstance(default, pair[0]))
        name = prefix + key
        if prefix == "DATASETS." and isinstance(value, str):
            given[key] = [value]
        elif not isinstance(value, kinds) or (isinstance(value, bool) and kinds == (int, float)):
            raise CheckpointError(f"official option {name} is {str(value)[:60]!r}, must be {word}", path)
        elif isinstance(value, float) and not math.isfinite(value):
            raise CheckpointError(f"official option {name} is {value}", path)
        elif isinstance(value, dict):
            _check_kinds(default, value, f"{name}.", path)


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
    return _one_of([full for full in published() if full.split("/")[1] == name], str(path))
