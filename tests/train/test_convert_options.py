"""Official options, value by value: each leads to a network whose tensors convert strictly, or to an error with its name.

No reference data needed. That outputs are the official ones under these options is `models/test_heads_exact.py`'s.
"""

import copy
from itertools import product

import pytest

from gdseg.errors import CheckpointError
from gdseg.train.convert import convert_state_dict, to_official
from gdseg.train.convert.defaults import MASK_FORMER, MASKDINO, MODEL
from gdseg.train.convert.identify import _flat, recipe_of
from gdseg.train.convert.options import recipe_keys
from gdseg.train.convert.tensors import bare_model

HEAD, OWN, RESNET, SWIN = "SEM_SEG_HEAD.", "OWN.", "RESNETS.", "SWIN."
INPUTS = HEAD + "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"
LEVELS = HEAD + "TOTAL_NUM_FEATURE_LEVELS"
TERMS = ["CLASS", "MASK", "DICE", "BOX", "GIOU"]
SWINS = [
    (96, [2, 2, 6, 2], 7, "swin_tiny_patch4_window7_224"),
    (96, [2, 2, 18, 2], 7, "swin_small_patch4_window7_224"),
    (128, [2, 2, 18, 2], 12, "swin_base_patch4_window12_384"),
    (192, [2, 2, 18, 2], 12, "swin_large_patch4_window12_384"),
]
FOUR = ["res2", "res3", "res4", "res5"]


def variants(option, key, *values, **fixed):
    """(changed option, the recipe key with that same value)."""
    return [({option: value}, {key: value, **fixed}) for value in values]


def named(option, key, table):
    """(changed option, the recipe key with the value beside it)."""
    return [({option: value}, {key: ours}) for value, ours in table.items()]


