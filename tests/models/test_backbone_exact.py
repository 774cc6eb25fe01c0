"""Our Swin (timm's, padded as in the official detection backbone) against the paper written out pixel by pixel.

arXiv 2103.14030 §3, and what official Mask2Former's `D2SwinTransformer` is known to do: maps padded with zeros to
whole windows after the first norm and before the shift, windows also where the map is smaller than one, the four
neighbours merged as (even, even), (odd, even), (even, odd), (odd, odd) of (row, column), norms with eps 1e-5, a norm
on each map that leaves. Float64, so nothing hides in rounding.
"""

import math

import torch
from torch.nn import functional as F

from gdseg.models.backbone import Backbone
from gdseg.recipe import Backbone as Options


def norm(x, state, name):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def linear(x, state, name):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def attend(window, state, name, heads, places):
    """Attention among the pixels of one window [P, C]; places: (row, column, region) of each pixel."""
    side = round(len(window) ** 0.5)
    q, k, v = linear(window, state, f"{name}.qkv").chunk(3, -1)
    table = state[f"{name}.relative_position_bias_table"]
    index = torch.tensor(
        [[(r - s + side - 1) * (2 * side - 1) + c - d + side - 1 for s, d, _ in places] for r, c, _ in places]
    )
    apart = torch.tensor([[a[2] != b[2] for b in places] for a in places])
    mixed = []
    for head, part in enumerate(zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)):
        qh, kh, vh = part
        scores = qh * qh.shape[-1] ** -0.5 @ kh.T + table[index, head]
        mixed.append(scores.masked_fill(apart, float("-inf")).softmax(-1) @ vh)
    return linear(torch.cat(mixed, -1), state, f"{name}.proj")


def block(x, state, name, heads, side, shift):
    """One block on a map [H, W, C]: attention in (shifted) windows, then the feed-forward part."""
    height, width, channels = x.shape
    high, wide = (-(-n // side) * side for n in (height, width))
    padded = x.new_zeros(high, wide, channels)
    padded[:height, :width] = norm(x, state, f"{name}.norm1")
    out = torch.empty_like(padded)
    # the map is rolled by `shift`; a window may then hold pixels from both ends, which must not meet
    for top in range(0, high, side):
        for left in range(0, wide, side):
            places, pixels = [], []
            for r in range(side):
                for c in range(side):
                    row, column = top + r + shift, left + c + shift
                    places.append((r, c, (row >= high, column >= wide)))
                    pixels.append((row % high, column % wide))
            rows, columns = torch.tensor(pixels).T
            out[rows, columns] = attend(padded[rows, columns], state, f"{name}.attn", heads, places)
    x = x + out[:height, :width]
    hidden = F.gelu(linear(norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
    return x + linear(hidden, state, f"{name}.mlp.fc2")


def merge(x, state, name):
    height, width, _ = x.shape
    x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
    four = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], -1)
    return linear(norm(four, state, f"{name}.norm"), state, f"{name}.reduction")


def test_swin_is_the_official_one():
    torch.manual_seed(0)
    ours = Backbone(Options(name="swin_tiny_patch4_window7_224", norm="live")).double().eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.dim() > 1 else 0.5)
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    state = {key.removeprefix("body."): value for key, value in ours.state_dict().items()}
    with torch.no_grad():
        found = ours(image)
        weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
        x = F.conv2d(image, weight, bias, stride=4)[0].permute(1, 2, 0)
        x = norm(x, state, "patch_embed.norm")
        for stage, (depth, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24), strict=True)):
            if stage:
                x = merge(x, state, f"layers_{stage}.downsample")
            for i in range(depth):
                x = block(x, state, f"layers_{stage}.blocks.{i}", heads, 7, 3 if i % 2 else 0)
            expected = norm(x, state, f"norms.{stage}").permute(2, 0, 1)
            torch.testing.assert_close(found[f"res{stage + 2}"][0], expected, rtol=1e-9, atol=1e-9)


def dino_positions(table, h, w):
    """DINOv2's position embeddings [N, D] of a square grid on h x w patches, pixel by pixel.

    Bicubic with a = -0.75, edges repeated; the new grid counts as a tenth of a patch more than it has.
    """
    side = round(len(table) ** 0.5)
    grid = table.view(side, side, -1)

    def neighbours(i, n):
        at = (i + 0.5) * side / (n + 0.1) - 0.5
        first = math.floor(at)
        for j in range(first - 1, first + 3):
            t = abs(at - j)
            weight = (1.25 * t - 2.25) * t * t + 1 if t <= 1 else -0.75 * (((t - 5) * t + 8) * t - 4)
            yield min(max(j, 0), side - 1), weight

    rows = [
        sum(u * v * grid[a, b] for a, u in neighbours(y, h) for b, v in neighbours(x, w))
        for y in range(h)
        for x in range(w)
    ]
    return torch.stack(rows)


