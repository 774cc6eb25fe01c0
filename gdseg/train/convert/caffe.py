"""ResNets in Caffe2's names (detectron2's MSRA R-50.pkl, R-101.pkl) as detectron2 names them today.

Their images were blue first with a standard deviation of 1; their norms hold scale and bias alone. Both are
folded into the weights, so that a recipe's usual mean and std fit. Names: detectron2 (Apache-2.0),
`c2_model_loading`. Called by `backbones.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from gdseg.recipe import Backbone

_STEM = "stem.conv1.weight"
_NAMES = [
    (r"^conv1_w$", _STEM),
    (r"^(?:res_)?conv1_bn_([sb])$", r"stem.conv1.norm.<\1>"),
    (r"^(res\d)_(\d+)_branch1_w$", r"\1.\2.shortcut.weight"),
    (r"^(res\d)_(\d+)_branch1_bn_([sb])$", r"\1.\2.shortcut.norm.<\3>"),
    (r"^(res\d)_(\d+)_branch2([abc])_w$", r"\1.\2.conv[\3].weight"),
    (r"^(res\d)_(\d+)_branch2([abc])_bn_([sb])$", r"\1.\2.conv[\3].norm.<\4>"),
    (r"^(?:fc1000|pred)_([wb])$", r"fc.\1"),
]
_WORDS = {"<s>": "weight", "<b>": "bias", "[a]": "1", "[b]": "2", "[c]": "3"}


def is_caffe(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a ResNet under Caffe2's names."""
    return "conv1_w" in tensors and "res2_0_branch2a_w" in tensors


def modern_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors under detectron2's names, for RGB images divided by the usual std; name -> theirs).

    Momenta of the optimiser are left out; what has no counterpart keeps its name.
    """
    names = {_modern(name): name for name in tensors if not name.endswith("_momentum")}
    found = {modern: tensors[name] for modern, name in names.items()}
    if found[_STEM].dim() == 4 and found[_STEM].shape[1] == 3:
        found[_STEM] = found[_STEM].flip(1) * torch.tensor(Backbone().std)[:, None, None]
    for name in [name for name in found if name.endswith("norm.weight")]:
        statistics, size = name.removesuffix("weight"), found[name].shape
        found[statistics + "running_mean"] = torch.zeros(size)
        found[statistics + "running_var"] = torch.ones(size) - 1e-5  # our norms add 1e-5 before the root
    return found, names


def _modern(name: str) -> str:
    for pattern, replacement in _NAMES:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            for mark, word in _WORDS.items():
                renamed = renamed.replace(mark, word)
            return renamed
    return name
