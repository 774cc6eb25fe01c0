"""Losses, costs, assignments and gradients of the official criteria on stored outputs."""

import numpy as np
import pytest
import torch
from golden_cases import Case, RecordedDraws, all_cases, our_loss_name

from gdseg.losses import criterion as criterion_module
from gdseg.losses import matcher
from gdseg.losses import truth as truth_module
from gdseg.losses.criterion import Criterion
from gdseg.losses.truth import Layers, Truth
from gdseg.recipe import Recipe
from gdseg.structures import Denoising, LayerOutput, Outputs, Targets

BATCHES = [
    (case, name) for case in all_cases() if case.kind == "criterion" for name in case.manifest["criterion"]
]
EACH = pytest.mark.parametrize(
    ("case", "name"),
    [pytest.param(case, name, id=f"{case.name}-{name}") for case, name in BATCHES]
    or [pytest.param(None, "", marks=pytest.mark.skip(reason="no golden criterion here (GDSEG_GOLDEN)"))],
)


class Stored:
    """One stored batch: recipe, outputs that take gradients, targets, and what is expected."""

    def __init__(self, case: Case, name: str) -> None:
        setup = case.manifest["criterion_setup"]
        self.case, self.name, self.expected = case, name, case.manifest["criterion"][name]
        self.maskdino = any("pred_boxes" in key for key in case.arrays)
        self.recipe = self._recipe(setup)
        self.draws = RecordedDraws(case.official, setup["seed"])
        self.targets = [self._targets(b, setup["gt_hw"]) for b in range(len(self.expected["num_targets"]))]
        names = [n for n in self.expected["indices"] if n not in ("final", "interm")] + ["final"]
        encoder = self._layer("interm") if "interm" in self.expected["indices"] else None
        groups = None
        if self.expected["dn"] is not None:
            slots = max(self.expected["num_targets"])
            layers = [self._layer(f"{n}_dn", n) for n in names]
            groups = Denoising(layers, self.expected["dn_scalar"], slots)
        self.outputs = Outputs([self._layer(n) for n in names], encoder, groups)

    def _recipe(self, setup: dict) -> Recipe:
        """All loss weights 1: the record holds unweighted losses."""
        recipe = Recipe()
        classes = self.expected["num_classes"]
        outputs = self._input("final", "logits").shape[-1]
        recipe.decoder.kind = "maskdino" if self.maskdino else "mask2former"
        recipe.decoder.class_loss = "softmax" if outputs > classes else "focal"
        recipe.decoder.denoising = "box" if self.expected["dn"] == "standard" else "mask"
        loss = recipe.loss
        words = setup["costs"].split("mdino:" if self.maskdino else "m2f:")[1].split(";")[0].split()
        for term, cost in zip(words[::2], words[1::2], strict=True):
            setattr(loss, f"{term}_cost", float(cost))
        for term in ("class", "mask", "dice", "box", "giou"):
            setattr(loss, f"{term}_weight", 1.0)
        loss.points = setup["num_points"]
        loss.box_things_only = self.name == "pano"
        return recipe

    def get(self, key: str) -> np.ndarray:
        return self.case.arrays[f"crit|{self.name}|{key}"]

    def layers(self):
        yield from ((x.name, x) for x in self.outputs.layers)
        if self.outputs.encoder:
            yield "interm", self.outputs.encoder
        if self.outputs.denoising:
            yield from ((f"{x.name}_dn", x) for x in self.outputs.denoising.layers)

    def _input(self, layer: str, kind: str) -> torch.Tensor:
        for name in (self.name, "dn_seg", "base"):
            key = f"crit|{name}|in|{layer}|pred_{kind}"
            if key in self.case.arrays and self.case.arrays[key].size:
                return self.case.tensor(key).requires_grad_()
        raise KeyError(layer)

    def _layer(self, key: str, name: str | None = None) -> LayerOutput:
        boxes = self._input(key, "boxes") if self.maskdino else None
        return LayerOutput(name or key, self._input(key, "logits"), self._input(key, "masks"), boxes)

    def _targets(self, b: int, size: list[int]) -> Targets:
        labels = torch.from_numpy(self.get(f"tgt{b}|labels"))
        masks = np.unpackbits(self.get(f"tgt{b}|masks"), axis=-1).astype(bool)[..., : size[1]]
        boxes = torch.from_numpy(self.get(f"tgt{b}|boxes").astype(np.float32)).reshape(-1, 4)
        if len(boxes) != len(labels):
            boxes = torch.zeros(len(labels), 4)
        masks = torch.from_numpy(masks.reshape(len(labels), *size))
        return Targets(labels, masks, boxes, torch.ones(len(labels)))


@EACH
@pytest.mark.parametrize("chunk", [1, 2**22])
def test_losses_and_gradients(case, name, chunk, monkeypatch):
    monkeypatch.setattr(criterion_module, "floats_at_once", lambda device: chunk)
    stored = Stored(case, name)
    classes = stored.expected["num_classes"]
    criterion = Criterion(stored.recipe, classes, things=[c < 80 for c in range(classes)])
    losses = criterion(stored.outputs, stored.targets, draws=stored.draws)
    expected = {our_loss_name(k): v for k, v in stored.expected["losses_unweighted"].items()}
    assert set(losses) == set(expected)
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value, rel=1e-5, abs=1e-7), key
    sum(losses.values()).backward()
    norms = stored.expected["grad_l2"]
    for layer, output in stored.layers():
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
            key = f"crit|{name}|grad|{layer}|pred_{kind}"
            if key in case.arrays and case.arrays[key].size == grad.numel():
                torch.testing.assert_close(grad, case.tensor(key), rtol=1e-4, atol=1e-6, msg=key)


@EACH
@pytest.mark.parametrize("chunk", [1, 2**22])
def test_costs_and_assignments(case, name, chunk, monkeypatch):
    monkeypatch.setattr(truth_module, "floats_at_once", lambda device: chunk)
    stored = Stored(case, name)
    outputs = stored.outputs
    layers = Layers.of([*outputs.layers, *([outputs.encoder] if outputs.encoder else [])])
    truth = Truth.of(stored.targets)
    costs = matcher.matching_costs(layers, truth, stored.recipe, stored.draws)
    pairs = matcher.match(layers, truth, stored.recipe, stored.draws, [0, 1])
    for layer, layer_name in enumerate(layers.names):
        for b, count in enumerate(truth.counts):
            if count:
                expected = torch.from_numpy(stored.get(f"cost|{layer_name}|{b}"))
                torch.testing.assert_close(costs[layer, b, :, :count], expected, rtol=1e-5, atol=1e-5)
            here = pairs.images == b
            found = [pairs.queries[layer, here].tolist(), pairs.targets[layer, here].tolist()]
            assert found == stored.expected["indices"][layer_name][b]