def test_dinov2_is_the_official_one():
    """DINOv2's ViT (arXiv 2304.07193; its Apache-2.0 code's norms of 1e-6 and positions), and Guided Distillation's
    maps beside it: the image grows to one patch more than fits, its last map is repeated, 1x1 convolutions."""
    torch.manual_seed(0)
    options = Options(name="vit_small_patch14_dinov2", norm="live", pyramid="nearest")
    ours = Backbone(options).double().eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.05 if parameter.dim() > 1 else 0.5)
    with torch.no_grad():  # so small that the norms' eps matters
        model = ours.body.model
        for parameter in (
            *model.patch_embed.parameters(),
            *(p for k, p in model.named_parameters() if "gamma" in k),
        ):
            parameter.mul_(0.01)
        model.pos_embed.mul_(0.2)
    image = torch.randn(1, 3, 224, 64, dtype=torch.float64)
    state = {key.removeprefix("body.model."): value for key, value in ours.state_dict().items()}

    def layer_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    with torch.no_grad():
        found = ours(image)
        rows, columns = torch.arange(238) * 224 // 238, torch.arange(70) * 64 // 70
        grown = image[:, :, rows][:, :, :, columns]
        x = F.conv2d(grown, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
        x = x[0].flatten(1).T + dino_positions(state["pos_embed"][0, 1:], 17, 5)
        x = torch.cat((state["cls_token"][0] + state["pos_embed"][0, :1], x))
        for i in range(12):
            name = f"blocks.{i}"
            q, k, v = (
                linear(layer_norm(x, f"{name}.norm1"), state, f"{name}.attn.qkv").view(-1, 3, 6, 64).unbind(1)
            )
            scores = torch.einsum("qhd,khd->hqk", q, k) / 8
            mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)
            x = x + state[f"{name}.ls1.gamma"] * linear(mixed, state, f"{name}.attn.proj")
            hidden = F.gelu(linear(layer_norm(x, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
            x = x + state[f"{name}.ls2.gamma"] * linear(hidden, state, f"{name}.mlp.fc2")
        last = layer_norm(x[1:], "pyramid.norm").view(17, 5, -1)
        for i, stride in enumerate((4, 8, 16, 32)):
            h, w = 224 // stride, 64 // stride
            rows, columns = torch.arange(h) * 17 // h, torch.arange(w) * 5 // w
            weight, bias = state[f"pyramid.convs.{i}.weight"][:, :, 0, 0], state[f"pyramid.convs.{i}.bias"]
            expected = F.linear(last[rows][:, columns], weight, bias).permute(2, 0, 1)
            torch.testing.assert_close(
                found[f"res{i + 2}"][0], expected, rtol=1e-5, atol=1e-5
            )  # positions are float32


def test_dinov2_keeps_its_own_grid():
    """On the grid that its positions were trained for they are used as they are."""
    torch.manual_seed(0)
    body = Backbone(Options(name="vit_small_patch14_dinov2", norm="live", pyramid="nearest")).body.model
    x = torch.zeros(1, 37, 37, 384)
    torch.testing.assert_close(body._pos_embed(x)[:, 1:], body.pos_embed[:, 1:])


def test_resnet_stride_place():
    """stride_in_1x1 moves the stride of each stage's first block, and nothing else."""
    torch.manual_seed(0)
    plain, moved = (Backbone(Options(name="resnet50", stride_in_1x1=where)).eval() for where in (False, True))
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # timm starts the last one of a block at zero
    moved.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = plain(image), moved(image)
    assert torch.equal(ours["res2"], theirs["res2"])
    assert ours["res3"].shape == theirs["res3"].shape
    assert not torch.allclose(ours["res3"], theirs["res3"])
    block = moved.body.layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


def test_without_drop_path_training_is_evaluation():
    """timm's Swin drops paths unless told otherwise; drop_path: 0 is 0."""
    torch.manual_seed(0)
    ours = Backbone(Options(name="swin_tiny_patch4_window7_224", norm="live"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours.train()(image)["res5"], ours.eval()(image)["res5"])
    dropping = Backbone(Options(name="swin_tiny_patch4_window7_224", norm="live", drop_path=0.5)).train()
    with torch.no_grad():
        assert not torch.equal(dropping(image)["res5"], dropping(image)["res5"])
