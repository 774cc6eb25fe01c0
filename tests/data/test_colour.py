"""Colour ops against Pillow, torchvision, SciPy and OpenCV's recorded SSD jitter."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from gdseg.data.colour import apply_colour, cut_out, draw_jitter, draw_ssd, gaussian_blur, strong_view
from gdseg.recipe import Augment

RNG = np.random.default_rng(0)
IMAGE = torch.from_numpy(RNG.integers(0, 256, (3, 24, 32), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_jitter_equals_pillow(name: str, enhance: type, factor: float) -> None:
    expected = np.asarray(enhance(Image.fromarray(IMAGE.permute(1, 2, 0).numpy())).enhance(factor))
    ours = apply_colour(IMAGE, [(name, factor)]).permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - expected.astype(int)).max() <= 1


def test_hue_turns_red_into_green_and_blue() -> None:
    red = torch.zeros(3, 2, 2, dtype=torch.uint8)
    red[0] = 200
    assert apply_colour(red, [("hue", 1 / 3)])[:, 0, 0].tolist() == [0, 200, 0]
    assert apply_colour(red, [("hue", -1 / 3)])[:, 0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_equals_scipy(sigma: float) -> None:
    image = torch.from_numpy(RNG.random((4, 9, 30)).astype(np.float32) * 1000)
    expected = gaussian_filter(
        image.double().numpy(),
        (0, sigma, sigma),
        mode="nearest",
        radius=(0, *[max(1, int(np.ceil(3 * sigma)))] * 2),
    )
    np.testing.assert_allclose(gaussian_blur(image, sigma).numpy(), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_any_channel_count_and_both_units(channels: int, dtype: torch.dtype) -> None:
    image = torch.from_numpy(RNG.integers(0, 256, (channels, 8, 7))).to(dtype) * (
        257 if dtype == torch.float32 else 1
    )
    augment = Augment(jitter_p=1.0, grey_p=1.0, blur_p=1.0, cutout_p=1.0)
    strong = strong_view(image, augment, np.random.default_rng(0))
    assert strong.shape == image.shape
    assert strong.dtype == dtype
    assert not torch.equal(strong, image)
    assert strong.min() >= 0
    assert strong.max() <= 65535


def test_probabilities_of_zero_change_nothing() -> None:
    augment = Augment(jitter_p=0.0, grey_p=0.0, blur_p=0.0, cutout_p=0.0)
    assert torch.equal(strong_view(IMAGE, augment, np.random.default_rng(0)), IMAGE)


def test_draws_stay_in_their_ranges() -> None:
    rng = np.random.default_rng(0)
    augment = Augment(jitter=[0.4, 0.3, 0.2, 0.1])
    orders = set()
    for _ in range(200):
        ops = dict(draw_jitter(augment, rng))
        orders.add(tuple(ops))
        assert 0.6 <= ops["brightness"] <= 1.4
        assert 0.7 <= ops["contrast"] <= 1.3
        assert 0.8 <= ops["saturation"] <= 1.2
        assert -0.1 <= ops["hue"] <= 0.1
    assert len(orders) == 24
    lengths = [len(draw_ssd(rng)) for _ in range(400)]
    assert np.mean(lengths) == pytest.approx(2.0, abs=0.2)


def test_cut_out_covers_the_stated_area_and_leaves_the_input_alone() -> None:
    image = torch.full((3, 100, 80), 9, dtype=torch.uint8)
    augment = Augment(cutout_count=1, cutout_area=[0.1, 0.1], pad_value=128)
    for seed in range(10):
        cut = cut_out(image, augment, np.random.default_rng(seed))
        assert (cut[0] == 128).float().mean() == pytest.approx(0.1, abs=0.01)
        assert torch.equal(cut[0], cut[1])
    assert image.eq(9).all()
