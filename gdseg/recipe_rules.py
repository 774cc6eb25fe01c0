"""Rules between recipe keys: what no single key can say. Called by `recipe_yaml` after reading."""

from collections.abc import Iterator

from gdseg.recipe import Recipe


def broken_rules(recipe: Recipe) -> list[str]:
    """One sentence for each contradiction in `recipe`; empty when it can run."""
    return [*_model_rules(recipe), *_data_rules(recipe), *_inference_rules(recipe), *_training_rules(recipe)]


def _model_rules(recipe: Recipe) -> Iterator[str]:
    backbone, pixel, decoder = recipe.backbone, recipe.pixel_decoder, recipe.decoder
    for section, part in (("pixel_decoder", pixel), ("decoder", decoder)):
        if part.channels % part.heads or part.channels % 4:
            yield f"{section}.channels ({part.channels}) must divide by 4 and by its heads ({part.heads})"
    for name in ("mean", "std"):
        if len(getattr(backbone, name)) != backbone.in_channels:
            yield f"backbone.{name} needs {backbone.in_channels} values, one for each of backbone.in_channels"
    if backbone.weights and backbone.pretrained:
        yield "backbone.weights and backbone.pretrained exclude each other"
    if "res5" not in pixel.inputs or len(set(pixel.inputs)) != len(pixel.inputs):
        yield "pixel_decoder.inputs must name res5 and no level twice"
    if recipe.postprocess.boxes == "head" and decoder.kind == "mask2former":
        yield "postprocess.boxes: head needs decoder.kind: maskdino, mask2former predicts no boxes"
    if recipe.distill.boxes == "head" and decoder.kind == "mask2former":
        yield "distill.boxes: head needs decoder.kind: maskdino, mask2former predicts no boxes"
    if recipe.distill.boxes == "head" and recipe.loss.boxes_relative_to != "padded":
        yield "distill.boxes: head needs loss.boxes_relative_to: padded, where they are mixed"
    if decoder.mask_prior != "none" and decoder.kind == "mask2former":
        yield "decoder.mask_prior needs decoder.kind: maskdino, mask2former predicts no boxes"
    if decoder.mask_prior != "none" and recipe.loss.boxes_relative_to != "padded":
        yield "decoder.mask_prior needs loss.boxes_relative_to: padded, the canvas that it draws on"
    if decoder.kind == "maskdino" and decoder.box_init != "none":
        if not decoder.initial_prediction:
            yield "decoder.box_init needs decoder.initial_prediction: true (its masks give the boxes)"
        if not decoder.two_stage:
            yield "decoder.box_init needs decoder.two_stage: true"


def _data_rules(recipe: Recipe) -> Iterator[str]:
    augment = recipe.augment
    for name in ("scale", "blur_sigma", "cutout_area"):
        low, high = getattr(augment, name)
        if low > high:
            yield f"augment.{name} must rise, not [{low}, {high}]"
    if augment.mode == "shortest_edge" and not augment.shortest:
        yield "augment.shortest is empty"
    low, high = augment.scale
    if augment.mode == "rescale" and not low <= augment.test_factor <= high:
        factor = f"augment.test_shortest / augment.canvas ({augment.test_factor:.3g})"
        yield f"{factor} must lie within augment.scale ({low:g} to {high:g}), which training sees"
    if recipe.data.split and recipe.data.ratio != 1.0:
        yield "data.split and data.ratio exclude each other"
    if recipe.data.label_weights != "none" and recipe.task != "instance":
        yield "data.label_weights needs task: instance; maps of labels have no weights"


def _inference_rules(recipe: Recipe) -> Iterator[str]:
    inference = recipe.inference
    if 0 < inference.tile < 32:
        yield f"inference.tile ({inference.tile}) must be at least 32 pixels, or 0: whole images"
    elif inference.tile and inference.shared > inference.tile // 2:
        half = f"half of inference.tile ({inference.tile})"
        yield f"inference.overlap ({inference.shared}) must not exceed {half}"
    if not inference.scales:
        yield "inference.scales is empty; [1.0] is the image as it is"
    if recipe.task == "panoptic" and len(inference.views) > 1:
        yield "inference.scales and inference.flip need task: instance or semantic"


def _training_rules(recipe: Recipe) -> Iterator[str]:
    train, distill = recipe.train, recipe.distill
    if train.batch_size % train.accumulate:
        yield f"train.batch_size ({train.batch_size}) must divide by train.accumulate ({train.accumulate})"
    if distill.unlabelled_batch_size % train.accumulate:
        yield f"distill.unlabelled_batch_size must divide by train.accumulate ({train.accumulate})"
    if recipe.task != "instance" and distill.mask_stride != 4:
        yield "distill.mask_stride needs task: instance; maps of pseudo-labels are made at stride 4"
    if recipe.task != "instance" and (distill.copy_paste or recipe.augment.copy_paste):
        yield "copy_paste needs task: instance"
    if recipe.augment.copy_paste and train.batch_size < 2:
        yield "augment.copy_paste needs train.batch_size: 2 or more"
    if distill.ignore_threshold and distill.ignore_threshold > distill.class_threshold:
        yield "distill.ignore_threshold must not exceed distill.class_threshold"
    if len(set(distill.looks)) < len(distill.looks):
        yield "distill.teacher_scales must not repeat; 1 is looked at in any case"
    if distill.final_steps >= distill.steps:
        yield "distill.final_steps must be fewer than distill.steps"
    if (distill.paste_pseudo or distill.cutmix) and distill.unlabelled_batch_size < 2:
        yield (
            "distill.paste_pseudo and distill.cutmix need distill.unlabelled_batch_size: 2 or more; "
            "for 1, set both to 0"
        )
    if bool(distill.feature_weight) != bool(distill.feature_backbone):
        yield "distill.feature_backbone and distill.feature_weight (above 0) need each other"
    if distill.feature_backbone and bool(distill.feature_weights) == distill.feature_pretrained:
        yield "distill.feature_backbone needs feature_weights or feature_pretrained, not both"
    if recipe.task == "semantic" and distill.pixel_margin:
        yield "distill.pixel_margin needs task: instance or panoptic, whose things have borders"
    if recipe.task == "semantic" and distill.thresholds != "fixed":
        yield "distill.thresholds are those of objects; task: semantic has distill.region_threshold"
    if recipe.task == "semantic" and distill.fallback == "raise":
        yield "distill.fallback: raise moves thresholds of objects, of which task: semantic has none"
    if distill.fallback == "raise" and distill.thresholds == "ema":
        yield "distill.fallback: raise needs distill.thresholds: fixed or prior, ema sets them at each step"
    if distill.fallback == "freeze" and not distill.alarm_agreement:
        yield "distill.fallback: freeze needs distill.alarm_agreement above 0, the warning that it answers"
    measured = {"instance": ("mask", "box"), "panoptic": ("pq",), "semantic": ("miou",)}[recipe.task]
    if train.best != "auto" and not train.best.startswith(measured):
        yield f"train.best: {train.best} is not measured for task: {recipe.task}; use auto"
