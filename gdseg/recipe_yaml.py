"""Recipes as YAML: strict reading with every fault at once, overrides, writing. No torch here.

Faults carry file, line, key path and the nearest known key. Reading composes YAML nodes and never
constructs objects, so a recipe cannot run code. Called by every CLI verb and by checkpoints.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gdseg.errors import RecipeError
from gdseg.recipe import Recipe
from gdseg.recipe_rules import broken_rules
from gdseg.recipe_table import official_recipes, recipe_folder, table_file

DEFAULT_RECIPE = "shapes_maskdino"
_MAX_BYTES = 1 << 20
_LARGEST = 1 << 31  # no key needs a larger number
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


Fault = tuple[int, str]  # line, what is wrong


class _UnfitError(Exception):
    """A value that does not fit its key; the message says what fits."""


def shipped_files() -> list[str]:
    """Names of the shipped recipes that are files of their own, sorted."""
    return sorted(p.stem for p in recipe_folder().glob("*.yaml") if p != table_file())


def shipped_recipes() -> list[str]:
    """Names of the shipped recipes: files, then those of the table of official configurations."""
    return [*shipped_files(), *official_recipes()]


def recipe_text(name_or_path: str) -> str:
    """A recipe as YAML, complete, by shipped name or path.

    Raises RecipeError for a file that cannot be read, and for no such recipe, naming the nearest.
    """
    path = _find_file(name_or_path)
    if path is None:
        entry = official_recipes()[name_or_path]
        return entry.header + dump_recipe(recipe_with(entry.keys, name_or_path))
    return read_text(path)


def read_text(path: Path) -> str:
    """The text of a YAML file. Raises RecipeError if it cannot be read or is too large."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError("the file is too large for a recipe", path)
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read: {error}", path) from error


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by shipped name or path, then apply `key.path=value` overrides.

    Raises RecipeError with all faults, one a line.
    """
    return parse_recipe(recipe_text(name_or_path), str(_find_file(name_or_path) or name_or_path), overrides)


def _find_file(name_or_path: str) -> Path | None:
    """The file of a path or a shipped name, None for a name of the table. Raises RecipeError for another."""
    for path in (Path(name_or_path), recipe_folder() / f"{name_or_path}.yaml"):
        if path.is_file():
            if path.resolve() == table_file().resolve():
                hint = "'gdseg recipe list' shows the names of its recipes"
                raise RecipeError("a table of recipes, not one recipe", path, hint)
            return path
    if name_or_path in official_recipes():
        return None
    stem, names = Path(name_or_path).stem, shipped_recipes()
    having = [name for name in names if len(stem) > 2 and stem in name]  # shorter ones would fit by chance
    near = difflib.get_close_matches(stem, names, 1) or having[: len(having) == 1]
    words = f" {stem}" if having else ""
    hint = f"did you mean '{near[0]}'?" if near else f"'gdseg recipe list{words}' shows the names"
    is_file = Path(name_or_path).suffix in (".yaml", ".yml")
    raise RecipeError("no such file" if is_file else "no such recipe", name_or_path, hint)


def parse_recipe(text: str, source: str, overrides: list[str] | None = None) -> Recipe:
    """A Recipe from YAML text; `source` names it in errors. Raises RecipeError with all faults."""
    recipe, faults = Recipe(), []
    root = compose(text, source)
    if root is not None:
        faults += [f"{source}:{line}: {fault}" for line, fault in fill(recipe, root)]
    faults += _apply(recipe, overrides or [])
    return _checked(recipe, faults, source)


def apply_overrides(recipe: Recipe, overrides: list[str]) -> Recipe:
    """A copy of `recipe` with `key.path=value` items set. Raises RecipeError with all faults."""
    changed = parse_recipe(dump_recipe(recipe), "recipe")
    return _checked(changed, _apply(changed, overrides), "command line")


def recipe_with(values: Mapping[str, Any], source: str) -> Recipe:
    """The defaults with dotted keys set to plain values, under the rules of a file.

    `source` names them in errors. Raises RecipeError with all faults.
    """
    recipe, known, faults = Recipe(), dict(key_paths()), []
    for path, value in values.items():
        target, name, kind = _home(recipe, path)
        try:
            node = yaml.compose(yaml.safe_dump(value), Loader=yaml.SafeLoader) or _word("")
            setattr(target, name, _convert(node, kind, known[path].metadata))
        except yaml.YAMLError:
            faults.append(f"{source}: '{path}' is no plain value")
        except _UnfitError as unfit:
            faults.append(f"{source}: '{path}' {unfit}")
    return _checked(recipe, faults, source)


def dump_recipe(recipe: Recipe) -> str:
    """YAML text of all keys, a section a paragraph; `parse_recipe` reads it back unchanged."""
    lines = []
    for name, value in dataclasses.asdict(recipe).items():
        body = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=100, allow_unicode=True)
        lines.append(f"{name}: {body.removesuffix('...' + chr(10)).rstrip()}")
    return "\n".join(lines) + "\n"


def key_paths(kind: type = Recipe, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every (dotted key path, dataclass field) of a recipe, in order."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from key_paths(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def compose(text: str, source: str) -> yaml.Node | None:
    """The nodes of a YAML text, None if it is empty. Raises RecipeError if it is not YAML."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{source}:{mark.line + 1}" if mark else source
        raise RecipeError(f"not YAML: {getattr(error, 'problem', None) or error}", line) from error


