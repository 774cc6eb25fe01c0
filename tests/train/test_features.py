"""Structural distillation: the loss against float64 by hand, what it trains, and a whole run."""

import numpy as np
import pytest
import torch

from gdseg.errors import RecipeError
from gdseg.models.model import build_model
from gdseg.recipe_yaml import load_recipe
from gdseg.runs import find_checkpoint
from gdseg.train.distill import distill
from gdseg.train.features import FeatureLoss, structure_loss
from gdseg.train.pretrain import pretrain

CPU = torch.device("cpu")


def with_features(recipe):
    """A random network serves the tests; recipes that people write must name weights (`recipe_rules`)."""
    recipe.distill.feature_backbone, recipe.distill.feature_weight = "mobilenetv3_small_050", 2.0
    return recipe


def cosines(x):
    x = x / np.linalg.norm(x, axis=0)
    return x.T @ x


def test_similarities_are_compared_by_huber():
    """S4M, arXiv 2504.05301 §3.2, eq. 3, as a mean over pairs; the second row is padding."""
    torch.manual_seed(0)
    ours, theirs = torch.randn(5, 2, 3), torch.randn(7, 2, 3)
    ours[:, 0, 0], ours[:, 0, 1] = 1, -1  # a difference of cosines above 1, where Huber is linear
    theirs[:, 0, :2] = 1
    a, b = (cosines(x.double()[:, 0].numpy()) for x in (ours, theirs))
    apart = np.abs(a - b)
    wanted = np.where(apart < 1, apart**2 / 2, apart - 0.5).mean()
    assert float(structure_loss(ours, theirs, (16, 48))) == pytest.approx(wanted, rel=1e-5)


def test_the_same_structure_costs_nothing_whatever_the_scale():
    x = torch.randn(4, 3, 3)
    turn = torch.linalg.qr(torch.randn(6, 4)).Q
    other = 3 * torch.einsum("dc,chw->dhw", turn, x)
    assert float(structure_loss(x, other, (48, 48))) == pytest.approx(0, abs=1e-6)


def test_the_student_learns_and_the_frozen_network_does_not(tiny_recipe):
    recipe = with_features(tiny_recipe("maskdino"))
    torch.manual_seed(0)
    student = build_model(recipe, 7)
    loss = FeatureLoss(recipe, student, CPU)
    before = {k: v.clone() for k, v in loss.backbone.state_dict().items()}
    images = torch.rand(2, 3, 64, 64) * 255
    optimizer = torch.optim.Adam(student.pixel_decoder.parameters(), 1e-2)
    values = []
    for _ in range(15):
        student(images, [(64, 64)] * 2)
        value = loss(images, [(64, 64)] * 2)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]
    assert all(torch.equal(before[k], v) for k, v in loss.backbone.state_dict().items())


def test_a_run_logs_it_for_both_streams(tiny_recipe, tmp_path):
    import json

    pretrain(tiny_recipe("maskdino", "train.steps=1"), tmp_path / "teacher", CPU, quiet=True)
    guide = find_checkpoint(tmp_path / "teacher", "teacher")
    recipe = with_features(tiny_recipe("maskdino", "distill.steps=3", "train.accumulate=2"))
    distill(recipe, tmp_path / "run", guide, CPU, quiet=True)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for line in lines:
        losses = json.loads(line)["losses"]
        assert losses["features"] > 0
        assert losses["features_unlabelled"] > 0


def test_a_weight_without_a_network_is_refused():
    with pytest.raises(RecipeError, match="feature_backbone"):
        load_recipe("shapes_maskdino", ["distill.feature_weight=1"])
