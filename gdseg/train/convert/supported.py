"""Official options whose other values gdseg has no part for: each is an error that names it.

Facts of detectron2 (Apache-2.0), Mask2Former (MIT) and Mask DINO (Apache-2.0). An option that is not given
has the value that is supported, as in every published configuration. What gdseg only trains otherwise
is in `options._ONLY`; what official code lacks, in `official_limits.py`. Called by `options.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gdseg.errors import CheckpointError
from gdseg.train.convert.records import Options

BOX_INIT = {"no": "none", "mask2box": "mask_to_box", "bitmask": "exact"}
DENOISING = {"no": "none", "standard": "box", "seg": "mask"}
NORMS = {"FrozenBN": "frozen", **dict.fromkeys(("BN", "SyncBN", "nnSyncBN", "naiveSyncBN"), "live")}
_SECTIONS: dict[str, dict[str, tuple[Any, ...]]] = {  # section -> option -> the values that gdseg has
    "SEM_SEG_HEAD": {
        "NAME": ("MaskFormerHead", "MaskDINOHead"),
        "NORM": ("GN",),
        "COMMON_STRIDE": (4,),
        "IN_FEATURES": (["res2", "res3", "res4", "res5"],),  # in any order: sorted by stride
    },
    "MASK_FORMER": {
        "TRANSFORMER_DECODER_NAME": ("MultiScaleMaskedTransformerDecoder",),
        "TRANSFORMER_IN_FEATURE": ("multi_scale_pixel_decoder",),
        "SIZE_DIVISIBILITY": (32,),
    },
    "MaskDINO": {
        "TRANSFORMER_DECODER_NAME": ("MaskDINODecoder",),
        "SIZE_DIVISIBILITY": (32,),
        "HIDDEN_DIM": (256,),  # official code embeds anchors in no other width
        "INITIALIZE_BOX_TYPE": tuple(BOX_INIT),
        "DN": tuple(DENOISING),
        "BOX_LOSS": (True,),
    },
    "RESNETS": {
        "NORM": tuple(NORMS),
        "STEM_TYPE": ("basic",),
        "RES4_DILATION": (1,),
        "RES5_DILATION": (1,),
    },
    "SWIN": {
        "APE": (False,),
        "PATCH_NORM": (True,),
        "QKV_BIAS": (True,),
        "QK_SCALE": (None,),
        "MLP_RATIO": (4.0,),
    },
}
_PIXEL_DECODERS = {"MaskFormerHead": "MSDeformAttnPixelDecoder", "MaskDINOHead": "MaskDINOEncoder"}
_BACKBONES = {"build_resnet_backbone": "RESNETS", "D2SwinTransformer": "SWIN"}


def check_supported(model: Options, own: str) -> None:
    """Raises CheckpointError for the first option of a MODEL node that asks for a part gdseg does not have.

    own: the decoder's section, MASK_FORMER or MaskDINO.
    """
    for section in ("SEM_SEG_HEAD", own, _BACKBONES.get(model["BACKBONE"]["NAME"], "")):
        for option, values in _SECTIONS.get(section, {}).items():
            _one_of(_plainly(model, section), f"{section}.{option}", values)
    head = model["SEM_SEG_HEAD"]
    _one_of(head, "SEM_SEG_HEAD.PIXEL_DECODER_NAME", (_PIXEL_DECODERS[head.get("NAME", "MaskFormerHead")],))
    deformed = model.get("RESNETS", {}).get("DEFORM_ON_PER_STAGE") or []
    if any(deformed) and model["BACKBONE"]["NAME"] == "build_resnet_backbone":
        raise _unsupported("RESNETS.DEFORM_ON_PER_STAGE", deformed, "none")
    levels = head["DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"]
    if own == "MASK_FORMER" and sorted(levels) != ["res3", "res4", "res5"]:
        raise _unsupported(
            "SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", levels, "three: res3 to res5"
        )


def _plainly(model: Options, section: str) -> Options:
    """A section with the options that official code itself puts into another form, in that form."""
    found = dict(model.get(section, {}))
    if "IN_FEATURES" in found:
        found["IN_FEATURES"] = sorted(found["IN_FEATURES"])
    if found.get("SIZE_DIVISIBILITY") == -1 and model["BACKBONE"]["NAME"] == "D2SwinTransformer":
        found["SIZE_DIVISIBILITY"] = 32  # the backbone's own
    return found


def _one_of(given: Mapping[str, Any], name: str, values: tuple[Any, ...]) -> None:
    option = name.partition(".")[2]
    value = given.get(option, values[0])
    value = list(value) if isinstance(value, tuple) else value
    if value not in values:
        raise _unsupported(name, value, " or ".join(map(str, values)))


def _unsupported(name: str, value: Any, known: str) -> CheckpointError:
    return CheckpointError(f"official option {name} is {str(value)[:80]!r}; gdseg has {known}")
