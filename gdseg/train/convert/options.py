"""Official options (detectron2 yaml) as recipe keys. Called by `convert.identify`.

Facts of the Mask2Former (MIT) and Mask DINO (Apache-2.0) configurations. Three spellings are read: the
MODEL node alone, a whole configuration with MODEL, INPUT, SOLVER, and the record of built modules
(`records.py` turns that into the first). Options that gdseg has no part for are errors.
"""

from __future__ import annotations

import re
from typing import Any

from gdseg.errors import CheckpointError
from gdseg.train.convert.defaults import MODEL
from gdseg.train.convert.records import Options, as_config
from gdseg.train.convert.shapes import HEADS, SWINS, VITS, timm_name
from gdseg.train.convert.supported import BOX_INIT, DENOISING, NORMS, check_supported

_VIT_BACKBONES = {
    "DinoV2BaseBackbone": VITS[768, 14, 1370],
    "DinoV2LargeBackbone": VITS[1024, 14, 1370],
    "DeiTBaseBackbone": VITS[768, 16, 577],
}
_SCHEDULES = {"WarmupMultiStepLR": "step", "WarmupPolyLR": "poly", "WarmupCosineLR": "cosine"}
_KNOWN_DATA = re.compile(
    r"(coco_201[47]|cityscapes_fine|ade20k_(sem_seg|instance|panoptic)|mapillary_vistas)_"
)
# what gdseg's training does, in options of SOLVER; parts that it lacks are errors (`supported.py`), and what
# of a recipe official code cannot do is in `official_limits.py`
_ONLY = {
    "OPTIMIZER": ("ADAMW",),
    "LR_SCHEDULER_NAME": tuple(_SCHEDULES),
    "WARMUP_METHOD": ("linear",),
    "POLY_LR_CONSTANT_ENDING": (0.0,),
    "WEIGHT_DECAY_NORM": (0.0,),
    "WEIGHT_DECAY_EMBED": (0.0,),
    "WEIGHT_DECAY_BIAS": (None,),
    "BIAS_LR_FACTOR": (1.0,),
}


def recipe_keys(options: Options) -> dict[str, Any]:
    """Recipe keys (dotted), `num_classes` and `dataset` that official options stand for.

    And `blue_first`, where images are BGR, and `unlike`, what of its training gdseg does otherwise. options:
    official ones in any spelling of `records.as_config`.
    Raises CheckpointError for options of a part that gdseg does not have.
    """
    try:
        return _recipe_keys(as_config(options))
    except KeyError as error:
        hint = "give the resolved configuration, with all its _BASE_ files merged"
        raise CheckpointError(f"official options without {error}", hint=hint) from error
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise CheckpointError(f"official options that make no sense: {error}") from error


def _recipe_keys(config: Options) -> Options:
    model = config["MODEL"]
    section = "MaskDINO" if _is_maskdino(model) else "MASK_FORMER"
    check_supported(model, section)
    own = model[section]
    found = {"num_classes": model["SEM_SEG_HEAD"]["NUM_CLASSES"], "dataset": _dataset(config)}
    found |= {**_backbone(model), **_pixel_decoder(model, own), **_decoder(model, own), **_loss(model, own)}
    found |= _postprocess(config, own)
    if config.get("INPUT", {}).get("FORMAT") == "BGR":  # our images are RGB
        found |= {key: found[key][::-1] for key in ("backbone.mean", "backbone.std")} | {"blue_first": True}
    for section, read in (("INPUT", _augment), ("SOLVER", _train), ("SSL", _distill)):
        if section in config:
            found |= read(config[section])
    if unlike := [*_undropped(model), *found.get("unlike", [])]:
        found["unlike"] = unlike
    return found


def _undropped(model: Options) -> list[str]:
    """One sentence for each dropout inside a Swin, which only its training has."""
    swin = model.get("SWIN", {}) if model["BACKBONE"]["NAME"] == "D2SwinTransformer" else {}
    found = {name: swin.get(name, 0.0) for name in ("DROP_RATE", "ATTN_DROP_RATE")}
    return [f"SWIN.{name}: {rate} (gdseg trains with 0.0)" for name, rate in found.items() if rate]


