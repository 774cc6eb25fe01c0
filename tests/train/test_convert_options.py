"""Official options, value by value: each leads to a network whose tensors convert strictly, or to an error with its name.

No reference data needed. That outputs are the official ones under these options is `models/test_heads_exact.py`'s.
"""

import copy
from itertools import product

import pytest

from gdseg.errors import CheckpointError
from gdseg.train.convert import convert_state_dict, to_official
from gdseg.train.convert.defaults import MASK_FORMER, MASKDINO, MODEL
from gdseg.train.convert.identify import recipe_of
from gdseg.train.convert.options import recipe_keys
from gdseg.train.convert.tensors import bare_model

HEAD, OWN, RESNET, SWIN = "SEM_SEG_HEAD.", "OWN.", "RESNETS.", "SWIN."
INPUTS = HEAD + "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"
LEVELS = HEAD + "TOTAL_NUM_FEATURE_LEVELS"
SWINS = [(96, [2, 2, 6, 2]), (96, [2, 2, 18, 2]), (128, [2, 2, 18, 2]), (192, [2, 2, 18, 2])]


def variants(option, *values):
    return [{option: value} for value in values]


BOTH = [
    {},
    *variants(HEAD + "TRANSFORMER_ENC_LAYERS", 0, 1, 6),
    *variants(HEAD + "NUM_CLASSES", 1, 8, 133),
    *variants(HEAD + "MASK_DIM", 48, 256),
    *variants(HEAD + "CONVS_DIM", 128),
    *variants(OWN + "DEC_LAYERS", 2, 3, 12),
    *variants(OWN + "DIM_FEEDFORWARD", 64),
    *variants(OWN + "NUM_OBJECT_QUERIES", 1, 200),
    *variants(OWN + "NHEADS", 4, 16),
    *variants(OWN + "ENFORCE_INPUT_PROJ", True),
    *variants(OWN + "DEEP_SUPERVISION", False),
    *variants(OWN + "NO_OBJECT_WEIGHT", 0.4),
    *variants(OWN + "TRAIN_NUM_POINTS", 112),
    *variants(OWN + "OVERSAMPLE_RATIO", 1.5),
    *variants(OWN + "IMPORTANCE_SAMPLE_RATIO", 0.0, 1.0),
    *variants(OWN + "PRE_NORM", True),  # unused in Mask DINO
]
BACKBONES = [
    *variants(RESNET + "DEPTH", 18, 34, 50, 101, 152),
    *variants(RESNET + "STRIDE_IN_1X1", True, False),
    *(
        {RESNET + "NORM": norm, "BACKBONE.FREEZE_AT": n}
        for norm, n in product(["FrozenBN", "BN"], range(-1, 6))
    ),
    *variants(RESNET + "NORM", "SyncBN", "nnSyncBN"),
    *(
        {"BACKBONE.NAME": "D2SwinTransformer", SWIN + "EMBED_DIM": dim, SWIN + "DEPTHS": depths}
        | {SWIN + "WINDOW_SIZE": window, SWIN + "DROP_PATH_RATE": 0.0}
        for (dim, depths), window in [*product(SWINS[:2], [7]), *product(SWINS[2:], [12])]
    ),
    {"BACKBONE.NAME": "D2SwinTransformer", "BACKBONE.FREEZE_AT": 2},  # a Swin ignores it
]
MASK2FORMER = [
    *BOTH,
    *BACKBONES,
    *variants(OWN + "HIDDEN_DIM", 64, 96),
    {OWN + "HIDDEN_DIM": 96, OWN + "PRE_NORM": True},
]
DINO = [
    *BOTH,
    *variants(HEAD + "DIM_FEEDFORWARD", 64),
    *({LEVELS: n, HEAD + "FEATURE_ORDER": o} for n, o in product([3, 4, 5], ["low2high", "high2low"])),
    *({LEVELS: n, INPUTS: ["res2", "res3", "res4", "res5"]} for n in (4, 5, 6)),
    *variants(OWN + "INITIALIZE_BOX_TYPE", "no", "mask2box", "bitmask"),
    *variants(OWN + "DN", "no", "standard", "seg"),
    *variants(OWN + "DN_NUM", 1, 300),
    *variants(OWN + "DN_NOISE_SCALE", 0.0, 1.0),
    *({OWN + "TWO_STAGE": t, OWN + "LEARN_TGT": n} for t, n in product([True, False], [True, False])),
    *({OWN + "TWO_STAGE": t, OWN + "INITIAL_PRED": n} for t, n in product([True, False], [False])),
    *({OWN + "TWO_STAGE": t, OWN + "SEMANTIC_CE_LOSS": True} for t in (True, False)),
    *variants(OWN + "PANO_BOX_LOSS", True),
]


def official_options(dino: bool, changed: dict) -> dict:
    """A MODEL node of code defaults with `changed` (dotted; OWN: the decoder's section)."""
    section = "MaskDINO" if dino else "MASK_FORMER"
    names = ("MaskDINOHead", "MaskDINOEncoder") if dino else ("MaskFormerHead", "MSDeformAttnPixelDecoder")
    model = copy.deepcopy({**MODEL, section: MASKDINO if dino else MASK_FORMER})
    model["SEM_SEG_HEAD"] |= {"NAME": names[0], "PIXEL_DECODER_NAME": names[1], "CONVS_DIM": 256}
    model["SEM_SEG_HEAD"] |= {"TRANSFORMER_ENC_LAYERS": 2}
    model[section] |= {"DEC_LAYERS": 3}
    model["RESNETS"]["DEPTH"] = 18
    for option, value in changed.items():
        part, name = option.replace("OWN.", f"{section}.").split(".")
        model[part][name] = value
    return model


