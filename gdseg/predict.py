"""The Python API: `gdseg.load_model(path).predict(images)`. Also used by the CLI.

Images may be paths, Pillow images, arrays [H, W] or [H, W, C], tensors [C, H, W], in the units the
network was trained with (0..255 for 8-bit). One image is in memory at a time.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from gdseg.data.images import fit_channels, list_images, read_image, warn_of_units
from gdseg.data.rle import boxes_of, to_rle
from gdseg.device import resolve_device
from gdseg.errors import DataError
from gdseg.eval.maps import FoundMap
from gdseg.infer.image import infer_image, view_of
from gdseg.infer.run import forward
from gdseg.models.checkpoint import Network, load_network
from gdseg.recipe_yaml import apply_overrides
from gdseg.runs import find_checkpoint
from gdseg.structures import Batch, Outputs, Predictions, Record

ImageLike: TypeAlias = "str | Path | Image.Image | NDArray[Any] | Tensor"
_CONF = 0.5  # of instances, where the caller names none


@dataclass
class Predictor:
    """A network on a device, ready to be asked. `path` is the file it came from."""

    network: Network
    device: torch.device
    path: Path

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return self.network.classes

    @property
    def category_ids(self) -> list[int]:
        """The user's category id of each label."""
        return self.network.category_ids

    @overload
    def predict(self, images: ImageLike, conf: float | None = None) -> Predictions: ...

    @overload
    def predict(
        self, images: list[Any] | tuple[Any, ...], conf: float | None = None
    ) -> list[Predictions]: ...

    def predict(self, images: Any, conf: float | None = None) -> Predictions | list[Predictions]:
        """What is in an image, or a list of answers for a list of images, scored `conf` or higher.

        conf None: 0.5 for instances, `postprocess.object_threshold` for panoptic segments. Panoptic and
        semantic answers hold their map, and its regions as instances that do not overlap. Raises DataError
        for an image that cannot be read or has the wrong number of channels.
        """
        if isinstance(images, list | tuple):
            return [self.predict(image, conf) for image in images]
        path = Path(images) if isinstance(images, str | Path) else None
        image = as_tensor(images, self.network.recipe.backbone.in_channels)
        return replace(self.predict_tensor(image, conf), image_id=str(path) if path else "image", path=path)

    def predict_tensor(self, image: Tensor, conf: float | None = None) -> Predictions:
        """As `predict`, for a tensor [C, H, W] that has the network's channels."""
        network = self.network
        recipe, classes, lowest = network.recipe, len(network.classes), self.lowest_score(conf)
        warn_of_units(image, recipe.backbone.mean)
        if recipe.task == "panoptic":  # segments compete for pixels: the unsure ones must not take part
            recipe = replace(recipe, postprocess=replace(recipe.postprocess, object_threshold=lowest))
        found = infer_image(network.model, image, recipe, classes, self.device, network.things)
        if recipe.task == "instance":
            found = found.filter(lowest)
        else:
            found = segment_regions(found) if recipe.task == "panoptic" else class_regions(found)
        return replace(found, names=network.classes)

    def lowest_score(self, conf: float | None = None) -> float:
        """The score from which on `predict(.., conf)` tells of objects; semantic regions all score 1."""
        if conf is not None:
            return conf
        recipe = self.network.recipe
        return recipe.postprocess.object_threshold if recipe.task == "panoptic" else _CONF

    def outputs(self, image: Tensor, side: int = 0) -> tuple[Batch, Outputs]:
        """The network's raw outputs for a tensor [C, H, W], and the batch of one they are for.

        One look: tiles, scales and flip of the recipe's `inference` do not apply. side: that of the tiles of
        which the tensor is one.
        """
        warn_of_units(image, self.network.recipe.backbone.mean)
        batch = view_of(image, self.network.recipe.augment, side=side).to(self.device)
        return batch, forward(self.network.model, batch, self.network.recipe)


def load_model(
    path: str | Path | None = None, device: str = "auto", overrides: Sequence[str] = ()
) -> Predictor:
    """The network of a .safetensors file, of a run directory, or of the last run (None).

    overrides: other values of recipe keys, as "inference.tile=1024". Raises CheckpointError for a file that
    is not a network of gdseg, MachineError for a device that is not there, RecipeError for a wrong override.
    """
    file, chosen = find_checkpoint(path), resolve_device(device)
    network = load_network(file, chosen)
    network.recipe = apply_overrides(network.recipe, [*overrides])
    return Predictor(network, chosen, file)


