"""What a recorded run of guided distillation says of itself, in its manifest's words, read or refused."""

import re
from dataclasses import dataclass

import pytest
from golden_cases import Case

_IMAGE = re.compile(r"image\((\d+)(?:\+(\d+)\*it)?(?:, ?(\d+), ?(\d+))?\)(?: (\d+) targets)?")
_TOLD = {  # options of the command line that no tensor tells -> recipe keys
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": "loss.points",
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": "loss.oversample",
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": "loss.importance",
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": "loss.no_object",
    "MODEL.MASK_FORMER.PRE_NORM": "decoder.pre_norm",
    "MODEL.MASK_FORMER.NHEADS": "decoder.heads",
    "MODEL.MASK_FORMER.CLASS_WEIGHT": "loss.class_weight",
    "MODEL.MASK_FORMER.MASK_WEIGHT": "loss.mask_weight",
    "MODEL.MASK_FORMER.DICE_WEIGHT": "loss.dice_weight",
    "MODEL.RESNETS.STRIDE_IN_1X1": "backbone.stride_in_1x1",
}
_SHAPES = {  # the last words of options that tensors tell, or that no loss depends on
    "DEPTH",
    "RES2_OUT_CHANNELS",
    "CONVS_DIM",
    "MASK_DIM",
    "TRANSFORMER_ENC_LAYERS",
    "HIDDEN_DIM",
    "DIM_FEEDFORWARD",
    "DEC_LAYERS",
    "NUM_OBJECT_QUERIES",
    "NUM_CLASSES",
    "NORM",
    "FREEZE_AT",
    "EMBED_DIM",
    "DEPTHS",
    "NUM_HEADS",
    "WINDOW_SIZE",
    "DETECTIONS_PER_IMAGE",
}


@dataclass
class Images:
    """Seeds at iteration 0 and their step, sizes (height, width) and numbers of targets, image by image."""

    seeds: list[int]
    steps: list[int]
    sizes: list[tuple[int, int]]
    counts: list[int]

    def at(self, iteration: int) -> list[int]:
        return [seed + step * iteration for seed, step in zip(self.seeds, self.steps, strict=True)]


def recorded_images_of(words: str) -> Images:
    """`image(SEED+STEP*it,H,W) N targets, ..`, or without sizes and `HxW` for all of them."""
    words = words.split(";")[0]
    found = _IMAGE.findall(words)
    common = re.search(r"\b(\d+)x(\d+)\b", words)
    if not found or not (common or all(height for _, _, height, _, _ in found)):
        pytest.fail(f"cannot read which images the run had: {words!r}")
    shared = common.groups() if common else ()
    sizes = [(int(h or shared[0]), int(w or shared[1])) for _, _, h, w, _ in found]
    seeds, steps, counts = ([int(row[i] or 0) for row in found] for i in (0, 1, 4))
    return Images(seeds, steps, sizes, counts)


def strong_shift(words: str) -> int:
    """How much larger the seeds of strongly augmented images are."""
    return int(_number(r"image_aug = image\(seed\+(\d+)\)", words))


def learning_rate(words: str) -> float:
    """That of plain SGD, the only optimiser whose steps this harness repeats."""
    if not all(word in words for word in ("SGD", "no momentum", "no clipping")):
        pytest.fail(f"the run's optimiser is not plain SGD without clipping: {words!r}")
    return float(_number(r"lr ([\d.e+-]+)", words))


def _number(pattern: str, words: str) -> str:
    found = re.search(pattern, words)
    if not found:
        pytest.fail(f"no {pattern} in the manifest's {words!r}")
    return found[1]


def told(case: Case) -> dict:
    """Recipe keys that the command line set and no tensor tells; any other option is a failure."""
    given = case.manifest.get("opts") or []
    found = {}
    for option, value in zip(given[::2], given[1::2], strict=True):
        if option in _TOLD:
            found[_TOLD[option]] = value
        elif option.rpartition(".")[2] not in _SHAPES:
            pytest.fail(f"the run was made with {option}: {value}, which this harness does not know")
    return found


def family_of(case: Case) -> str:
    """The name under which the recipe of weights knows the network; only m2f's draws are in a known order."""
    dino = any(entry["key"].endswith("predictor.label_enc.weight") for entry in case.manifest["state_dict"])
    family = (
        case.manifest.get("family") or case.manifest["setup"].get("family") or ("mdino" if dino else "m2f")
    )
    if family != "m2f":
        pytest.fail(f"draws of a run of {family} are recorded in an order that this harness does not know")
    return family


def decays(case: Case) -> list[tuple[float, str]]:
    """(decay, record after it) of the moving average, in the order in which they were applied."""
    names = {key.split("|")[1] for key in case.arrays if key.startswith("ema|teacher_after_")}
    ordered = sorted(names, key=lambda name: "then" in name)
    if not ordered:
        pytest.fail("no moving average is recorded")
    return [(float(name.rpartition("_")[2]), name) for name in ordered]
