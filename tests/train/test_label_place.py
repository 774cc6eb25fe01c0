"""What the files of `gdseg pseudo-label` must not replace, and what of them is no image to label."""

from pathlib import Path

import pytest
from PIL import Image

from gdseg.errors import UsageError
from gdseg.train.label_place import MARK, is_sheet, refuse_maps, refuse_place, sheet_mark, without_own
from gdseg.writers import save_picture


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(path: str, *, ours: bool = False) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_picture(Image.new("RGB", (4, 4)), Path(path), sheet_mark() if ours else None)
    return Path(path)


def test_the_sheet_replaces_no_image_and_no_file_that_is_there() -> None:
    images, target = [picture("photos/0.png")], Path("photos/0.json")
    for replaces in (False, True):
        with pytest.raises(UsageError, match="would replace this image"):
            refuse_place(images, target, sheet=True, replaces=replaces)
    refuse_place(images, target, sheet=False, replaces=False)
    with pytest.raises(UsageError, match="a file that exists"):
        refuse_place([], target, sheet=True, replaces=False)
    refuse_place([], target, sheet=True, replaces=True)
    for name in ("lab.png", "lab", "photos/"):
        with pytest.raises(UsageError, match="are a json file"):
            refuse_place([], Path(name), sheet=True, replaces=True)


def test_own_files_are_no_images_to_label() -> None:
    photo, target = picture("photos/0.png"), Path("labels.json")
    own = [picture("labels.json.parts/maps/photos/0.png"), picture("labels/photos/0.png")]
    sheet = picture("labels.png", ours=True)
    assert without_own([photo, *own, sheet], target) == [photo, own[1]]
    Path("labels", MARK).touch()
    assert without_own([photo, *own, sheet], target) == [photo]
    with pytest.raises(UsageError, match="all the images are"):
        without_own(own, target)
    mine = picture("labels.png")
    assert without_own([photo, mine], target) == [photo, mine]
    assert not is_sheet(mine)
    assert not is_sheet(Path("none.png"))


def test_maps_go_into_no_folder_of_the_user() -> None:
    photo, target = picture("photos/a/0.png"), Path("photos.json")
    Path("link").symlink_to("photos", target_is_directory=True)
    for image in (photo, Path("link/a/0.png"), photo.absolute()):
        with pytest.raises(UsageError, match="a folder of the images"):
            refuse_maps([image], target, overwrite=True, half_done=True)
    for half_done in (False, True):
        with pytest.raises(UsageError, match="there already"):
            refuse_maps([], target, overwrite=True, half_done=half_done)
    Path("photos", MARK).touch()
    with pytest.raises(UsageError, match="there already"):
        refuse_maps([], target, overwrite=False, half_done=False)
    refuse_maps([], target, overwrite=True, half_done=False)
    refuse_maps([], target, overwrite=False, half_done=True)
    with pytest.raises(UsageError, match="there already"):
        refuse_maps([], Path("link.json"), overwrite=True, half_done=True)