BOTH = [  # (official options, what they are as recipe keys), both written by hand
    (
        {},
        {"loss.no_object": 0.1, "loss.importance": 0.75, "backbone.name": "resnet18", "decoder.queries": 100},
    ),
    *variants(HEAD + "TRANSFORMER_ENC_LAYERS", "pixel_decoder.layers", 0, 1, 6),
    *variants(HEAD + "NUM_CLASSES", "num_classes", 1, 8, 133),
    *variants(HEAD + "MASK_DIM", "pixel_decoder.mask_channels", 48, 256),
    *variants(HEAD + "CONVS_DIM", "pixel_decoder.channels", 128),
    *variants(OWN + "DIM_FEEDFORWARD", "decoder.ffn", 64),
    *variants(OWN + "NUM_OBJECT_QUERIES", "decoder.queries", 1, 200),
    *variants(OWN + "ENFORCE_INPUT_PROJ", "decoder.input_projection", True, False),
    *variants(OWN + "DEEP_SUPERVISION", "loss.deep_supervision", False),
    *variants(OWN + "NO_OBJECT_WEIGHT", "loss.no_object", 0.4),
    *variants(OWN + "TRAIN_NUM_POINTS", "loss.points", 112),
    *variants(OWN + "OVERSAMPLE_RATIO", "loss.oversample", 1.5),
    *variants(OWN + "IMPORTANCE_SAMPLE_RATIO", "loss.importance", 0.0, 1.0),
]
BACKBONES = [
    *named(RESNET + "DEPTH", "backbone.name", {n: f"resnet{n}" for n in (18, 34, 50, 101, 152)}),
    *named(RESNET + "STRIDE_IN_1X1", "backbone.stride_in_1x1", {True: False, False: False}),  # no such 1x1
    ({RESNET + "DEPTH": 50, RESNET + "STRIDE_IN_1X1": True}, {"backbone.stride_in_1x1": True}),
    ({RESNET + "DEPTH": 50, RESNET + "STRIDE_IN_1X1": False}, {"backbone.stride_in_1x1": False}),
    *(
        (
            {RESNET + "NORM": norm, "BACKBONE.FREEZE_AT": n},
            {"backbone.norm": ours, "backbone.freeze_stages": f},
        )
        for norm, n, ours, f in [
            ("FrozenBN", -1, "frozen", 0),
            ("FrozenBN", 0, "frozen", 0),
            ("FrozenBN", 2, "frozen", 2),
            ("FrozenBN", 6, "frozen", 5),
            ("BN", -1, "live", 0),
            ("BN", 0, "live", 0),
            ("BN", 1, "live", 1),
            ("BN", 2, "live", 2),
            ("BN", 3, "live", 3),
            ("BN", 4, "live", 4),
            ("BN", 5, "frozen", 5),
        ]
    ),
    *named(RESNET + "NORM", "backbone.norm", {"SyncBN": "live", "nnSyncBN": "live", "FrozenBN": "frozen"}),
    *(
        (
            {"BACKBONE.NAME": "D2SwinTransformer", SWIN + "EMBED_DIM": dim, SWIN + "DEPTHS": depths}
            | {SWIN + "WINDOW_SIZE": window, SWIN + "DROP_PATH_RATE": 0.25},
            {"backbone.name": name, "backbone.drop_path": 0.25, "backbone.norm": "live"},
        )
        for dim, depths, window, name in SWINS
    ),
    ({"BACKBONE.NAME": "D2SwinTransformer", "BACKBONE.FREEZE_AT": 2}, {"backbone.freeze_stages": 0}),
]
MASK2FORMER = [
    *BOTH,
    *BACKBONES,
    *named(OWN + "DEC_LAYERS", "decoder.layers", {2: 1, 3: 2, 12: 11}),
    *variants(OWN + "NHEADS", "decoder.heads", 4, 16),
    *variants(OWN + "NHEADS", "pixel_decoder.heads", 4),
    *variants(OWN + "PRE_NORM", "decoder.pre_norm", True, False),
    ({HEAD + "DIM_FEEDFORWARD": 64}, {"pixel_decoder.ffn": 1024}),
    *variants(OWN + "HIDDEN_DIM", "decoder.channels", 64, 96),
    ({OWN + "HIDDEN_DIM": 96, OWN + "PRE_NORM": True}, {"decoder.channels": 96, "decoder.pre_norm": True}),
    *(
        ({OWN + f"{t}_WEIGHT": 3.5}, {f"loss.{t.lower()}_{w}": 3.5})
        for t in TERMS[:3]
        for w in ("weight", "cost")
    ),
]
DINO = [
    *BOTH,
    *variants(OWN + "DEC_LAYERS", "decoder.layers", 2, 3, 12),
    *variants(OWN + "NHEADS", "pixel_decoder.heads", 4, 16, **{"decoder.heads": 8}),
    ({OWN + "PRE_NORM": True}, {"decoder.pre_norm": False}),  # unused
    *variants(HEAD + "DIM_FEEDFORWARD", "pixel_decoder.ffn", 64),
    *(
        (
            {LEVELS: n, HEAD + "FEATURE_ORDER": theirs},
            {"pixel_decoder.extra_levels": n - 3, "pixel_decoder.level_order": ours},
        )
        for n, (theirs, ours) in product(
            (3, 4, 5), [("low2high", "fine_first"), ("high2low", "coarse_first")]
        )
    ),
    *(
        ({LEVELS: n, INPUTS: FOUR}, {"pixel_decoder.extra_levels": n - 4, "pixel_decoder.inputs": FOUR})
        for n in (4, 5, 6)
    ),
    *named(
        OWN + "INITIALIZE_BOX_TYPE",
        "decoder.box_init",
        {"no": "none", "mask2box": "mask_to_box", "bitmask": "exact"},
    ),
    *named(OWN + "DN", "decoder.denoising", {"no": "none", "standard": "box", "seg": "mask"}),
    *variants(OWN + "DN_NUM", "decoder.denoising_queries", 1, 300),
    *(
        ({OWN + "DN_NOISE_SCALE": n}, {"decoder.box_noise": n, "decoder.label_flip": flip})
        for n, flip in ((0.0, 0.0), (0.4, 0.2), (1.0, 0.5))
    ),
    *(
        (
            {OWN + "TWO_STAGE": t, OWN + "LEARN_TGT": n},
            {"decoder.two_stage": t, "decoder.learned_content": both},
        )
        for t, n, both in [
            (True, True, True),
            (True, False, False),
            (False, True, False),
            (False, False, False),
        ]
    ),
    *(
        ({OWN + "TWO_STAGE": t, OWN + "INITIAL_PRED": False}, {"decoder.initial_prediction": False})
        for t in (True, False)
    ),
    *(
        (
            {OWN + "TWO_STAGE": t, OWN + "SEMANTIC_CE_LOSS": True},
            {"decoder.class_loss": "softmax", "decoder.token_score": score},
        )
        for t, score in ((True, "all"), (False, "objects"))
    ),
    *variants(OWN + "PANO_BOX_LOSS", "loss.box_things_only", True, False),
    *(({OWN + f"{t}_WEIGHT": 3.5}, {f"loss.{t.lower()}_weight": 3.5}) for t in TERMS),
    *(({OWN + f"COST_{t}_WEIGHT": 3.5}, {f"loss.{t.lower()}_cost": 3.5}) for t in TERMS),
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
    ("dino", "changed", "expected"),
    [pytest.param(False, c, e, id=f"mask2former-{label(c)}") for c, e in MASK2FORMER]
    + [pytest.param(True, c, e, id=f"maskdino-{label(c)}") for c, e in DINO],
)
def test_each_value_gives_a_network_that_converts_strictly(dino, changed, expected):
    options = official_options(dino, changed)
    keys = recipe_keys(options)
    recipe = recipe_of({key: value for key, value in keys.items() if "." in key or key == "task"})
    ours = bare_model(recipe, keys["num_classes"]).state_dict()
    official = to_official(ours, recipe, keys["num_classes"])
    found, state, report = convert_state_dict(official, options)
    assert (found, report.differences) == (recipe, [])
    values = {"num_classes": report.num_classes, **_flat(found)}
    assert {key: values[key] for key in expected} == expected
    assert {key: tensor.shape for key, tensor in state.items()} == {k: t.shape for k, t in ours.items()}
    assert len(report.mapped) + len(report.merged) + len(report.ignored) == len(official)
    assert sorted(set(report.missing.values()) - {"0"}) == []


