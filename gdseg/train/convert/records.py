"""Options as read back from built official modules, put into the spelling of the MODEL node.

Such records come with reference data; users have yaml. Called by `convert.identify`.
"""

from __future__ import annotations

from typing import Any

Options = dict[str, Any]  # a node of an official configuration, or of a record


def as_config(options: Options) -> Options:
    """What was given (record, manifest, configuration, MODEL node) as a configuration with MODEL."""
    for key in ("config_resolved", "cfg_model", "options"):
        if isinstance(options.get(key), dict):
            options = options[key]
    if "pixel_decoder" in options and "decoder" in options:
        return _from_modules(options)
    return options if "MODEL" in options else {"MODEL": options}


def _from_modules(built: Options) -> Options:
    pixel, decoder, loss = built["pixel_decoder"], built["decoder"], built["loss"]
    dino = decoder["name"] == "MaskDINODecoder"
    head = {
        "NAME": built["head"]["name"],
        "NUM_CLASSES": built["head"]["num_classes"],
        "NORM": pixel["norm"],
        "COMMON_STRIDE": built["head"]["common_stride"],
        "PIXEL_DECODER_NAME": pixel["name"],
        "CONVS_DIM": pixel["conv_dim"],
        "MASK_DIM": pixel["mask_dim"],
        "TRANSFORMER_ENC_LAYERS": pixel["enc_layers"],
        "DIM_FEEDFORWARD": pixel["enc_ffn_dim"],
        "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": pixel["transformer_in_features"],
        "TOTAL_NUM_FEATURE_LEVELS": pixel["total_num_feature_levels"],
        "FEATURE_ORDER": pixel["feature_order"],
    }
    own = {**_decoder(pixel, decoder), **_loss(loss), "TEST": _test(built["inference"], dino)}
    model = {**_backbone(built), "SEM_SEG_HEAD": head, "MaskDINO" if dino else "MASK_FORMER": own}
    config = {"MODEL": model, "TEST": {"DETECTIONS_PER_IMAGE": built["inference"]["detections_per_image"]}}
    if "test" in built.get("datasets", {}):
        config["DATASETS"] = {"TEST": built["datasets"]["test"]}
    return config


def _decoder(pixel: Options, decoder: Options) -> Options:
    return {
        "NHEADS": pixel["enc_heads"],
        "DROPOUT": pixel["enc_dropout"],
        "HIDDEN_DIM": decoder["hidden_dim"],
        "NUM_OBJECT_QUERIES": decoder["num_queries"],
        "DIM_FEEDFORWARD": decoder["ffn_dim"],
        "DEC_LAYERS": decoder["dec_layers_in_config"],
        "PRE_NORM": decoder["pre_norm"],
        "ENFORCE_INPUT_PROJ": decoder["enforce_input_project"],
        "TWO_STAGE": decoder.get("two_stage"),
        "INITIAL_PRED": decoder.get("initial_pred"),
        "LEARN_TGT": decoder.get("learn_tgt"),
        "INITIALIZE_BOX_TYPE": decoder.get("initialize_box_type"),
        "DN": decoder.get("dn"),
        "DN_NUM": decoder.get("dn_num"),
        "DN_NOISE_SCALE": decoder.get("noise_scale"),
        "SEMANTIC_CE_LOSS": decoder.get("semantic_ce_loss"),
    }


def _loss(loss: Options) -> Options:
    weights, matcher = loss["weight_dict"], loss["matcher"]
    found = {
        "TRAIN_NUM_POINTS": loss["num_points"],
        "OVERSAMPLE_RATIO": loss["oversample_ratio"],
        "IMPORTANCE_SAMPLE_RATIO": loss["importance_sample_ratio"],
        "NO_OBJECT_WEIGHT": loss["no_object_weight"],
        "DEEP_SUPERVISION": loss["deep_supervision"],
        "PANO_BOX_LOSS": loss.get("pano_box_loss", False),
    }
    for ours, theirs in (
        ("CLASS", "ce"),
        ("MASK", "mask"),
        ("DICE", "dice"),
        ("BOX", "bbox"),
        ("GIOU", "giou"),
    ):
        found[f"{ours}_WEIGHT"] = weights.get(f"loss_{theirs}")
        found[f"COST_{ours}_WEIGHT"] = matcher.get(f"cost_{ours.lower()}")
    return found


def _test(inference: Options, dino: bool) -> Options:
    found = {
        "SEMANTIC_ON": inference["semantic_on"],
        "INSTANCE_ON": inference["instance_on"],
        "PANOPTIC_ON": inference["panoptic_on"],
        "OBJECT_MASK_THRESHOLD": inference["object_mask_threshold"],
        "OVERLAP_THRESHOLD": inference["overlap_threshold"],
        "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": inference["sem_seg_postprocess_before_inference"],
    }
    if dino:
        found["TEST_FOUCUS_ON_BOX"] = inference.get("test_focus_on_box", False)
        found["PANO_TRANSFORM_EVAL"] = inference.get("transform_eval", True)
        found["PANO_TEMPERATURE"] = inference.get("pano_temp", 0.06)
    return found


def _backbone(built: Options) -> Options:
    backbone, given = built["backbone"], built["input"]
    names: tuple[str, ...]
    model: Options = {
        "PIXEL_MEAN": given["pixel_mean"],
        "PIXEL_STD": given["pixel_std"],
        "BACKBONE": {"NAME": backbone["name"], "FREEZE_AT": backbone["freeze_at"]},
    }
    if backbone["kind"] == "resnet":
        names = (
            "depth",
            "norm",
            "num_groups",
            "width_per_group",
            "stride_in_1x1",
            "res4_dilation",
            "res5_dilation",
        )
        model["RESNETS"] = {name.upper(): backbone[name] for name in names}
        model["RESNETS"]["DEFORM_ON_PER_STAGE"] = backbone["deform_on_per_stage"]
    if backbone["kind"] == "swin":
        names = (
            "embed_dim",
            "depths",
            "window_size",
            "ape",
            "patch_norm",
            "qk_scale",
            "qkv_bias",
            "drop_path_rate",
        )
        model["SWIN"] = {name.upper(): backbone[name] for name in names}
    return model
