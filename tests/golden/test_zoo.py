"""Every published configuration: its recipe is reached, its state dict converts strictly both ways, counts agree.

Records of the official models (names and shapes, no weights) are found in GDSEG_ZOO (default: beside the golden
vectors).
"""

import gzip
import json
import os
from pathlib import Path

import pytest
import torch

from gdseg.recipe_yaml import dump_recipe, parse_recipe
from gdseg.train.convert import convert_state_dict, to_official
from gdseg.train.convert.identify import published
from gdseg.train.convert.make_published import table_of
from gdseg.train.convert.tensors import bare_model
from gdseg.train.optim import build_optimizer

_SHARED = Path(os.environ.get("GDSEG_SHARED", Path(__file__).parents[3] / "shared"))
ZOO = Path(os.environ.get("GDSEG_ZOO") or _SHARED / "reference" / "zoo")
FILES = sorted(path for path in ZOO.glob("*/*.json.gz") if not path.name.startswith("ensemble"))
EACH = pytest.mark.parametrize(
    "file",
    [pytest.param(path, id=path.name.removesuffix(".json.gz")) for path in FILES]
    or [pytest.param(None, marks=pytest.mark.skip(reason=f"no records in {ZOO} (GDSEG_ZOO)"))],
)


def meta(record) -> dict[str, torch.Tensor]:
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, shape, dtype, *_ in record["state_dict"]
    }


@pytest.mark.skipif(not FILES, reason=f"no records in {ZOO} (GDSEG_ZOO)")
def test_the_table_is_that_of_the_records():
    assert published() == table_of(ZOO)


@pytest.mark.slow
@EACH
def test_strict_both_ways(file):
    record = json.loads(gzip.decompress(file.read_bytes()))
    tensors = meta(record)
    recipe, ours, report = convert_state_dict(tensors, record["options"])
    assert report.parameters == record["params"]["total"]
    assert report.differences == []
    assert len(report.mapped) + len(report.merged) + len(report.ignored) == len(tensors)
    assert parse_recipe(dump_recipe(recipe), "recipe") == recipe
    same, *_ = convert_state_dict(tensors, record["config_resolved"])
    parts = ("task", "backbone", "pixel_decoder", "decoder", "loss", "postprocess")
    assert [getattr(same, part) for part in parts] == [getattr(recipe, part) for part in parts]
    back = to_official(ours, recipe, report.num_classes)
    theirs = {
        key: list(tensor.shape) for key, tensor in tensors.items() if key != "ssl_criterion.empty_weight"
    }
    assert {key: list(tensor.shape) for key, tensor in back.items()} == theirs


@pytest.mark.slow
@EACH
def test_without_options_the_published_configuration_is_found(file):
    record = json.loads(gzip.decompress(file.read_bytes()))
    _, _, report = convert_state_dict(meta(record))
    names = [report.configuration, *report.also_fits]
    assert record["name"] in [name.split("/")[1] for name in names]


@pytest.mark.slow
@EACH
def test_optimizer_groups(file):
    """Tensors and elements of each (multiple of the rate, weight decay), as the official optimiser was built."""
    record = json.loads(gzip.decompress(file.read_bytes()))
    recipe, _, report = convert_state_dict(meta(record), record["config_resolved"])
    optimizer = build_optimizer(bare_model(recipe, report.num_classes), recipe.train)
    ours = {
        (round(g["base_lr"] / recipe.train.lr, 9), g["weight_decay"]): [
            len(g["params"]),
            sum(p.numel() for p in g["params"]),
        ]
        for g in optimizer.param_groups
    }
    built = record["options"]["solver"]["built_optimizer"]
    assert ours == {(g["lr_mult"], g["weight_decay"]): [g["tensors"], g["elements"]] for g in built["groups"]}
