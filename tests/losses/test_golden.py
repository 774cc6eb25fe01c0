"""Losses, costs, assignments and gradients of the official criteria (../shared/reference/golden)."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from gdseg.draws import Draws
from gdseg.losses import criterion as criterion_module
from gdseg.losses import matcher
from gdseg.losses import truth as truth_module
from gdseg.losses.boxes import cxcywh_to_xyxy, giou, masks_to_boxes_cxcywh
from gdseg.losses.criterion import Criterion
from gdseg.losses.points import sample_logits, uncertain_points
from gdseg.losses.truth import Layers, Truth
from gdseg.recipe import Recipe
from gdseg.structures import Denoising, LayerOutput, Outputs, Targets

M2F = ["base", "one_empty", "all_empty", "more_targets_than_queries"]
MDINO = [*M2F, "dn_seg", "dn_standard", "dn_seg_one_empty", "dn_none_mask_dict_none", "pano", "ce"]
CASES = [("synth_m2f", case) for case in M2F] + [("synth_mdino", case) for case in MDINO]
WEIGHTS = {"synth_m2f": (2.0, 5.0, 5.0, 5.0, 2.0), "synth_mdino": (4.0, 5.0, 5.0, 5.0, 2.0)}
OFFICIAL = {"ce": "class", "mask": "mask", "dice": "dice", "bbox": "box", "giou": "giou"}


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Path:
    folder = shared_dir / "reference" / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden vectors in {folder}")
    return folder


@cache
def read_tensors(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return dict(stored)


class RecordedDraws(Draws):
    """Replays the draws of the golden README, tag by tag."""

    def __init__(self, golden: Path, seed: int) -> None:
        spec = importlib.util.spec_from_file_location("golden_recipe", golden / "recipe.py")
        self.recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.recipe)
        self.seed = seed

    def rand(self, tag, layers, shape, device):
        if tag == "match":
            tags = [[f"match/{layer}/{b}" for b in range(shape[0])] for layer in layers]
            draws = [[self.recipe.rand(t, self.seed, (1, *shape[1:]))[0] for t in row] for row in tags]
        else:
            draws = [self.recipe.rand(f"{tag}/{layer}", self.seed, shape) for layer in layers]
        return torch.from_numpy(np.array(draws, dtype=np.float32)).view(len(layers), *shape).to(device)


class Case:
    """One case of a synthetic golden: recipe, outputs with gradients, targets, and what is expected."""

    def __init__(self, golden: Path, name: str, case: str) -> None:
        manifest = json.loads((golden / name / "manifest.json").read_text())
        self.name, self.case, self.expected = name, case, manifest["criterion"][case]
        self.tensors = read_tensors(golden / name / "tensors.npz")
        self.recipe = _recipe(name, case, manifest["criterion_setup"])
        self.draws = RecordedDraws(golden, manifest["criterion_setup"]["seed"])
        self.targets = [self._targets(b) for b in range(2)]
        names = ["0", "1", "final"]
        groups = None
        if self.expected["dn"] is not None:
            slots = max(self.expected["num_targets"])
            layers = [self._layer(f"{n}_dn", n) for n in names]
            groups = Denoising(layers, self.expected["dn_scalar"], slots)
        encoder = self._layer("interm") if name == "synth_mdino" else None
        self.outputs = Outputs([self._layer(n) for n in names], encoder, groups)

    def get(self, key: str) -> np.ndarray:
        return self.tensors[f"crit|{self.case}|{key}"]

    def layers(self):
        yield from ((x.name, x) for x in self.outputs.layers)
        if self.outputs.encoder:
            yield "interm", self.outputs.encoder
        if self.outputs.denoising:
            yield from ((f"{x.name}_dn", x) for x in self.outputs.denoising.layers)

    def _input(self, layer: str, kind: str) -> torch.Tensor:
        for case in (self.case, "dn_seg", "base"):
            key = f"crit|{case}|in|{layer}|pred_{kind}"
            if key in self.tensors and self.tensors[key].size:
                return torch.from_numpy(self.tensors[key]).requires_grad_()
        raise KeyError(layer)

    def _layer(self, key: str, name: str | None = None) -> LayerOutput:
        return LayerOutput(
            name or key,
            self._input(key, "logits"),
            self._input(key, "masks"),
            self._input(key, "boxes") if self.name == "synth_mdino" else None,
        )

    def _targets(self, b: int) -> Targets:
        labels = torch.from_numpy(self.get(f"tgt{b}|labels"))
        masks = np.unpackbits(self.get(f"tgt{b}|masks"), axis=-1).astype(bool)
        boxes = torch.from_numpy(self.get(f"tgt{b}|boxes").astype(np.float32)).reshape(-1, 4)
        if len(boxes) != len(labels):
            boxes = torch.zeros(len(labels), 4)
        return Targets(
            labels, torch.from_numpy(masks.reshape(len(labels), 96, 128)), boxes, torch.ones(len(labels))
        )


def _recipe(name: str, case: str, setup: dict) -> Recipe:
    recipe = Recipe()
    recipe.decoder.kind = "maskdino" if name == "synth_mdino" else "mask2former"
    recipe.decoder.class_loss = "softmax" if case == "ce" else "focal"
    recipe.decoder.denoising = "box" if case == "dn_standard" else "mask"
    loss = recipe.loss
    loss.points = setup["num_points"]
    loss.class_cost, loss.mask_cost, loss.dice_cost, loss.box_cost, loss.giou_cost = WEIGHTS[name]
    loss.class_weight = loss.mask_weight = loss.dice_weight = loss.box_weight = loss.giou_weight = 1.0
    loss.box_things_only = case == "pano"
    return recipe


def _our_name(official: str) -> str:
    term, dn, layer = re.fullmatch(r"loss_(ce|mask|dice|bbox|giou)(_dn)?(_\w+)?", official).groups()
    return OFFICIAL[term] + (layer or "") + (dn or "")


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize("chunk", [1, 2**22])
def test_losses_and_gradients(golden, name, case, chunk, monkeypatch):
    monkeypatch.setattr(criterion_module, "floats_at_once", lambda device: chunk)
    golden_case = Case(golden, name, case)
    classes = golden_case.expected["num_classes"]
    criterion = Criterion(golden_case.recipe, classes, things=[c < 80 for c in range(classes)])
    losses = criterion(golden_case.outputs, golden_case.targets, draws=golden_case.draws)
    expected = {_our_name(k): v for k, v in golden_case.expected["losses_unweighted"].items()}
    assert set(losses) == set(expected)
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value, rel=1e-5, abs=1e-7), key
    sum(losses.values()).backward()
    norms = golden_case.expected["grad_l2"]
    for layer, output in golden_case.layers():
        for kind, tensor in (
            ("logits", output.logits),
            ("masks", output.masks),
            ("boxes", output.boxes_cxcywh),
        ):
            if f"{layer}/pred_{kind}" not in norms:
                continue
            grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            assert grad.norm().item() == pytest.approx(
                norms[f"{layer}/pred_{kind}"] or 0.0, rel=1e-4, abs=1e-9
            )
            stored = f"crit|{case}|grad|{layer}|pred_{kind}"
            if stored in golden_case.tensors and golden_case.tensors[stored].size == grad.numel():
                torch.testing.assert_close(
                    grad, torch.from_numpy(golden_case.tensors[stored]), rtol=1e-4, atol=1e-6, msg=stored
                )


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize("chunk", [1, 2**22])
def test_costs_and_assignments(golden, name, case, chunk, monkeypatch):
    monkeypatch.setattr(truth_module, "floats_at_once", lambda device: chunk)
    golden_case = Case(golden, name, case)
    outputs = golden_case.outputs
    layers = Layers.of([*outputs.layers, *([outputs.encoder] if outputs.encoder else [])])
    truth = Truth.of(golden_case.targets)
    costs = matcher.matching_costs(layers, truth, golden_case.recipe, golden_case.draws)
    pairs = matcher.match(layers, truth, golden_case.recipe, golden_case.draws, [0, 1])
    for layer, layer_name in enumerate(layers.names):
        for b, count in enumerate(truth.counts):
            if count:
                expected = torch.from_numpy(golden_case.get(f"cost|{layer_name}|{b}"))
                torch.testing.assert_close(costs[layer, b, :, :count], expected, rtol=1e-5, atol=1e-5)
            here = pairs.images == b
            found = [pairs.queries[layer, here].tolist(), pairs.targets[layer, here].tolist()]
            assert found == golden_case.expected["indices"][layer_name][b]


def test_uncertain_points(golden):
    tensors = read_tensors(golden / "unit_ops" / "tensors.npz")
    logits, points = (torch.from_numpy(tensors[f"uncertain|{k}"]).float() for k in ("logits", "points"))
    sampled = torch.from_numpy(tensors["uncertain|sampled"]).float()
    torch.testing.assert_close(sample_logits(logits, points), sampled, rtol=1e-5, atol=1e-5)
    kept = uncertain_points(logits[:, 0], points, points[:, :3], 7)
    nearest = sampled[:, 0].abs().sort(dim=1).values[:, :7]
    found = sample_logits(logits, kept[:, :7])[:, 0].abs().sort(dim=1).values
    torch.testing.assert_close(found, nearest, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept[:, 7:], points[:, :3])


def test_boxes(golden):
    tensors = read_tensors(golden / "unit_ops" / "tensors.npz")
    boxes = cxcywh_to_xyxy(torch.from_numpy(tensors["giou|cxcywh"]))
    pairwise = torch.from_numpy(tensors["giou|pairwise5x4"])
    torch.testing.assert_close(giou(boxes[:5, None], boxes[None, 5:]), pairwise, rtol=1e-9, atol=1e-9)
    masks = torch.from_numpy(tensors["mask_boxes|masks"])
    xyxy = cxcywh_to_xyxy(masks_to_boxes_cxcywh(masks)) * torch.tensor([14.0, 10.0, 14.0, 10.0])
    torch.testing.assert_close(xyxy, torch.from_numpy(tensors["mask_boxes|bitmask"]), rtol=0, atol=1e-5)
