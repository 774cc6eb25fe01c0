"""The moving average against its formula and the official record."""

import copy

import torch
from torch import nn

from gdseg.train.ema import update_ema


class Mixed(nn.Module):
    """Every kind of tensor the official unit test has."""

    def __init__(self):
        super().__init__()
        self.lin, self.bn = nn.Linear(3, 2), nn.BatchNorm1d(2)
        self.register_buffer("ibuf", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("hbuf", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("np_buf", torch.zeros(2), persistent=False)

    def tensors(self):
        return dict(self.named_parameters()) | dict(self.named_buffers())


def test_decay_zero_is_an_exact_copy():
    torch.manual_seed(0)
    average, model = Mixed(), Mixed()
    model.ibuf += 7
    update_ema(average, model, 0.0)
    assert all(
        torch.equal(a, b) for a, b in zip(average.tensors().values(), model.tensors().values(), strict=True)
    )


def test_formula_in_float64_and_integers_copied():
    torch.manual_seed(0)
    average, model = Mixed().double(), Mixed().double()
    model.bn.num_batches_tracked += 5
    before = copy.deepcopy(average)
    update_ema(average, model, 0.9)
    for name, value in average.tensors().items():
        old, new = before.tensors()[name], model.tensors()[name]
        expected = 0.9 * old + 0.1 * new if value.is_floating_point() else new
        torch.testing.assert_close(value, expected)