def _is_maskdino(model: Options) -> bool:
    return bool(model["SEM_SEG_HEAD"]["NAME"] == "MaskDINOHead")


def _dataset(config: Options) -> str:
    names = config.get("DATASETS", {}).get("TEST") or config.get("DATASETS", {}).get("TRAIN") or [""]
    return str(names[0])


def _backbone(model: Options) -> Options:
    name = model["BACKBONE"]["NAME"]
    found: Options = {
        "backbone.norm": "live",
        "backbone.freeze_stages": 0,
        "backbone.mean": model["PIXEL_MEAN"],
        "backbone.std": model["PIXEL_STD"],
        "backbone.pretrained": False,
    }
    if name == "build_resnet_backbone":  # the only one that FREEZE_AT freezes
        return found | _resnet(model["RESNETS"], min(max(model["BACKBONE"].get("FREEZE_AT", 0), 0), 5))
    if name == "D2SwinTransformer":
        swin = {**MODEL["SWIN"], **model.get("SWIN", {})}  # a tiny one where nothing is said, as officially
        sizes = (swin["EMBED_DIM"], swin["DEPTHS"][2], swin["WINDOW_SIZE"])
        drop = {
            "backbone.drop_path": swin["DROP_PATH_RATE"],
            "backbone.checkpointing": swin.get("USE_CHECKPOINT", False),
        }
        return found | {"backbone.name": timm_name(SWINS, sizes, "Swin"), **drop}
    if name in _VIT_BACKBONES:
        return found | {"backbone.name": _VIT_BACKBONES[name], "backbone.pyramid": "nearest"}
    raise CheckpointError(
        f"official option BACKBONE.NAME is {name!r}", hint="ResNet, Swin, DINOv2 and DeiT are known"
    )


def _resnet(resnets: Options, frozen: int) -> Options:
    """frozen: how many stages of five; in them every norm is a frozen one."""
    groups, width = resnets.get("NUM_GROUPS", 1), resnets.get("WIDTH_PER_GROUP", 64)
    name = f"resnet{resnets['DEPTH']}" if groups == 1 else f"resnext{resnets['DEPTH']}_{groups}x{width}d"
    return {
        "backbone.name": name,
        "backbone.norm": NORMS[resnets["NORM"]] if frozen < 5 else "frozen",
        "backbone.freeze_stages": frozen,
        "backbone.stride_in_1x1": bool(resnets.get("STRIDE_IN_1X1")) and resnets["DEPTH"] > 34,
    }


def _pixel_decoder(model: Options, own: Options) -> Options:
    head = model["SEM_SEG_HEAD"]
    inputs = sorted(head["DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"])
    found = {
        "pixel_decoder.channels": head["CONVS_DIM"],
        "pixel_decoder.mask_channels": head["MASK_DIM"],
        "pixel_decoder.layers": head["TRANSFORMER_ENC_LAYERS"],
        "pixel_decoder.heads": own["NHEADS"],
        "pixel_decoder.inputs": inputs,
        "pixel_decoder.dropout": own.get("DROPOUT", 0.0),
        "pixel_decoder.extra_positions": "swapped",
        "pixel_decoder.ffn": 1024,  # whatever DIM_FEEDFORWARD says, in Mask2Former
        "pixel_decoder.extra_levels": 0,
        "pixel_decoder.level_order": "coarse_first",
    }
    if _is_maskdino(model):
        found["pixel_decoder.ffn"] = head["DIM_FEEDFORWARD"]
        found["pixel_decoder.extra_levels"] = head["TOTAL_NUM_FEATURE_LEVELS"] - len(inputs)
        if head["FEATURE_ORDER"] == "low2high":
            found["pixel_decoder.level_order"] = "fine_first"
    return found


