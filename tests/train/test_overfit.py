"""A tiny model of each kind learns four images by heart: everything between pixels and AP works together."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from gdseg.recipe_yaml import load_recipe
from gdseg.train.pretrain import pretrain

BY_HEART = [
    "data.ratio=1", "data.workers=0", "data.val=annotations/instances_train.json", "data.val_images=train",
    "augment.mode=fixed", "augment.canvas=[96, 96]", "augment.flip=0", "augment.test_shortest=96", "augment.test_longest=96",
    "backbone.name=mobilenetv3_small_050", "backbone.weights=null", "backbone.norm=live",
    "pixel_decoder.channels=32", "pixel_decoder.mask_channels=32", "pixel_decoder.layers=1", "pixel_decoder.ffn=64",
    "decoder.channels=32", "decoder.layers=2", "decoder.ffn=64", "decoder.queries=8", "decoder.denoising_queries=8",
    "decoder.box_init=none", "loss.points=512", "train.batch_size=4", "train.lr=3e-3", "train.backbone_lr_factor=1", "train.ema_decay=0",
    "train.log_every=50", "train.eval_every=0", "train.save_every=0", "train.warmup_steps=10",
]  # fmt: skip


@pytest.fixture
def four_images(tmp_path):
    """Two rectangles an image, class by brightness, on a dark ground."""
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    document = {
        "categories": [{"id": 1, "name": "grey"}, {"id": 2, "name": "white"}],
        "images": [],
        "annotations": [],
    }
    for i in range(4):
        pixels = np.full((96, 96, 3), 20, np.uint8)
        document["images"].append({"id": i, "file_name": f"{i}.png", "height": 96, "width": 96})
        for j, (x, y) in enumerate([(8 + 4 * i, 8), (40, 48 - 4 * i)]):
            width, height = 24 + 4 * i, 36
            pixels[y : y + height, x : x + width] = 120 + 120 * j
            document["annotations"].append({
                "id": 2 * i + j + 1, "image_id": i, "category_id": j + 1, "iscrowd": 0, "area": width * height,
                "bbox": [x, y, width, height], "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
            })  # fmt: skip
        Image.fromarray(pixels).save(tmp_path / "train" / f"{i}.png")
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["maskdino", "mask2former"])
def test_four_images_by_heart(four_images, decoder):
    recipe = load_recipe(f"shapes_{decoder}", [*BY_HEART, f"data.root={four_images}", "train.steps=300"])
    scores = pretrain(recipe, four_images / "run", torch.device("cpu"), quiet=True)
    assert scores["teacher"]["mask_ap"] >= 0.9