def label(changed) -> str:
    return ",".join(f"{option.split('.')[-1]}={value}" for option, value in changed.items()) or "plain"


@pytest.mark.parametrize(
    ("dino", "changed"),
    [pytest.param(False, c, id=f"mask2former-{label(c)}") for c in MASK2FORMER]
    + [pytest.param(True, c, id=f"maskdino-{label(c)}") for c in DINO],
)
def test_each_value_gives_a_network_that_converts_strictly(dino, changed):
    options = official_options(dino, changed)
    keys = recipe_keys(options)
    recipe = recipe_of({key: value for key, value in keys.items() if "." in key or key == "task"})
    ours = bare_model(recipe, keys["num_classes"]).state_dict()
    official = to_official(ours, recipe, keys["num_classes"])
    found, state, report = convert_state_dict(official, options)
    assert (found, report.differences) == (recipe, [])
    assert {key: tensor.shape for key, tensor in state.items()} == {k: t.shape for k, t in ours.items()}
    assert len(report.mapped) + len(report.merged) + len(report.ignored) == len(official)
    assert sorted(set(report.missing.values()) - {"0"}) == []


def test_frozen_stages_of_a_live_network_count_nothing():
    """FREEZE_AT turns the norms of frozen stages into ones without a counter; the others keep theirs."""
    options = official_options(False, {RESNET + "NORM": "BN", "BACKBONE.FREEZE_AT": 2})
    keys = recipe_keys(options)
    recipe = recipe_of({key: value for key, value in keys.items() if "." in key or key == "task"})
    official = to_official(bare_model(recipe, 54).state_dict(), recipe, 54)
    counters = {key.split(".")[1] for key in official if key.endswith("num_batches_tracked")}
    assert counters == {"res3", "res4", "res5"}
    assert convert_state_dict(official, options)[0].backbone.norm == "live"
    assert convert_state_dict(official)[0].backbone.norm == "live"


REFUSED = {  # option -> a value that gdseg has no part for
    HEAD + "NORM": ["", "LN", "SyncBN"],
    HEAD + "COMMON_STRIDE": [8],
    HEAD + "IN_FEATURES": [["res3", "res4", "res5"]],
    HEAD + "NAME": ["PerPixelBaselineHead", "PerPixelBaselinePlusHead"],
    HEAD + "PIXEL_DECODER_NAME": ["BasePixelDecoder", "TransformerEncoderPixelDecoder"],
    OWN + "SIZE_DIVISIBILITY": [0, 64],
    OWN + "TRANSFORMER_DECODER_NAME": ["StandardTransformerDecoder"],
    "BACKBONE.NAME": ["build_resnet_deeplab_backbone", "D2FocalNet"],
    RESNET + "NORM": ["GN", "LN", ""],
    RESNET + "RES5_DILATION": [2],
    RESNET + "STEM_TYPE": ["deeplab"],
    RESNET + "DEFORM_ON_PER_STAGE": [[False, False, True, True]],
}
SWIN_REFUSED = {
    SWIN + "APE": [True],
    SWIN + "PATCH_NORM": [False],
    SWIN + "QKV_BIAS": [False],
    SWIN + "QK_SCALE": [0.1],
    SWIN + "MLP_RATIO": [2.0],
    SWIN + "DROP_RATE": [0.1],
}
M2F_REFUSED = {
    INPUTS: [["res4", "res5"], ["res2", "res3", "res4", "res5"]],
    OWN + "TRANSFORMER_IN_FEATURE": ["res5"],
}
DINO_REFUSED = {
    OWN + "HIDDEN_DIM": [128],
    OWN + "INITIALIZE_BOX_TYPE": ["mask"],
    OWN + "DN": [False, "dino"],
    OWN + "BOX_LOSS": [False],
}


def refused(dino: bool):
    swin = {"BACKBONE.NAME": "D2SwinTransformer"}
    for table, more in ((REFUSED, {}), (SWIN_REFUSED, swin), (DINO_REFUSED if dino else M2F_REFUSED, {})):
        for option, values in table.items():
            yield from ((option, {**more, option: value}) for value in values)


@pytest.mark.parametrize("dino", [False, True], ids=["mask2former", "maskdino"])
def test_what_gdseg_has_no_part_for_is_an_error_with_the_options_name(dino):
    for option, changed in refused(dino):
        words = rf"official option \w+\.{option.split('.')[1]} is"
        options = official_options(dino, changed)
        with pytest.raises(CheckpointError, match=words) as caught:
            recipe_keys(options)
        assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {OWN + "TWO_STAGE": False, OWN + "INITIALIZE_BOX_TYPE": "bitmask"},
            "box_init needs decoder.two_stage",
        ),
        (
            {OWN + "INITIAL_PRED": False, OWN + "INITIALIZE_BOX_TYPE": "mask2box"},
            "needs decoder.initial_prediction",
        ),
        ({LEVELS: 2}, "pixel_decoder.extra_levels"),
    ],
)
def test_options_that_officially_crash_are_errors(changed, message):
    keys = recipe_keys(official_options(True, changed))
    with pytest.raises(CheckpointError, match=message):
        recipe_of({key: value for key, value in keys.items() if "." in key or key == "task"})
