"""Any timm network as a pyramid: maps res2..res5 at strides 4, 8, 16 and 32. Called by `model.py`.

A network with stages gives its own maps; a plain ViT (one stride) gets the simple feature pyramid of ViTDet
(arXiv 2203.16527, §3). Swin follows official Mask2Former: windows also where the map is small, a norm on each
map. Letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from timm.layers.norm import LayerNorm2d
from timm.models.resnet import Bottleneck
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from gdseg.errors import CheckpointError, RecipeError
from gdseg.models.backbone_weights import load_backbone
from gdseg.models.pixel_decoder import LEVELS
from gdseg.recipe import Backbone as Options

STRIDES = [4, 8, 16, 32]
# what a family needs to take images of any size, by the timm file that defines it
_ANY_SIZE: dict[str, dict[str, Any]] = {
    "swin_transformer": {"strict_img_size": False, "always_partition": True},
    "swin_transformer_v2": {"strict_img_size": False, "always_partition": True},
    "vision_transformer": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
}
# families whose maps come out of a residual stream that nothing has normalised
_NORMED_OUTPUTS = ("swin_transformer", "convnext")


class Backbone(nn.Module):
    """Normalised images in, {"res2": [B, C, H/4, W/4], .., "res5": [B, C, H/32, W/32]} out."""

    def __init__(self, options: Options, load_weights: bool = True) -> None:
        super().__init__()
        self.frozen_norm = options.norm == "frozen"
        family = _family(options.name)
        self.body = _create(options, family, options.pretrained and load_weights)
        if options.stride_in_1x1:
            _stride_in_1x1(self.body, options.name)
        if options.weights and load_weights:
            load_backbone(self.body, options.weights, options.name, _ANY_SIZE.get(family, {}))
        info: Any = self.body.feature_info
        widths, strides = list(info.channels()), list(info.reduction())
        self.channels_last = "NHWC" in str(getattr(self.body, "output_fmt", ""))
        self.pyramid: SimplePyramid | NearestPyramid | None = None
        if strides != STRIDES:
            if len(set(strides)) != 1:
                what = f"backbone.name: {options.name} has maps at strides {strides}, not {STRIDES}"
                raise RecipeError(what, hint="choose a network with stages, or a plain ViT")
            kind = NearestPyramid if options.pyramid == "nearest" else SimplePyramid
            self.pyramid = kind(widths[-1], strides[-1])
            widths = self.pyramid.widths
            if kind is NearestPyramid and "dinov2" in options.name:
                body: Any = self.body
                body.model.__class__ = DinoTransformer
        self.channels: dict[str, int] = dict(zip(LEVELS, widths, strict=True))
        self.norms = nn.ModuleList(
            nn.LayerNorm(c) if self.channels_last else LayerNorm2d(c)
            for c in widths
            if family.startswith(_NORMED_OUTPUTS)
        )
        if options.freeze_stages:
            self._freeze(options.freeze_stages)
        if self.frozen_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)
        self.train()

    @property
    def trains_as_one(self) -> bool:
        """Whether, as officially, maps beside a plain ViT learn as slowly as it and its tokens decay."""
        return isinstance(self.pyramid, NearestPyramid)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images [B, C, H, W], normalised, H and W multiples of 32."""
        if self.pyramid is not None:
            maps = self.pyramid(self.body(self.pyramid.resize(images))[-1], images.shape[-2:])
        else:
            maps = self.body(images)
            maps = [norm(x) for norm, x in zip(self.norms, maps, strict=True)] if self.norms else maps
            maps = [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last else maps
        return dict(zip(LEVELS, maps, strict=True))

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, except for batch norms that are frozen: their statistics never move."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and self._fixed(module):
                module.eval()
        return self

    def _fixed(self, norm: _BatchNorm) -> bool:
        return self.frozen_norm or (norm.weight is not None and not norm.weight.requires_grad)

    def _freeze(self, stages: int) -> None:
        """Fix the first parameters: all before res2's (1), to the end of res2..res5 (2..5; ViT: quarters)."""
        names = [name for name, _ in self.body.named_parameters()]
        if self.pyramid is None:
            info: Any = self.body.feature_info
            modules = info.module_name()
            first = modules[0]
        else:
            depth = 1 + max(int(name.split(".")[2]) for name in names if name.startswith("model.blocks."))
            modules = [f"model.blocks.{depth * (i + 1) // 4 - 1}" for i in range(4)]
            first = "model.blocks.0"
        wanted = (first if stages == 1 else modules[stages - 2]).replace(".", "_") + "_"
        own = [i for i, name in enumerate(names) if name.replace(".", "_").startswith(wanted)]
        if not own:
            raise RecipeError("backbone.freeze_stages: this network does not name its stages")
        for parameter in list(self.body.parameters())[: own[0] if stages == 1 else own[-1] + 1]:
            parameter.requires_grad_(False)


class SimplePyramid(nn.Module):
    """Strides 4, 8, 16, 32 from a plain ViT's last map (ViTDet §3)."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.widths = [width // 4, width // 2, width, width]
        self.norm = LayerNorm2d(width)
        self.to4 = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 2, 2),
            LayerNorm2d(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, 2),
        )
        self.to8 = nn.ConvTranspose2d(width, width // 2, 2, 2)

    def resize(self, images: Tensor) -> Tensor:
        """So many pixels that the ViT's map is a sixteenth of the image: [B, C, H/16*patch, W/16*patch]."""
        if self.patch == 16:
            return images
        size = [n // 16 * self.patch for n in images.shape[-2:]]
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    def forward(self, x: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """[B, C, H/16, W/16] -> four maps of `widths` channels; size is the image's, (H, W)."""
        x = self.norm(x)
        return [self.to4(x), self.to8(x), x, F.max_pool2d(x, 2)]


class NearestPyramid(nn.Module):
    """Strides 4, 8, 16, 32 as official Guided Distillation has them: the ViT's last map, repeated.

    From the facts of its weights and a description of its wrapper; its code was not read, so what is around
    the ViT is proven in shapes and parameters only. A 1x1 convolution commutes with repeating pixels, so it
    goes first.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.widths = [128, 256, 512, 1024]
        self.norm = LayerNorm2d(width, eps=1e-6)
        self.convs = nn.ModuleList(nn.Conv2d(width, w, 1) for w in self.widths)

    def resize(self, images: Tensor) -> Tensor:
        """To whole patches by the nearest pixel; a size that fits also grows by a patch unless it is 16."""
        if self.patch == 16:
            return images
        size = [(n // self.patch + 1) * self.patch for n in images.shape[-2:]]
        return F.interpolate(images, size, mode="nearest")

    def forward(self, x: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """[B, C, h, w] -> [B, 128, H/4, W/4] .. [B, 1024, H/32, W/32] of an image of `size` (H, W)."""
        x = self.norm(x)
        sizes = [[n // stride for n in size] for stride in STRIDES]
        pairs = zip(self.convs, sizes, strict=True)
        return [F.interpolate(conv(x), at, mode="nearest") for conv, at in pairs]


class PaddedSwinBlock(SwinTransformerBlock):
    """Pads the map to whole windows before they are shifted, as official Swin for detection; timm, after."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        down, right = (-n % window for n, window in zip((height, width), self.window_size, strict=True))
        seen: Tensor = super()._attn(F.pad(x, (0, 0, 0, right, 0, down)))  # type: ignore[no-untyped-call]
        return seen[:, :height, :width]


class DinoTransformer(VisionTransformer):
    """A ViT whose position embeddings fit another grid as in DINOv2's own code (Apache-2.0), not as in timm.

    Bicubic without antialiasing, from a grid that counts as a tenth of a patch larger than it is.
    """

    def _pos_embed(self, x: Tensor) -> Tensor:
        """x [B, h, w, D] -> [B, 1 + h * w, D]."""
        B, h, w, D = x.shape
        whole: Any = self  # whose optional parts DINOv2 has
        grid, positions = whole.patch_embed.grid_size, whole.pos_embed
        if (h, w) != grid:
            pixels = positions[:, 1:].float().transpose(1, 2).unflatten(2, grid)
            scale = [(n + 0.1) / old for n, old in zip((h, w), grid, strict=True)]
            resized = F.interpolate(pixels, scale_factor=scale, mode="bicubic")
            resized = resized.flatten(2).transpose(1, 2).to(positions.dtype)
            positions = torch.cat((positions[:, :1], resized), 1)
        tokens = torch.cat((whole.cls_token.expand(B, -1, -1), x.reshape(B, h * w, D)), 1)
        placed: Tensor = whole.pos_drop(tokens + positions)
        return placed


def _stride_in_1x1(body: nn.Module, name: str) -> None:
    """Move the stride of each stage's first bottleneck from its 3x3 to its first 1x1 convolution."""
    bottlenecks = [m for m in body.modules() if isinstance(m, Bottleneck)]
    if not bottlenecks:
        raise RecipeError(f"backbone.stride_in_1x1: {name} has no bottleneck blocks")
    for block in bottlenecks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _family(name: str) -> str:
    """The timm file that defines `name`. Raises RecipeError, with the nearest names, when there is none."""
    try:
        return timm.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
    except (RuntimeError, KeyError) as error:
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"nearest: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise RecipeError(f"backbone.name: timm has no network '{name}'", hint=hint) from error


def _create(options: Options, family: str, pretrained: bool) -> nn.Module:
    """The timm feature extractor. Raises RecipeError or CheckpointError with timm's own words."""
    extra = dict(_ANY_SIZE.get(family, {}))
    if options.drop_path:
        extra["drop_path_rate"] = options.drop_path
    try:
        body: nn.Module = timm.create_model(
            options.name,
            pretrained=pretrained,
            features_only=True,
            out_indices=(-4, -3, -2, -1),
            in_chans=options.in_channels,
            **extra,
        )
    except (
        TypeError,
        AssertionError,
        IndexError,
        AttributeError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:
        if pretrained:
            hint = "without a network: backbone.pretrained=false, with backbone.weights=FILE if you have one"
            what = f"timm gave no weights for {options.name}: {error}"
            raise CheckpointError(what, "backbone.pretrained", hint) from error
        raise RecipeError(f"backbone.name: {options.name} cannot be used: {error}") from error
    if getattr(body, "pretrained_cfg", {}).get("fixed_input_size") and family not in _ANY_SIZE:
        raise RecipeError(f"backbone.name: {options.name} takes images of one size only")
    if options.checkpointing:
        target: Any = body if hasattr(body, "set_grad_checkpointing") else body.model
        target.set_grad_checkpointing(True)
    for module in body.modules():
        if type(module) is SwinTransformerBlock:
            module.__class__ = PaddedSwinBlock
        if isinstance(module, DropPath) and not options.drop_path:
            module.drop_prob = 0.0  # timm's own default is 0.1 for some
    return body
