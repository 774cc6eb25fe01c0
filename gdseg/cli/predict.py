"""`gdseg predict`: masks for images, folders and globs. Parse, ask gdseg.predict, write, say what failed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, out, print_json
from gdseg.cli.progress import progress
from gdseg.cli.run_options import inference_changes, say_last
from gdseg.errors import CheckpointError, DataError, UsageError
from gdseg.words import counted

if TYPE_CHECKING:
    from gdseg.predict import Predictor
    from gdseg.structures import Predictions

EXAMPLES = """Examples:

  gdseg predict photos/                                  the last run's best network

  gdseg predict runs/R 'photos/*.jpg' --conf 0.7 --out masks

  gdseg predict net.safetensors a.jpg --format labelme   polygons to edit

  gdseg predict large.tif --tile 1024 --overlap 200      piece by piece, joined into one

  gdseg predict photos/ --scales 0.75,1,1.5 --flip       several views of each image, averaged
"""
FORMATS = ("coco", "overlay", "png", "labelme", "yolo", "panoptic", "semantic")
FOREIGN = (".pth", ".pt", ".pkl", ".ckpt", ".bin")  # suffixes of weights that convert reads
MAIN = {"instance": "coco", "panoptic": "panoptic", "semantic": "semantic"}  # of each task


def command(
    context: typer.Context,
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[CKPT] IMAGES...",
            help="A .safetensors file or a run (default: the last run), then files, folders, globs.",
            show_default=False,
        ),
    ],
    conf: Annotated[
        float | None,
        typer.Option(
            "--conf",
            help="What is scored lower is left out of all files (default: 0.5; panoptic: the recipe's);"
            " 0 to score them with `gdseg eval --pred`.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help=f"{', '.join(FORMATS)}; may be given again (default: the task's, overlay)."
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Where the results go.", rich_help_panel=o.OUTPUT)
    ] = Path("predictions"),
    overwrite: o.OverwriteOpt = False,
    tile: o.TileOpt = None,
    overlap: o.OverlapOpt = None,
    scales: o.ScalesOpt = None,
    flip: o.FlipOpt = None,
    device: o.DeviceOpt = "auto",
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Find the objects (or segments, or classes) in images; write COCO files, maps and overlays."""
    unknown = [name for name in formats or [] if name not in FORMATS]
    if unknown:
        raise UsageError(f"'{unknown[0]}' is no format", "--format", f"one of {', '.join(FORMATS)}")
    checkpoint, names = split_checkpoint(arguments)
    if not names:
        raise UsageError("there is no image to look at", hint="gdseg predict [CKPT] IMAGES...")
    from gdseg.predict import iter_images
    from gdseg.runs import refuse_non_empty

    paths = list(iter_images(names))
    refuse_non_empty(folder, overwrite=overwrite)
    predictor = load(checkpoint, device, inference_changes(context.params), quiet=quiet)
    work = Work(predictor, paths, folder, wanted_formats(formats, predictor.network.recipe.task), conf)
    with progress("image", quiet=quiet or as_json) as tell:
        work.run(tell)
    work.report(as_json=as_json, quiet=quiet)
    raise_failed(work.failed, len(paths))


def raise_failed(failed: Sequence[tuple[Path, str]], images: int) -> None:
    """Raise DataError if one of the images could not be used; failed: which, and why."""
    if failed:
        path, reason = failed[0]
        what = f"{len(failed)} of {counted(images, 'image')} could not be used; first: {reason}"
        raise DataError(what, path, "leave it away")


def load(checkpoint: str | None, device: str, overrides: list[str], *, quiet: bool) -> Predictor:
    """The network to ask; where none is named that of the last run, which is said."""
    from gdseg.predict import load_model
    from gdseg.runs import find_checkpoint

    if checkpoint is None:
        say_last(find_checkpoint(None), quiet=quiet)
    return load_model(checkpoint, device, overrides)


def wanted_formats(given: list[str] | None, task: str) -> list[str]:
    """The formats to write, each once. Raises UsageError for the map of another task."""
    wanted = list(dict.fromkeys(given or [MAIN[task], "overlay"]))
    for name in wanted:
        if name in ("panoptic", "semantic") and name != task:
            hint = f"for this network: {MAIN[task]}, overlay and others"
            raise UsageError(f"--format {name} needs a {name} network, this one is {task}", "--format", hint)
    return wanted