def _decoder(model: Options, own: Options) -> Options:
    wide = own["HIDDEN_DIM"] == model["SEM_SEG_HEAD"]["CONVS_DIM"]
    found = {
        "decoder.kind": "maskdino" if _is_maskdino(model) else "mask2former",
        "decoder.input_projection": bool(own.get("ENFORCE_INPUT_PROJ")) and wide,
        "decoder.channels": own["HIDDEN_DIM"],
        "decoder.queries": own["NUM_OBJECT_QUERIES"],
        "decoder.ffn": own["DIM_FEEDFORWARD"],
        "decoder.dropout": 0.0,  # both decoders ignore DROPOUT
    }
    if not _is_maskdino(model):
        return found | {
            "decoder.layers": own["DEC_LAYERS"]
            - 1,  # officially the prediction before the first is a layer too
            "decoder.heads": own["NHEADS"],
            "decoder.pre_norm": own["PRE_NORM"],
            "decoder.class_loss": "softmax",
            "decoder.box_init": "none",
            "decoder.denoising": "none",
        }
    class_loss = _class_loss(own)
    if class_loss == "softmax" and own["TWO_STAGE"]:
        found["decoder.token_score"] = "all"
    return found | {
        "decoder.layers": own["DEC_LAYERS"],
        "decoder.heads": HEADS,  # NHEADS is not passed on
        "decoder.two_stage": own["TWO_STAGE"],
        "decoder.initial_prediction": own["INITIAL_PRED"],
        "decoder.learned_content": own["LEARN_TGT"] and own["TWO_STAGE"],
        "decoder.box_init": BOX_INIT[own["INITIALIZE_BOX_TYPE"]],
        "decoder.denoising": DENOISING[own["DN"]],
        "decoder.denoising_queries": own["DN_NUM"],
        "decoder.denoising_overfull": "skip",
        "decoder.box_noise": own["DN_NOISE_SCALE"],
        "decoder.label_flip": own["DN_NOISE_SCALE"] * 0.5,
        "decoder.proposal_size": "order",
        "decoder.class_loss": class_loss,
    }


def _class_loss(own: Options) -> str:
    """SEMANTIC_CE_LOSS only counts for semantic networks.

    Raises CheckpointError for panoptic ones, which official code gives an output too many.
    """
    test = own["TEST"]
    if not (own["SEMANTIC_CE_LOSS"] and test["SEMANTIC_ON"]):
        return "focal"
    if test["PANOPTIC_ON"]:
        raise CheckpointError(
            "official options SEMANTIC_CE_LOSS and PANOPTIC_ON exclude each other: official code then has an "
            "output for no-object that it trains and reads as one more class"
        )
    return "softmax"


def _loss(model: Options, own: Options) -> Options:
    found = {
        "loss.points": own["TRAIN_NUM_POINTS"],
        "loss.oversample": own["OVERSAMPLE_RATIO"],
        "loss.importance": own["IMPORTANCE_SAMPLE_RATIO"],
        "loss.no_object": own["NO_OBJECT_WEIGHT"],
        "loss.deep_supervision": own["DEEP_SUPERVISION"],
    }
    dino = _is_maskdino(model)
    for term in ("class", "mask", "dice", *(("box", "giou") if dino else ())):
        weight = own[f"{term.upper()}_WEIGHT"]
        found[f"loss.{term}_weight"] = weight
        found[f"loss.{term}_cost"] = own[f"COST_{term.upper()}_WEIGHT"] if dino else weight
    if dino:
        found |= {"loss.box_things_only": own["PANO_BOX_LOSS"], "loss.boxes_relative_to": "image"}
        found |= {"loss.softmax_cost": "focal"}
    return found


def _task(test: Options, dataset: str) -> str:
    """The task that is measured: the data's, where official code knows the data, else the largest one on."""
    on = [task for task in ("panoptic", "instance", "semantic") if test[f"{task.upper()}_ON"]]
    if _KNOWN_DATA.match(dataset):
        name = dataset.replace("sem_seg", "semantic")
        measured = next((task for task in ("panoptic", "semantic") if task in name), "instance")
        on = [task for task in on if task == measured] or on
    return on[0] if on else "semantic"


