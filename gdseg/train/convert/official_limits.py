"""What of a recipe official code cannot do, so that a network does not silently predict something else there.

Facts of Mask2Former (MIT), Mask DINO (Apache-2.0): what they fix in code. How to train and how to decode is
not in a file of weights. The other way, what gdseg lacks of official options, is `supported.py` (parts) and
`options._ONLY` (training). Called by `tensors.py` and `files.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gdseg.recipe import Recipe
from gdseg.train.convert.shapes import HEADS, POINTS, SWINS, VITS

_FFN, _WIDTH = 1024, 256  # Mask2Former's encoder; Mask DINO's anchor embedding

_RESNET = re.compile(r"resnet(18|34|50|101|152)|resnext(50|101|152)_\d+x\d+d")


def inexpressible(recipe: Recipe) -> list[str]:
    """One sentence for each key whose value the official code has no option for."""
    common = [*_backbone(recipe), *_pixel_decoder(recipe)]
    own = _maskdino(recipe) if recipe.decoder.kind == "maskdino" else _mask2former(recipe)
    return [*common, *own]


def unsaid(recipe: Recipe) -> list[str]:
    """One sentence for each key by which our decoding of the same outputs differs from any official one."""
    post = recipe.postprocess
    found = []
    if post.mask_nms:
        found.append(f"postprocess.mask_nms: {post.mask_nms} (official code keeps duplicates)")
    if post.overlap_area != "won":
        found.append(f"postprocess.overlap_area: {post.overlap_area} (officially won)")
    if recipe.decoder.kind == "maskdino":
        if post.boxes != "head":
            found.append(f"postprocess.boxes: {post.boxes} (officially head)")
        if recipe.decoder.class_loss == "softmax" and post.softmax_score != "sigmoid":
            found.append(f"postprocess.softmax_score: {post.softmax_score} (officially sigmoid)")
    elif post.score != "class_mask":
        found.append(f"postprocess.score: {post.score} (officially class_mask)")
    return found


def _backbone(recipe: Recipe) -> Iterator[str]:
    backbone = recipe.backbone
    name = backbone.name.split(".")[0]  # timm's name of weights follows
    resnet = _RESNET.fullmatch(name)
    if not resnet and name not in [*SWINS.values(), *VITS.values()]:
        yield f"backbone.name: {name} (ResNet, Swin and some plain ViT)"
    if backbone.in_channels != 3 and not resnet:
        yield f"backbone.in_channels: {backbone.in_channels} (3 for anything but a ResNet)"
    if name in VITS.values() and backbone.pyramid != "nearest":
        yield f"backbone.pyramid: {backbone.pyramid} (always nearest)"


def _pixel_decoder(recipe: Recipe) -> Iterator[str]:
    pixel = recipe.pixel_decoder
    if pixel.points != POINTS:
        yield f"pixel_decoder.points: {pixel.points} (always {POINTS})"
    if pixel.extra_levels == 2 and pixel.extra_positions != "swapped":
        yield f"pixel_decoder.extra_positions: {pixel.extra_positions} (always swapped)"


def _mask2former(recipe: Recipe) -> Iterator[str]:
    pixel, decoder = recipe.pixel_decoder, recipe.decoder
    if pixel.ffn != _FFN and pixel.layers:
        yield f"pixel_decoder.ffn: {pixel.ffn} (always {_FFN})"
    if pixel.heads != decoder.heads:
        yield f"pixel_decoder.heads: {pixel.heads} (those of the decoder, {decoder.heads})"
    if sorted(pixel.inputs) != ["res3", "res4", "res5"] or pixel.extra_levels:
        yield f"pixel_decoder.inputs: {pixel.inputs} and {pixel.extra_levels} more (always res3, res4, res5)"
    if pixel.level_order != "coarse_first":
        yield f"pixel_decoder.level_order: {pixel.level_order} (always coarse_first)"


def _maskdino(recipe: Recipe) -> Iterator[str]:
    pixel, decoder = recipe.pixel_decoder, recipe.decoder
    if decoder.mask_prior != "none":
        yield f"decoder.mask_prior: {decoder.mask_prior} (officially none)"
    if decoder.channels != _WIDTH:
        yield f"decoder.channels: {decoder.channels} (always {_WIDTH})"
    for name, fixed in (("heads", HEADS), ("points", POINTS)):
        if getattr(decoder, name) != fixed:
            yield f"decoder.{name}: {getattr(decoder, name)} (always {fixed})"
    by_order = decoder.proposal_size == "order" or pixel.level_order == "coarse_first"
    if decoder.two_stage and not by_order:
        yield f"decoder.proposal_size: {decoder.proposal_size} (with fine_first always order)"
    if decoder.two_stage and decoder.class_loss == "softmax" and decoder.token_score != "all":
        yield f"decoder.token_score: {decoder.token_score} (always all)"
    if decoder.class_loss == "softmax" and recipe.task == "panoptic":
        yield "decoder.class_loss: softmax (focal for panoptic)"
