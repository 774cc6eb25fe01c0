"""Where the files of `gdseg pseudo-label` go, and what of the user's must not be there.

OUT.json, OUT.png (the contact sheet), OUT/ (label maps), OUT.json.parts/ (what is half done). The folder of
maps and the sheet carry marks, so that the user's own are told from them. Called by cli/pseudo_label.py,
label_folder.py and label_parts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gdseg.errors import UsageError

MARK = ".gdseg-pseudo-labels"  # a file in a folder of label maps
_KEY, _VALUE = "Software", "gdseg pseudo-label"  # text in the PNG of a sheet


def parts_folder(target: Path) -> Path:
    """Where the parts of a file of labels are kept."""
    return target.with_name(f"{target.name}.parts")


def maps_folder(target: Path) -> Path:
    """The folder of the label maps that a json tells of: of its name, beside it."""
    return target.with_suffix("")


def sheet_file(target: Path) -> Path:
    """The contact sheet."""
    return target.with_suffix(".png")


def sheet_mark() -> PngInfo:
    """What tells a contact sheet from a picture of the user's."""
    text = PngInfo()
    text.add_text(_KEY, _VALUE)
    return text


def is_sheet(path: Path) -> bool:
    """Whether a file is a contact sheet that this command wrote."""
    with suppress(Exception), Image.open(path) as picture:  # Pillow raises whatever a broken file leads to
        return picture.info.get(_KEY) == _VALUE
    return False


def is_maps(folder: Path) -> bool:
    """Whether this command made a folder of label maps."""
    return folder.is_dir() and not folder.is_symlink() and (folder / MARK).is_file()


def without_own(paths: Sequence[Path], target: Path) -> list[Path]:
    """The images without this command's own files: half-done and whole label maps, and the sheet.

    Raises UsageError where none is left.
    """
    own = [parts_folder(target).absolute()]
    own += [maps_folder(target).absolute()] if is_maps(maps_folder(target)) else []
    folders = {path.parent for path in paths}
    within = {folder for folder in folders if any(_is_in(folder, place) for place in own)}
    sheet = sheet_file(target) if is_sheet(sheet_file(target)) else None
    left = [p for p in paths if p.parent not in within and not (sheet is not None and _same(p, sheet))]
    if not left:
        raise UsageError("all the images are pseudo-labels of this --out", target, "name images to label")
    return left


def refuse_place(paths: Sequence[Path], target: Path, *, sheet: bool, replaces: bool) -> None:
    """Raise UsageError where the labels would not be a json, or the sheet would replace a file of the user's.

    sheet: one is asked for; replaces: the call may replace what is there, other than images to be labelled.
    """
    if target.suffix.lower() != ".json":
        raise UsageError("the labels are a json file", target, f"--out {target.stem or 'labels'}.json")
    picture = sheet_file(target)
    if not sheet or not picture.exists():
        return
    hint = "name another --out, or --sample 0 for no contact sheet"
    if picture.is_dir() or any(_same(path, picture) for path in paths):
        raise UsageError("the contact sheet would replace this image or folder", picture, hint)
    if not replaces and not (parts_folder(target).is_dir() and is_sheet(picture)):
        what = "the contact sheet would replace a file that exists"
        raise UsageError(what, picture, f"use --overwrite to replace it; {hint}")


def refuse_maps(paths: Sequence[Path], target: Path, *, overwrite: bool, half_done: bool) -> None:
    """Raise UsageError where the maps would go into a folder of the user's, or one that holds images.

    overwrite: maps that this command made may be replaced; half_done: or taken back by a call that goes on.
    """
    folder = maps_folder(target)
    if any(_is_in(parent, folder.absolute()) for parent in {path.parent for path in paths}):
        raise UsageError("the label maps would go into a folder of the images", folder, "name another --out")
    if folder.is_symlink() or (folder.exists() and not (is_maps(folder) and (overwrite or half_done))):
        what = "the label maps would go into a folder that is there already"
        raise UsageError(what, folder, "name another --out" + ", or use --overwrite" * is_maps(folder))


def _is_in(folder: Path, place: Path) -> bool:
    return folder.absolute().is_relative_to(place) or folder.resolve().is_relative_to(place.resolve())


def _same(path: Path, other: Path) -> bool:
    if path.name.lower() != other.name.lower():  # quickly, of many images
        return False
    try:
        return path.samefile(other)
    except OSError:
        return False