def _postprocess(config: Options, own: Options) -> Options:
    test = own["TEST"]
    early = test["SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE"] or test["PANOPTIC_ON"] or test["INSTANCE_ON"]
    found = {
        "task": _task(test, _dataset(config)),
        "postprocess.object_threshold": test["OBJECT_MASK_THRESHOLD"],
        "postprocess.overlap_threshold": test["OVERLAP_THRESHOLD"],
        "postprocess.overlap_area": "won",
        "postprocess.semantic_resize": "masks" if early else "scores",
        "postprocess.boxes": "mask",
    }
    if _is_maskdino(config["MODEL"]):
        found |= {
            "postprocess.boxes": "head",
            "postprocess.softmax_score": "sigmoid",
            "postprocess.score": "class" if test["TEST_FOUCUS_ON_BOX"] else "class_mask",
            "postprocess.temperature": test["PANO_TEMPERATURE"] if test["PANO_TRANSFORM_EVAL"] else 0.0,
        }
    if "TEST" in config:
        found["postprocess.max_detections"] = config["TEST"]["DETECTIONS_PER_IMAGE"]
    return found


def _augment(given: Options) -> Options:
    found = {
        "augment.test_shortest": given["MIN_SIZE_TEST"],
        "augment.test_longest": given["MAX_SIZE_TEST"],
        "augment.flip": 0.5 if given["RANDOM_FLIP"] == "horizontal" else 0.0,
        "augment.weak_colour": given["COLOR_AUG_SSD"],
    }
    if str(given.get("DATASET_MAPPER_NAME", "")).endswith("_lsj"):
        scale = [given["MIN_SCALE"], given["MAX_SCALE"]]
        return found | {
            "augment.mode": "lsj",
            "augment.canvas": [given["IMAGE_SIZE"]] * 2,
            "augment.scale": scale,
        }
    crop = given["CROP"]
    return found | {
        "augment.mode": "shortest_edge",
        "augment.shortest": list(given["MIN_SIZE_TRAIN"]),
        "augment.longest": given["MAX_SIZE_TRAIN"],
        "augment.crop": list(crop["SIZE"]) if crop["ENABLED"] and crop["TYPE"] == "absolute" else [0, 0],
    }


def _train(solver: Options) -> Options:
    steps = solver["MAX_ITER"]
    if not steps > 0:
        raise CheckpointError(f"official option SOLVER.MAX_ITER is {steps}; it must be at least 1")
    schedule = _SCHEDULES.get(solver["LR_SCHEDULER_NAME"], "step")
    clip = solver["CLIP_GRADIENTS"]
    found = {
        "train.steps": steps,
        "train.batch_size": solver["IMS_PER_BATCH"],
        "train.lr": solver["BASE_LR"],
        "train.backbone_lr_factor": solver["BACKBONE_MULTIPLIER"],
        "train.weight_decay": solver["WEIGHT_DECAY"],
        "train.clip_norm": clip["CLIP_VALUE"] if clip["ENABLED"] else 0.0,
        "train.schedule": schedule,
        "train.gamma": solver["GAMMA"],
        "train.power": solver["POLY_LR_POWER"],
        "train.warmup_steps": solver["WARMUP_ITERS"],
        "train.warmup_factor": solver["WARMUP_FACTOR"],
        "train.precision": "auto" if solver["AMP"]["ENABLED"] else "fp32",
        "distill.steps": steps,
    }
    if unlike := _unlike(solver):
        found["unlike"] = unlike
    if schedule == "step":
        found["train.milestones"] = [step / steps for step in solver["STEPS"]]
    return found


def _unlike(solver: Options) -> list[str]:
    """One sentence for each option of SOLVER that no recipe key takes over."""
    found = [
        f"SOLVER.{name}: {solver[name]} (gdseg trains with {' or '.join(map(str, known))})"
        for name, known in _ONLY.items()
        if solver.get(name, known[0]) not in known
    ]
    clip = solver["CLIP_GRADIENTS"]
    if clip["ENABLED"] and clip.get("CLIP_TYPE", "full_model") != "full_model":
        found.append(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: {clip['CLIP_TYPE']} (gdseg clips the whole model's norm)"
        )
    return found


def _distill(ssl: Options) -> Options:
    return {
        "distill.burn_in_steps": ssl["BURNIN_ITER"],
        "distill.ema_decay": ssl["EMA_DECAY"],
        "distill.repeat_threshold": 10.0 if ssl["TRAIN_SSL"] else None,  # forced by the official loop
    }
