"""Images of other than three channels, from training to pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import Result

Gdseg = Callable[..., Result]


def ok(result: Result) -> Result:
    assert result.exit_code == 0, result.exception
    return result


CHANNELS = 5


def test_from_training_to_pictures(gdseg: Gdseg, small_data: Path, tiny_settings: list[str]) -> None:
    """16-bit arrays; the network has as many inputs, its statistics are in their units."""
    for part in ("train", "val"):
        path = small_data / "annotations" / f"instances_{part}.json"
        document = json.loads(path.read_text())
        for image in document["images"]:
            old = small_data / part / image["file_name"]
            grey = np.asarray(Image.open(old).convert("L")).astype(np.uint16) * 200
            bands = [grey + 100 * band for band in range(CHANNELS)]
            image["file_name"] = f"{old.stem}.npy"
            np.save(old.with_suffix(".npy"), np.stack(bands, axis=-1))
            old.unlink()
        path.write_text(json.dumps(document))
    settings = [
        *(s for s in tiny_settings if not s.startswith("data.")),
        *("data.ratio=1.0", "data.workers=0", f"backbone.in_channels={CHANNELS}"),
        f"backbone.mean={[20000.0] * CHANNELS}",
        f"backbone.std={[15000.0] * CHANNELS}",
    ]
    report = json.loads(ok(gdseg("data", "inspect", small_data, "--json")).stdout)
    assert report["faults"] == []
    data = ("--data", small_data)
    ok(gdseg("pretrain", "-r", "shapes_maskdino", *data, "--out", "runs/T", "-q", *settings, "train.steps=2"))
    ok(
        gdseg(
            "distill", "--teacher", "runs/T", "--out", "runs/S", "-q", "--steps", 2, "distill.burn_in_steps=1"
        )
    )
    lines = [json.loads(line) for line in Path("runs/S/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines)
    ok(gdseg("predict", "runs/S", small_data / "val", "--out", "P", "-q", "--conf", 0.01))
    assert len(list(Path("P/overlay").glob("*.jpg"))) == 3
    ok(gdseg("visualize", small_data, "--out", "truth.png"))
    Image.new("RGB", (9, 9)).save("rgb.png")
    refused = gdseg("predict", "runs/S", "rgb.png", "--out", "R", "-q")
    assert "1 of 1 image could not be used" in str(refused.exception)
