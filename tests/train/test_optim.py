"""Parameter groups and learning-rate schedules against the official records."""

import math

import pytest
from torch import nn

from gdseg.recipe import Train
from gdseg.train.optim import build_optimizer, lr_factor, set_lr


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.decoder = nn.ModuleDict(
            {"linear": nn.Linear(4, 4), "norm": nn.LayerNorm(4), "embed": nn.Embedding(2, 4)}
        )
        self.decoder["tied"] = self.decoder["linear"]
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_groups_follow_backbone_and_module_type():
    model = Tiny()
    optimizer = build_optimizer(model, Train(lr=1e-3, backbone_lr_factor=0.1, weight_decay=0.05))
    rules = {id(p): (g["base_lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    expected = {
        "backbone.0.weight": (1e-4, 0.05), "backbone.0.bias": (1e-4, 0.05), "backbone.1.weight": (1e-4, 0.0),
        "decoder.linear.bias": (1e-3, 0.05), "decoder.norm.weight": (1e-3, 0.0), "decoder.embed.weight": (1e-3, 0.0),
    }  # fmt: skip
    named = dict(model.named_parameters())
    for name, rule in expected.items():
        assert rules[id(named[name])] == pytest.approx(rule), name
    assert id(named["frozen.weight"]) not in rules
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(named) - 2


def test_official_step_schedule_drops_at_the_official_iterations():
    train = Train()  # COCO, 50 epochs
    factors = [lr_factor(i, 368750, train) for i in (0, 9, 327777, 327778, 355091, 355092)]
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01])


def test_poly_cosine_and_warm_up():
    poly = Train(schedule="poly", warmup_steps=0)
    assert lr_factor(45000, 90000, poly) == pytest.approx(0.5**0.9)
    cosine = Train(schedule="cosine", warmup_steps=0)
    assert lr_factor(25, 100, cosine) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    warm = Train(schedule="constant", warmup_steps=10, warmup_factor=0.1)
    assert [lr_factor(i, 100, warm) for i in (0, 5, 10, 50)] == pytest.approx([0.1, 0.55, 1, 1])


def test_set_lr_scales_each_group():
    optimizer = build_optimizer(Tiny(), Train(lr=1.0, backbone_lr_factor=0.5))
    set_lr(optimizer, 0.1)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == pytest.approx([0.05, 0.1])
