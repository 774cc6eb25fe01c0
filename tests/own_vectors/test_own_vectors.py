"""Every decoder, loss and decoding path gives the stored numbers; `own_cases.py` says where they come from."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import own_cases


@pytest.fixture(scope="module", params=own_cases.CASES)
def both(request):
    stored = json.loads(own_cases.FILE.read_text())
    assert stored.keys() == own_cases.CASES.keys()
    return own_cases.numbers(request.param), stored[request.param]


def test_outputs(both):
    ours, stored = (found["outputs"] for found in both)
    assert ours.keys() == stored.keys()
    for name, expected in stored.items():
        assert ours[name]["shape"] == expected["shape"]
        difference = torch.tensor(ours[name]["values"]) - torch.tensor(expected["values"])
        assert difference.abs().max() < 1e-3 * expected["std"], name


@pytest.mark.parametrize("kind", ["losses", "gradients"])
def test_losses_and_gradients(both, kind):
    ours, stored = (found[kind] for found in both)
    assert ours.keys() == stored.keys()
    for name, expected in stored.items():
        assert ours[name] == pytest.approx(expected, rel=1e-3, abs=1e-5), name


def test_predictions(both):
    for ours, stored in zip(both[0]["predictions"], both[1]["predictions"], strict=True):
        assert ours["labels"] == stored["labels"]
        assert ours["scores"] == pytest.approx(stored["scores"], rel=1e-3)
        assert ours["areas"] == pytest.approx(stored["areas"], abs=3)
        assert [s[:2] for s in ours.get("segments", [])] == [s[:2] for s in stored.get("segments", [])]
        for mine, theirs in zip(ours.get("segments", []), stored.get("segments", []), strict=True):
            assert mine[2] == pytest.approx(theirs[2], abs=4)
        assert ours.get("semantic", []) == pytest.approx(stored.get("semantic", []), abs=6)
