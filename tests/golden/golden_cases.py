"""The recorded runs of the official code (`golden vectors`).

Where they are, what each folder holds, their draws. One harness for every folder found in GDSEG_GOLDEN
(default <repo>/../shared/reference/golden): each is checked from its manifest alone. `README.md` there says
how weights, inputs and random numbers follow from a seed.
"""

import importlib.util
import json
import os
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from gdseg.draws import Draws

_USUAL = Path(os.environ.get("GDSEG_SHARED", Path(__file__).parents[3] / "shared")) / "reference" / "golden"
FOLDER = Path(os.environ.get("GDSEG_GOLDEN") or _USUAL)


class Case:
    """One folder: manifest, arrays, and the recipe of its weights, inputs and draws."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.folder = folder
        self.manifest = _manifest(folder / "manifest.json")
        self.kind = _kind(self.manifest)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with (self.folder / "tensors.npz").open("rb") as file, np.load(file) as stored:
            return dict(stored)

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    @property
    def official(self) -> ModuleType:
        own = FOLDER / "recipe.py"
        return recipe_module(own if own.is_file() else _USUAL / "recipe.py")


def _manifest(file: Path) -> dict:
    """Empty where it cannot be read: the folder is then of no known kind, which is a failure of its own."""
    try:
        manifest = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _kind(manifest: dict) -> str:
    """What a manifest records: a network, a criterion, a distillation run, .. or "unknown"."""
    if "sequence" in manifest:
        return "distill"
    if "cfg_model" in manifest:
        return "network"
    if "criterion" in manifest:
        return "criterion"
    if any(key.startswith("msda|") for key in manifest):
        return "units"
    if any(key.startswith("lsj_") for key in manifest):
        return "pipeline"
    if manifest and all(isinstance(entry, dict) and "groups" in entry for entry in manifest.values()):
        return "optim"
    return "unknown"


@cache
def all_cases() -> list[Case]:
    folders = {path.parent for name in ("manifest.json", "tensors.npz") for path in FOLDER.glob(f"*/{name}")}
    return [Case(folder) for folder in sorted(folders)]


def cases(kind: str) -> list:
    """pytest parameters: the cases of a kind, or one that is skipped and says why."""
    found = [pytest.param(case, id=case.name) for case in all_cases() if case.kind == kind]
    reason = f"no golden vectors of this kind in {FOLDER} (GDSEG_GOLDEN)"
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]


@cache
def recipe_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class RecordedDraws(Draws):
    """The recorded uniform numbers, by tag and layer."""

    def __init__(self, official: ModuleType, seed: int) -> None:
        self.official, self.seed = official, seed

    def rand(self, tag, layers, shape, device):
        if tag == "match":  # recorded image by image
            tags = [[f"match/{layer}/{b}" for b in range(shape[0])] for layer in layers]
            drawn = [[self.official.rand(t, self.seed, (1, *shape[1:]))[0] for t in row] for row in tags]
        else:
            drawn = [self.official.rand(f"{tag}/{layer}", self.seed, shape) for layer in layers]
        return torch.from_numpy(np.array(drawn, np.float32)).view(len(layers), *shape).to(device)

    def randint(self, tag, high, shape, device):
        return torch.from_numpy(self.official.randint(tag, self.seed, shape, high)).to(device)


def our_loss_name(official: str) -> str:
    """loss_bbox_dn_0 -> box_0_dn."""
    term, *rest = official.removeprefix("loss_").split("_")
    noised = ["dn"] if "dn" in rest else []
    ours = {"ce": "class", "bbox": "box"}.get(term, term)
    return "_".join([ours, *(part for part in rest if part != "dn"), *noised])
