"""Parameter groups and schedules of published configurations against the recorded official optimisers."""

from pathlib import PurePosixPath

import pytest
from golden_cases import all_cases

from gdseg.train.convert.identify import published, recipe_of
from gdseg.train.convert.names import official_names
from gdseg.train.convert.tensors import bare_model
from gdseg.train.optim import build_optimizer, lr_factor

BUILT = [(case, name) for case in all_cases() if case.kind == "optim" for name in case.manifest]
EACH = pytest.mark.parametrize(
    ("case", "name"),
    [pytest.param(case, name, id=f"{case.name}-{name}") for case, name in BUILT]
    or [pytest.param(None, "", marks=pytest.mark.skip(reason="no golden optimisers here (GDSEG_GOLDEN)"))],
)


def configuration(yaml: str):
    """(recipe, classes) of configs/coco/instance-segmentation/swin/x.yaml, by its name in our table."""
    dataset, task, *rest = PurePosixPath(yaml).with_suffix("").parts[1:]
    name = "_".join([dataset, task.split("-")[0], *rest])
    found = [keys for key, keys in published().items() if key.split("/")[1] == name]
    keys = {k: v for k, v in found[0].items() if "." in k or k == "task"}
    return recipe_of(keys), found[0]["num_classes"]


@EACH
def test_groups(case, name):
    record = case.manifest[name]
    recipe, classes = configuration(record["yaml"])
    model = bare_model(recipe, classes)
    names = {id(p): official_names(key, recipe)[0] for key, p in model.named_parameters()}
    optimizer = build_optimizer(model, recipe.train)
    ours = {
        names[id(p)]: (group["base_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    theirs = {group["name"]: (group["lr"], group["weight_decay"]) for group in record["groups"]}
    assert len(theirs) == record["n_groups"]
    assert set(ours) == set(theirs)
    for key, values in theirs.items():
        assert ours[key] == pytest.approx(values), key
    assert optimizer.defaults["betas"] == tuple(record["defaults"]["betas"])
    assert optimizer.defaults["eps"] == record["defaults"]["eps"]
    assert recipe.train.clip_norm == record["clip"]["CLIP_VALUE"] * record["clip"]["ENABLED"]


@EACH
def test_rates(case, name):
    record = case.manifest[name]
    train, steps = configuration(record["yaml"])[0].train, record["solver"]["MAX_ITER"]
    assert (train.steps, train.lr) == (steps, record["solver"]["BASE_LR"])
    for step, factor in record["lr_multiplier_at_iter"].items():
        if int(step) < steps or train.schedule == "step":
            assert lr_factor(int(step), steps, train) == pytest.approx(factor, rel=1e-9), step
