"""What all tests share: one thread (so that results are repeatable), no display, and the reference data."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gdseg.recipe import Recipe
from gdseg.recipe_yaml import load_recipe

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
SHARED = Path(os.environ.get("GDSEG_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of golden vectors and real data; tests that need it are skipped where it is missing."""
    if not (SHARED / "reference").is_dir():
        pytest.skip("the reference data (GDSEG_SHARED) is not on this machine")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing a test makes lands in the user's cache."""
    os.environ["GDSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built-in data set of 12 + 4 images of 64 pixels."""
    from gdseg.data.shapes import ShapesOptions, make_shapes

    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(train=12, val=4, size=64))
    return folder


@pytest.fixture
def tiny_recipe(tiny_data: Path) -> Callable[..., Recipe]:
    """tiny_recipe("mask2former", "train.steps=3") -> a recipe that trains in a second."""

    def make(decoder: str = "maskdino", *overrides: str) -> Recipe:
        return load_recipe(f"shapes_{decoder}", [*TINY, f"data.root={tiny_data}", *overrides])

    return make


TINY = [
    "data.ratio=0.5", "data.workers=0", "augment.canvas=[64, 64]", "augment.test_shortest=64", "augment.test_longest=96",
    "backbone.name=mobilenetv3_small_050", "backbone.weights=null", "backbone.norm=live",
    "pixel_decoder.channels=32", "pixel_decoder.mask_channels=32", "pixel_decoder.layers=1", "pixel_decoder.ffn=32",
    "decoder.channels=32", "decoder.layers=2", "decoder.ffn=32", "decoder.queries=10", "decoder.denoising_queries=10",
    "loss.points=64", "train.batch_size=2", "train.steps=4", "train.log_every=1", "train.save_every=0", "train.eval_every=0",
    "distill.unlabelled_batch_size=2", "distill.steps=6", "distill.burn_in_steps=2", "distill.class_threshold=0.05", "distill.ignore_threshold=0",
    "distill.teacher_flip=false",
]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_settings() -> list[str]:
    """Overrides that make any shipped recipe of the built-in data train in a second."""
    return list(TINY)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mask DINO of two classes (cat 5, dog 9) with random weights, for tests that need some network."""
    import torch

    from gdseg.models.checkpoint import Network, save_network
    from gdseg.models.model import build_model

    torch.manual_seed(0)
    recipe = load_recipe("shapes_maskdino", TINY)
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    save_network(Network(build_model(recipe, 2), recipe, ["cat", "dog"], [5, 9]), path)
    return path