def _checked(recipe: Recipe, faults: list[str], source: str) -> Recipe:
    hint = "'gdseg recipe show custom' lists every key, with its values"
    if not faults:
        faults = [f"{source}: {fault}" for fault in broken_rules(recipe)]
        hint = "change one of the keys that it names; 'gdseg recipe show custom' explains them"
    if faults:
        what = faults[0] if len(faults) == 1 else f"{len(faults)} faults\n  " + "\n  ".join(faults)
        raise RecipeError(what, hint=hint)
    return recipe


def fill(
    target: Any,
    node: yaml.Node,
    prefix: str = "",
    kind: type = Recipe,
    by_hand: Mapping[str, Callable[[yaml.Node], Iterable[Fault]]] | None = None,
) -> Iterator[Fault]:
    """Set the fields of `target`, a dataclass or a part of one, from a mapping node; yields (line, fault).

    kind: the whole dataclass, of whose keys the nearest is named for an unknown one; prefix: where in it
    `target` is, ending with a dot; by_hand: what reads the values of some keys, and yields their faults.
    """
    whole = "a recipe" if kind is Recipe else "the file"
    if not isinstance(node, yaml.MappingNode):
        yield node.start_mark.line + 1, f"'{prefix.rstrip('.') or whole}' must be keys with values"
        return
    hints = typing.get_type_hints(type(target))
    fields = {f.name: f for f in dataclasses.fields(target)}
    seen: set[str] = set()
    for key_node, value_node in node.value:
        name, line = str(key_node.value), key_node.start_mark.line + 1
        if name not in fields:
            yield line, _unknown(prefix + name, kind)
        elif name in seen:
            yield line, f"key '{prefix}{name}' is given twice"
        elif name in (by_hand or {}):
            yield from (by_hand or {})[name](value_node)
        elif dataclasses.is_dataclass(hints[name]):
            yield from fill(getattr(target, name), value_node, f"{prefix}{name}.", kind)
        else:
            try:
                setattr(target, name, _convert(value_node, hints[name], fields[name].metadata))
            except _UnfitError as wrong:
                yield line, f"'{prefix}{name}' {wrong}"
        seen.add(name)


def _apply(recipe: Recipe, overrides: list[str]) -> list[str]:
    """Set `key.path=value` items; returns the faults. Words are taken as they stand, not as YAML.

    Raises RecipeError for an item without "=", which is more likely meant as something else.
    """
    faults = []
    known = dict(key_paths())
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals:
            hint = f"did you mean --data {item}?" if Path(item).exists() else "a recipe is named with -r"
            if path in known:
                hint = f"give it a value, as {path}=.."
            what = f"'{item}' is not an override, which looks like train.lr=5e-5"
            raise RecipeError(what, hint=hint)
        if path not in known:
            faults.append(f"{item}: {_unknown(path)}")
        else:
            target, name, kind = _home(recipe, path)
            try:
                node = _word(text) if _is_word(kind) else compose(text, item) or _word("")
                setattr(target, name, _convert(node, kind, known[path].metadata))
            except _UnfitError as unfit:
                faults.append(f"{item}: '{path}' {unfit}")
    return faults


def _home(recipe: Recipe, path: str) -> tuple[Any, str, Any]:
    """(section, key, type) that a dotted path means."""
    section, _, name = path.rpartition(".")
    target = getattr(recipe, section) if section else recipe
    return target, name, typing.get_type_hints(type(target))[name]