def split_checkpoint(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The first argument is the checkpoint if it is a .safetensors file or a run directory.

    Raises CheckpointError when it is neither that nor anything else that exists: a mistyped run must
    not fall back to the last one; and for a checkpoint where images are expected.
    """
    chosen = arguments[:1] if arguments and _is_network(Path(arguments[0])) else []
    for word in arguments[len(chosen) :]:
        _refuse_network(Path(word), chosen)
    if chosen:
        return chosen[0], arguments[1:]
    first = Path(arguments[0]) if arguments else Path()
    mistyped = len(arguments) > 1 and not first.suffix and not first.exists() and "*" not in first.name
    if mistyped:
        raise CheckpointError("no such run, checkpoint or image", first, "without one, the last run is used")
    return None, arguments


def _is_network(path: Path) -> bool:
    is_run = path.is_dir() and ((path / "checkpoints").is_dir() or (path / "recipe.yaml").is_file())
    return path.suffix.lower() == ".safetensors" or is_run


def _refuse_network(path: Path, chosen: list[str]) -> None:
    """Raise CheckpointError for weights given as an image."""
    if _is_network(path):
        if chosen:
            raise CheckpointError(f"a second checkpoint; the first is {chosen[0]}", path, "give one of them")
        hint = f"name it first: {path}, then the images"
        raise CheckpointError("a checkpoint where an image is expected", path, hint)
    if path.suffix.lower() in FOREIGN:
        hint = f"gdseg convert {path} --out {path.stem}.safetensors; then give that file, before the images"
        raise CheckpointError("a checkpoint of another format, not an image", path, hint)


@dataclass
class Work:
    """One call of predict: what to do, and what came of it."""

    predictor: Predictor
    paths: list[Path]
    folder: Path
    formats: list[str]
    conf: float | None
    failed: list[tuple[Path, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    maps: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)

    def run(self, tell: Any) -> None:
        """Predict all images, one at a time, and write everything."""
        from gdseg.coco_json import PREDICTED, coco_document
        from gdseg.files import write_atomic, write_json
        from gdseg.map_writers import panoptic_document

        network = self.predictor.network
        root = common_root(self.paths)
        info = {
            "description": PREDICTED,
            "checkpoint": str(self.predictor.path),
            "conf": self.predictor.lowest_score(self.conf),
        }
        found = self._each(tell, root)
        document = coco_document(
            found, network.classes, network.category_ids, {**info, "images": str(root)}, root
        )
        if not document["images"]:  # an empty folder would only be in the way of the next call
            return
        if "coco" in self.formats:
            write_json(self.folder / "predictions.json", document, indent=None)
        if "panoptic" in self.formats:
            about = {**info, "images": str(root)}
            write_json(self.folder / "panoptic.json", panoptic_document(self.maps, network.table, about))
        if "yolo" in self.formats:
            write_atomic(
                self.folder / "yolo" / "classes.txt", "".join(f"{name}\n" for name in network.classes)
            )

    def _each(self, tell: Any, root: Path) -> Iterator[Predictions]:
        from dataclasses import replace

        from gdseg.data.images import read_image
        from gdseg.view.draw import displayable
        from gdseg.writers import WRITERS, unique_name

        channels = self.predictor.network.recipe.backbone.in_channels
        taken: set[str] = set()
        for number, path in enumerate(self.paths, 1):
            try:
                image = read_image(path, channels)
            except DataError as error:
                self.failed.append((path, error.what))
                err.print(f"skipped {path}: {error.what}", highlight=False, markup=False, soft_wrap=True)
                continue
            found = replace(self.predictor.predict_tensor(image, self.conf), path=path, image_id=str(path))
            name, pixels = unique_name(path, taken), displayable(image)
            for kind in self.formats:
                if kind in WRITERS:
                    WRITERS[kind](pixels, found, self.folder / kind, name)
            self._write_map(found, name, root)
            self.counts.update(found.names[label] for label in found.labels.tolist())
            tell(number, len(self.paths))
            yield found

    def _write_map(self, found: Predictions, name: str, root: Path) -> None:
        from gdseg.coco_json import file_name
        from gdseg.map_writers import write_panoptic, write_semantic

        table = self.predictor.network.table
        if "semantic" in self.formats:
            write_semantic(found, table, self.folder / "semantic", name)
        if "panoptic" in self.formats:
            image = {"file_name": file_name(found, root), "height": found.size[0], "width": found.size[1]}
            self.maps.append((image, write_panoptic(found, table, self.folder / "panoptic", name)))

    def report(self, *, as_json: bool, quiet: bool) -> None:
        """Say what was found and where it is."""
        done, objects = len(self.paths) - len(self.failed), sum(self.counts.values())
        where = self.folder if done else None
        if as_json:
            failed = [{"image": str(path), "error": what} for path, what in self.failed]
            summary = {
                "out": where and str(where),
                "images": done,
                "objects": objects,
                "classes": dict(self.counts),
            }
            print_json({**summary, "failed": failed})
        elif where and not quiet:
            kinds = ", ".join(f"{name} {count}" for name, count in self.counts.most_common(10))
            what = f"{counted(objects, 'object')} in {counted(done, 'image')}"
            none = not objects and self.predictor.network.recipe.task == "instance"
            lowest = self.predictor.lowest_score(self.conf)
            why = f" (none scored above {lowest:g}: lower --conf)" if none else ""
            text = f"{what}{': ' + kinds if kinds else ''}{why}; see {where}"
            out.print(text, highlight=False, markup=False, soft_wrap=True)


def common_root(paths: list[Path]) -> Path:
    """The deepest folder that holds all files."""
    parents = [str(path.absolute().parent) for path in paths]
    try:
        return Path(os.path.commonpath(parents))
    except ValueError:  # several drives
        return Path(parents[0])