def class_regions(found: Predictions) -> Predictions:
    """A semantic map's classes as one region each, with score 1, the largest first; the map stays."""
    assert found.semantic is not None
    labels, counts = torch.unique(found.semantic, return_counts=True)
    labels = labels[counts.argsort(descending=True)]
    return _regions(found, labels, torch.ones(len(labels)), [found.semantic == label for label in labels])


def segment_regions(found: Predictions) -> Predictions:
    """A panoptic map's segments as one region each, the surest first; the map stays."""
    assert found.panoptic is not None
    segments = sorted(found.segments or [], key=lambda segment: -segment["score"])
    labels = torch.tensor([segment["label"] for segment in segments], dtype=torch.int64)
    scores = torch.tensor([segment["score"] for segment in segments], dtype=torch.float32)
    return _regions(found, labels, scores, [found.panoptic == segment["id"] for segment in segments])


def map_regions(record: Record, found: FoundMap | None, names: list[str]) -> Predictions:
    """A map from a file as regions, whose scores are not known (NaN); None: nothing was found."""
    assert record.height is not None
    assert record.width is not None
    size = (record.height, record.width)
    none = Predictions(
        record.image_id, size, torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 4), [], names
    )
    if found is None:
        return none
    labels = {i: i for i in range(len(names))} if found.labels is None else found.labels
    present = [value for value in np.unique(found.values).tolist() if value in labels]
    masks = [torch.from_numpy(found.values == value) for value in present]
    scores = torch.full((len(present),), float("nan"))
    return _regions(none, torch.tensor([labels[value] for value in present]).long(), scores, masks)


def _regions(found: Predictions, labels: Tensor, scores: Tensor, masks: list[Tensor]) -> Predictions:
    rles = [to_rle(mask) for mask in masks]
    return replace(found, labels=labels, scores=scores, boxes_xyxy_px=boxes_of(rles), rles=rles)


def as_tensor(image: ImageLike, in_channels: int) -> Tensor:
    """[in_channels, H, W] in raw units: uint8, or float32 for other numbers. Raises DataError."""
    if isinstance(image, str | Path):
        return read_image(Path(image), in_channels)
    if isinstance(image, Image.Image):
        array = _pillow_array(image, in_channels)
    elif isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "uif":
        raise DataError(
            f"not an image: {array.dtype} {list(array.shape)}",
            hint="give arrays [H, W] or [H, W, C] or tensors [C, H, W], in 0..255 for 8-bit images",
        )
    array = array if array.dtype == np.uint8 else array.astype(np.float32)
    array = fit_channels(array.reshape(*array.shape[:2], -1), in_channels, Path("(image in memory)"))
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _pillow_array(image: Image.Image, in_channels: int) -> NDArray[Any]:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        return np.asarray(upright, dtype=np.float32)
    mode = {1: "L", 3: "RGB"}.get(in_channels)
    return np.asarray(upright if mode is None else upright.convert(mode))


def iter_images(names: Iterable[str | Path]) -> Iterator[Path]:
    """The image files that names mean: files, folders (searched through) and globs; each once, in order.

    Raises DataError for a name of nothing, a folder without images and a glob without matches; whether a
    file is an image shows when it is read.
    """
    seen = set[Path]()
    for name in names:
        for path in _expand(Path(name).expanduser()):
            if path.absolute() not in seen:
                seen.add(path.absolute())
                yield path


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found = list_images(path)
        if not found:
            raise DataError(
                "the folder holds no image", path, "jpg, png, webp, bmp, tif and npy files are looked for"
            )
        return found
    if path.exists() or path.is_symlink():  # a link to nothing is said when it is read, as in a folder
        return [path]
    if not glob.has_magic(str(path)):
        raise DataError("no such file or folder", path, "check the name")
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    if not matches:
        raise DataError("nothing matches", path, "check the pattern")
    return [file for match in matches for file in (list_images(match) if match.is_dir() else [match])]