def _is_word(kind: Any) -> bool:
    return kind is str or (isinstance(kind, types.UnionType) and typing.get_args(kind)[0] is str)


def _word(text: str) -> yaml.ScalarNode:
    tag = "null" if text in ("", "null") else "str"
    return yaml.ScalarNode(f"tag:yaml.org,2002:{tag}", text)


def _unknown(path: str, kind: type = Recipe) -> str:
    """`unknown key ..`, with the nearest known key: by the last part, within the same section first.

    Else the key whose explanation begins with these words, two at least, as train.lr's "learning rate".
    """
    known = list(
        dict.fromkeys([*(name for name, _ in key_paths(kind)), *(f.name for f in dataclasses.fields(kind))])
    )
    section, _, leaf = path.rpartition(".")
    homes = [k for k in known if k.rpartition(".")[0] == section] if section else []
    for candidates in (homes, known):
        near = difflib.get_close_matches(leaf, [k.rpartition(".")[2] for k in candidates], 1, 0.6)
        if near:
            meant = " or ".join(f"'{k}'" for k in candidates if k.rpartition(".")[2] == near[0])
            return f"unknown key '{path}', did you mean {meant}?"
    words = leaf.replace("_", " ").lower()
    for name, field in key_paths(kind):
        if " " in words.strip() and field.metadata.get("doc", "").lower().startswith(words):
            return f"unknown key '{path}', did you mean '{name}'?"
    return f"unknown key '{path}'"


def _convert(node: yaml.Node, kind: Any, rule: typing.Mapping[str, Any]) -> Any:
    """The value of a node as `kind` (int, float, bool, str, X | None, int | Auto, list), within its rules."""
    if isinstance(kind, types.UnionType):
        if node.tag == "tag:yaml.org,2002:null":
            return None
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Union:  # int | Auto
        if isinstance(node, yaml.ScalarNode) and node.value == "auto":
            return node.value
        try:
            return _convert_scalar(node, typing.get_args(kind)[0], rule)
        except _UnfitError as unfit:
            raise _UnfitError(f"{unfit}, or auto") from None
    if typing.get_origin(kind) is list:
        if not isinstance(node, yaml.SequenceNode):
            raise _UnfitError("must be a list, as [a, b]")
        if "length" in rule and len(node.value) != rule["length"]:
            raise _UnfitError(f"must have {rule['length']} items, not {len(node.value)}")
        return [_convert_scalar(item, typing.get_args(kind)[0], rule) for item in node.value]
    return _convert_scalar(node, kind, rule)


def _convert_scalar(node: yaml.Node, kind: type, rule: typing.Mapping[str, Any]) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise _UnfitError(f"must be {_WORDS[kind]}")
    value = _parse_scalar(node.tag.rsplit(":", 1)[-1], node.value, kind)
    if "choices" in rule and value not in rule["choices"]:
        near = difflib.get_close_matches(str(value), rule["choices"], 1)
        raise _UnfitError(
            f"is '{value}', must be one of {', '.join(rule['choices'])}"
            + (f" (did you mean '{near[0]}'?)" if near else "")
        )
    if "low" in rule and value < rule["low"]:
        raise _UnfitError(f"is {value}, must be at least {rule['low']}")
    if "above" in rule and value <= rule["above"]:
        raise _UnfitError(f"is {value}, must be above {rule['above']}")
    if "high" in rule and value > rule["high"]:
        raise _UnfitError(f"is {value}, must be at most {rule['high']}: {rule['doc']}")
    return value


def _parse_scalar(tag: str, text: str, kind: type) -> Any:
    wrong = _UnfitError(f"is '{text}', must be {_WORDS[kind]}")
    if kind is bool:
        if tag != "bool":
            raise wrong
        return text.lower() in ("true", "yes", "on")
    if kind is str:
        if tag not in ("str", "int", "float"):
            raise _UnfitError(f"is '{text}', must be a word; write it in quotes if it is one")
        return text
    if tag not in ("int", "float", "str"):
        raise wrong
    try:  # YAML 1.1 reads 1e-4 as a word, so numbers are parsed here
        number = int(text.replace("_", "")) if kind is int else float(text)
    except (ValueError, OverflowError):
        raise wrong from None
    if not math.isfinite(number) or abs(number) > _LARGEST:
        raise wrong
    return number
