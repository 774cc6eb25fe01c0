"""What official code assumes where a yaml says nothing. Read by `yaml_files.py` and `options.py`.

Facts of detectron2 (Apache-2.0), Mask2Former (MIT) and Mask DINO (Apache-2.0); only options that `options.py`
reads.
"""

from __future__ import annotations

from typing import Any

_TEST: dict[str, Any] = {
    "SEMANTIC_ON": True,
    "INSTANCE_ON": False,
    "PANOPTIC_ON": False,
    "OBJECT_MASK_THRESHOLD": 0.0,
    "OVERLAP_THRESHOLD": 0.0,
    "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
}
_DECODER: dict[str, Any] = {
    "DEEP_SUPERVISION": True,
    "NO_OBJECT_WEIGHT": 0.1,
    "NHEADS": 8,
    "DROPOUT": 0.1,
    "DIM_FEEDFORWARD": 2048,
    "DEC_LAYERS": 6,
    "PRE_NORM": False,
    "HIDDEN_DIM": 256,
    "NUM_OBJECT_QUERIES": 100,
    "ENFORCE_INPUT_PROJ": False,
    "TRAIN_NUM_POINTS": 12544,
    "OVERSAMPLE_RATIO": 3.0,
    "IMPORTANCE_SAMPLE_RATIO": 0.75,
}
MASK_FORMER = {**_DECODER, "CLASS_WEIGHT": 1.0, "DICE_WEIGHT": 1.0, "MASK_WEIGHT": 20.0, "TEST": _TEST}
MASKDINO = {
    **_DECODER,
    **{f"{cost}CLASS_WEIGHT": 4.0 for cost in ("", "COST_")},
    **{f"{cost}{term}_WEIGHT": 5.0 for cost in ("", "COST_") for term in ("MASK", "DICE", "BOX")},
    **{f"{cost}GIOU_WEIGHT": 2.0 for cost in ("", "COST_")},
    "LEARN_TGT": False,
    "PANO_BOX_LOSS": False,
    "SEMANTIC_CE_LOSS": False,
    "INITIAL_PRED": True,
    "TWO_STAGE": True,
    "INITIALIZE_BOX_TYPE": "no",
    "DN": "seg",
    "DN_NOISE_SCALE": 0.4,
    "DN_NUM": 100,
    "TEST": {**_TEST, "TEST_FOUCUS_ON_BOX": False, "PANO_TRANSFORM_EVAL": True, "PANO_TEMPERATURE": 0.06},
}
MODEL: dict[str, Any] = {
    "PIXEL_MEAN": [103.53, 116.28, 123.675],
    "PIXEL_STD": [1.0, 1.0, 1.0],
    "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
    "RESNETS": {
        "DEPTH": 50,
        "NORM": "FrozenBN",
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "STRIDE_IN_1X1": True,
    },
    "SWIN": {
        "EMBED_DIM": 96,
        "DEPTHS": [2, 2, 6, 2],
        "WINDOW_SIZE": 7,
        "QKV_BIAS": True,
        "QK_SCALE": None,
        "DROP_PATH_RATE": 0.3,
        "APE": False,
        "PATCH_NORM": True,
    },
    "SEM_SEG_HEAD": {
        "NORM": "GN",
        "NUM_CLASSES": 54,
        "COMMON_STRIDE": 4,
        "CONVS_DIM": 128,
        "MASK_DIM": 256,
        "TRANSFORMER_ENC_LAYERS": 0,
        "PIXEL_DECODER_NAME": "BasePixelDecoder",
        "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
        "DIM_FEEDFORWARD": 2048,
        "TOTAL_NUM_FEATURE_LEVELS": 4,
        "FEATURE_ORDER": "high2low",
    },
}
INPUT: dict[str, Any] = {
    "FORMAT": "BGR",
    "MIN_SIZE_TRAIN": [800],
    "MAX_SIZE_TRAIN": 1333,
    "MIN_SIZE_TEST": 800,
    "MAX_SIZE_TEST": 1333,
    "RANDOM_FLIP": "horizontal",
    "COLOR_AUG_SSD": False,
    "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
    "IMAGE_SIZE": 1024,
    "MIN_SCALE": 0.1,
    "MAX_SCALE": 2.0,
}
SOLVER: dict[str, Any] = {
    "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "MAX_ITER": 40000,
    "STEPS": [30000],
    "BASE_LR": 0.001,
    "BACKBONE_MULTIPLIER": 0.1,
    "WEIGHT_DECAY": 0.0001,
    "GAMMA": 0.1,
    "POLY_LR_POWER": 0.9,
    "WARMUP_ITERS": 1000,
    "WARMUP_FACTOR": 0.001,
    "IMS_PER_BATCH": 16,
    "AMP": {"ENABLED": False},
    "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_VALUE": 1.0},
}
SSL: dict[str, Any] = {"TRAIN_SSL": True, "BURNIN_ITER": 50000, "EMA_DECAY": 0.9996}
