"""Colour of the two views: brightness, contrast, saturation, hue, grey, blur, cut-out.

The strong view follows Guided Distillation §3.3 (SoftTeacher's list: jitter, grey, blur, cut-out);
the weak jitter is SSD's (arXiv 1512.02325 §2.2), which official Mask2Former uses on Cityscapes and
ADE20K. Images keep dtype and units: 0..255 for uint8, 0..65535 for float32. Hue, saturation and grey
need three channels and leave others as they are. Called by data/augment.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from gdseg.recipe import Augment

Op = tuple[str, float]
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def strong_view(image: Tensor, augment: Augment, rng: np.random.Generator) -> Tensor:
    """The strong view [C, H, W] of an image of the same shape: same geometry, other pixels."""
    if rng.random() < augment.jitter_p:
        image = apply_colour(image, draw_jitter(augment, rng))
    if rng.random() < augment.grey_p:
        image = apply_colour(image, [("saturation", 0.0)])
    if rng.random() < augment.blur_p:
        image = gaussian_blur(image, float(rng.uniform(augment.blur_sigma[0], augment.blur_sigma[1])))
    if rng.random() < augment.cutout_p:
        image = cut_out(image, augment, rng)
    return image


def draw_jitter(augment: Augment, rng: np.random.Generator) -> list[Op]:
    """Colour jitter in random order; factors within 1 +- strength, hue within +- strength turns."""
    brightness, contrast, saturation, hue = augment.jitter
    ops = [
        (name, float(rng.uniform(max(0.0, 1 - strength), 1 + strength)))
        for name, strength in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation))
    ]
    ops.append(("hue", float(rng.uniform(-min(hue, 0.5), min(hue, 0.5)))))
    return [ops[i] for i in rng.permutation(4)]


def draw_ssd(rng: np.random.Generator) -> list[Op]:
    """SSD's jitter: each op with probability 1/2, contrast before or after saturation and hue."""
    brightness = [("shift", float(rng.uniform(-32, 32)))]
    contrast = [("scale", float(rng.uniform(0.5, 1.5)))]
    colour = [("hsv_saturation", float(rng.uniform(0.5, 1.5))), ("hue", float(rng.integers(-18, 18)) / 180)]
    ops = brightness + (contrast + colour if rng.random() < 0.5 else colour + contrast)
    return [op for op in ops if rng.random() < 0.5]


def apply_colour(image: Tensor, ops: list[Op]) -> Tensor:
    """The ops in order, each clipped to the image's range; [C, H, W] -> same shape and dtype."""
    peak = _peak(image)
    x = image.float() / peak
    for name, value in ops:
        if len(x) == 3 or name not in _NEED_RGB:
            x = _OPS[name](x, value).clamp(0, 1)
    return _restore(x * peak, image.dtype)


def _peak(image: Tensor) -> float:
    return 255.0 if image.dtype == torch.uint8 else 65535.0


def _restore(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.round().to(dtype) if dtype == torch.uint8 else x.to(dtype)


def _grey(x: Tensor) -> Tensor:
    if len(x) != 3:
        return x.mean(0, keepdim=True)
    return (x * torch.tensor(_LUMA)[:, None, None]).sum(0, keepdim=True)


def _hsv_saturation(x: Tensor, factor: float) -> Tensor:
    """Scale HSV saturation, at the same hue and value: the distance of each channel to the largest one."""
    value = x.amax(0, keepdim=True)
    spread = value - x.amin(0, keepdim=True)
    most = torch.where(spread > 0, value / spread.clamp(min=1e-12), torch.ones_like(value))
    return value - (value - x) * torch.minimum(torch.full_like(most, factor), most)


_OPS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": lambda x, factor: x * factor,
    "contrast": lambda x, factor: torch.lerp(_grey(x).mean(), x, factor),
    "saturation": lambda x, factor: torch.lerp(_grey(x).expand_as(x), x, factor),
    "hue": lambda x, turns: tv.adjust_hue(x, turns),
    "shift": lambda x, amount: x + amount / 255,
    "scale": lambda x, factor: x * factor,
    "hsv_saturation": _hsv_saturation,
}
_NEED_RGB = {"saturation", "hue", "hsv_saturation"}


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [C, H, W] with `sigma` in pixels; two passes, borders repeated, cut at 3 sigma."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None, None]
    x = F.pad(image.float()[:, None], (reach, reach, reach, reach), mode="replicate")
    x = F.conv2d(F.conv2d(x, kernel), kernel.transpose(2, 3))
    return _restore(x[:, 0], image.dtype)


def cut_out(image: Tensor, augment: Augment, rng: np.random.Generator) -> Tensor:
    """`cutout_count` rectangles of the image's proportions become `pad_value` (Cutout, arXiv 1708.04552)."""
    image = image.clone()
    height, width = image.shape[-2:]
    for _ in range(augment.cutout_count):
        side = math.sqrt(rng.uniform(augment.cutout_area[0], augment.cutout_area[1]))
        h, w = max(1, round(side * height)), max(1, round(side * width))
        top, left = int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1))
        image[:, top : top + h, left : left + w] = augment.pad_value
    return image