@pytest.mark.parametrize("frozen", range(5))
def test_frozen_stages_of_a_live_network_are_those_that_count_nothing(frozen):
    """FREEZE_AT turns the norms of frozen stages into ones without a counter; the others keep theirs."""
    options = official_options(False, {RESNET + "NORM": "BN", "BACKBONE.FREEZE_AT": frozen})
    keys = recipe_keys(options)
    recipe = recipe_of({key: value for key, value in keys.items() if "." in key or key == "task"})
    official = to_official(bare_model(recipe, 54).state_dict(), recipe, 54)
    counters = {key.split(".")[1] for key in official if key.endswith("num_batches_tracked")}
    assert counters == set(["stem", "res2", "res3", "res4", "res5"][frozen:])
    for given in (options, None):
        found, state, _ = convert_state_dict(official, given)
        assert (found.backbone.norm, found.backbone.freeze_stages) == ("live", frozen)
        assert to_official(state, found, 54).keys() == official.keys()


REFUSED = {  # option -> a value that gdseg has no part for
    HEAD + "NORM": ["", "LN", "SyncBN"],
    HEAD + "COMMON_STRIDE": [8],
    HEAD + "IN_FEATURES": [["res3", "res4", "res5"]],
    HEAD + "NAME": ["PerPixelBaselineHead", "PerPixelBaselinePlusHead"],
    HEAD + "PIXEL_DECODER_NAME": ["BasePixelDecoder", "TransformerEncoderPixelDecoder"],
    OWN + "SIZE_DIVISIBILITY": [0, 64, -1],  # -1: the backbone's, which a ResNet does not have
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
}
M2F_REFUSED = {
    HEAD + "PIXEL_DECODER_NAME": ["MaskDINOEncoder"],
    INPUTS: [["res4", "res5"], ["res2", "res3", "res4", "res5"]],
    OWN + "TRANSFORMER_IN_FEATURE": ["res5"],
}
DINO_REFUSED = {
    HEAD + "PIXEL_DECODER_NAME": ["MSDeformAttnPixelDecoder"],
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


SWIN_T = {"BACKBONE.NAME": "D2SwinTransformer"}


@pytest.mark.parametrize("dino", [False, True], ids=["mask2former", "maskdino"])
@pytest.mark.parametrize(
    ("changed", "base"),
    [
        ({HEAD + "IN_FEATURES": ["res5", "res3", "res2", "res4"]}, {}),
        ({HEAD + "IN_FEATURES": ("res2", "res3", "res4", "res5")}, {}),
        ({OWN + "SIZE_DIVISIBILITY": -1}, SWIN_T),
        ({RESNET + "DEFORM_ON_PER_STAGE": []}, {}),
        ({RESNET + "DEFORM_ON_PER_STAGE": [True] * 4}, SWIN_T),
        ({SWIN + "DROP_RATE": 0.1}, {}),
    ],
)
def test_other_words_for_the_same_network_are_the_same_recipe(dino, changed, base):
    assert recipe_keys(official_options(dino, base | changed)) == recipe_keys(official_options(dino, base))


def test_dropout_of_a_swin_is_training_that_gdseg_does_otherwise():
    plain = recipe_keys(official_options(False, SWIN_T))
    dropped = recipe_keys(
        official_options(False, {**SWIN_T, SWIN + "DROP_RATE": 0.1, SWIN + "ATTN_DROP_RATE": 0.2})
    )
    assert [line.split(" ")[:2] for line in dropped.pop("unlike")] == [
        ["SWIN.DROP_RATE:", "0.1"],
        ["SWIN.ATTN_DROP_RATE:", "0.2"],
    ]
    assert dropped == plain


ALL_ON = ["PANOPTIC", "INSTANCE", "SEMANTIC"]


@pytest.mark.parametrize(
    ("on", "dataset", "task"),
    [
        (ALL_ON, "my_val", "panoptic"),
        (ALL_ON, "coco_of_mine", "panoptic"),
        (ALL_ON, "", "panoptic"),
        (["INSTANCE", "SEMANTIC"], "my_panoptic_val", "instance"),
        (["SEMANTIC"], "my_val", "semantic"),
        (ALL_ON, "coco_2017_val", "instance"),
        (ALL_ON, "coco_2017_val_panoptic_with_sem_seg", "panoptic"),
        (ALL_ON, "ade20k_sem_seg_val", "semantic"),
        (ALL_ON, "cityscapes_fine_instance_seg_val", "instance"),
        (["PANOPTIC"], "coco_2017_val", "panoptic"),
        ([], "my_val", "semantic"),
    ],
)
@pytest.mark.parametrize("dino", [False, True], ids=["mask2former", "maskdino"])
def test_the_task_of_known_data_is_the_datas_and_of_ones_own_the_options(dino, on, dataset, task):
    model = official_options(dino, {})
    own = model["MaskDINO" if dino else "MASK_FORMER"]
    own["TEST"] = {**own["TEST"], **{f"{kind}_ON": kind in on for kind in ALL_ON}}
    assert recipe_keys({"MODEL": model, "DATASETS": {"TEST": [dataset]}})["task"] == task
