"""gdseg pseudo-label of many images: gone on with exactly, sharded, kept by a rule file, judged by a truth."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import Result

from gdseg import lock
from gdseg.coco_json import coco_document
from gdseg.data.coco import load_coco
from gdseg.data.images import read_image
from gdseg.data.rle import to_rle
from gdseg.errors import DataError, InterruptedRun, RecipeError, UsageError
from gdseg.files import write_json
from gdseg.predict import load_model
from gdseg.recipe import Distill
from gdseg.train import label_folder, label_run
from gdseg.train.keep import Keep
from gdseg.train.label_entry import Labeller, Order
from gdseg.train.label_images import label_image
from gdseg.train.label_parts import Parts

Gdseg = Callable[..., Result]
LOW = ["distill.min_area=0", "--conf", "0.005"]
COUNT = 7
NONE = [b'{"n": 99, "failed": "x"}', b"[]", b"xx", b'{"n": "a"}', b'{"n": 0}', b'{"n": 1, "best": null}']
NONE += [b'{"n": 2, "best": 0.5}', b'{"n": 2, "best": 0.5, "image": {}, "annotations": [{"score": null}]}']


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images of 40 x 32 pixels, in two folders, the third one broken."""
    for i in range(COUNT):
        pixels = np.random.default_rng(i).integers(0, 255, (32, 40, 3), dtype=np.uint8)
        path = tmp_path / "photos" / f"{'ab'[i % 2]}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "photos" / "a" / "4.png").write_bytes(b"no image")
    return tmp_path / "photos"


def labels(gdseg: Gdseg, photos: Path, *more: Any, out: str = "labels.json") -> Result:
    return gdseg("pseudo-label", "runs/R", photos, *LOW, "--jobs", 1, "--out", out, *more)


@pytest.fixture
def whole(gdseg: Gdseg, small_run: Path, photos: Path) -> tuple[bytes, bytes]:
    """The labels and the contact sheet of a call that nothing interrupted."""
    assert isinstance(labels(gdseg, photos, out="whole.json").exception, DataError)  # a broken image
    assert not Path("whole.json.parts").exists()
    return Path("whole.json").read_bytes(), Path("whole.png").read_bytes()


def written(name: str = "labels") -> tuple[bytes, bytes]:
    assert not Path(f"{name}.json.parts").exists()
    return Path(f"{name}.json").read_bytes(), Path(f"{name}.png").read_bytes()


def test_the_file_is_the_document_made_in_memory(
    whole: tuple[bytes, bytes], small_run: Path, photos: Path
) -> None:
    """The streamed file against the same labels, put together at once by the writer of `gdseg predict`."""
    from dataclasses import replace

    predictor = load_model(small_run, "cpu")
    rule = replace(predictor.network.recipe.distill, min_area=0.0, class_threshold=0.005)
    paths = sorted(path for path in photos.rglob("*.png") if path.name != "4.png")
    found = [replace(label_image(predictor, read_image(path), rule)[0], path=path) for path in paths]
    info = json.loads(whole[0])["info"]
    write_json(Path("x.json"), coco_document(found, ["cat", "dog"], [5, 9], info, photos), indent=None)
    assert Path("x.json").read_bytes() == whole[0]
    assert sum(map(len, found)) > 0


@pytest.mark.parametrize("at", [0, 3, 6])
def test_interrupted_anywhere_the_same_command_goes_on(
    gdseg: Gdseg, whole: tuple[bytes, bytes], photos: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    calls: list[int] = []
    entry = Labeller.entry

    def stop(self: Labeller, n: int, path: Path, *, shown: bool) -> dict[str, Any]:
        calls.append(n)
        if len(calls) == at + 1:
            os.kill(os.getpid(), signal.SIGTERM if at % 2 else signal.SIGINT)
            time.sleep(5)
        return entry(self, n, path, shown=shown)

    monkeypatch.setattr(Labeller, "entry", stop)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        error = labels(gdseg, photos).exception
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(error, InterruptedRun)
    assert error.exit_code == 130
    assert error.hint == "go on with the same command"
    assert error.what == f"{at} of 7 images labelled"
    assert not Path("labels.json").exists()
    made = len(calls)
    assert isinstance(labels(gdseg, photos).exception, DataError)
    assert len(calls) - made <= COUNT - at + 1  # the broken one is tried again
    assert written() == whole


def test_a_part_torn_at_any_byte_is_gone_on_with(
    gdseg: Gdseg, whole: tuple[bytes, bytes], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kill -9 and a full disk leave it: the line that is not whole is made again."""
    monkeypatch.setattr(label_folder, "summarise", interrupt)
    assert isinstance(labels(gdseg, photos).exception, KeyboardInterrupt | SystemExit)
    monkeypatch.undo()
    os.chdir(photos.parent)
    part = Path("labels.json.parts/1-of-1.jsonl")
    text, about = part.read_bytes(), Path("labels.json.parts/about.json").read_bytes()
    ends = [i + 1 for i, byte in enumerate(text) if byte == ord("\n")]
    for cut in (0, 1, ends[0], ends[2] - 1, ends[4] + 9, len(text) - 1):
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(text[:cut])
        (part.parent / "about.json").write_bytes(about)
        assert isinstance(labels(gdseg, photos).exception, DataError)
        assert written() == whole
        Path("labels.json").unlink()
    part.parent.mkdir()
    (part.parent / "about.json").write_bytes(about)
    part.write_bytes(b"".join(line + b"\n" for line in NONE) + text)
    assert isinstance(labels(gdseg, photos).exception, DataError)
    assert written() == whole


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_killed_while_the_files_are_written(
    gdseg: Gdseg, whole: tuple[bytes, bytes], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The json may be there already: it is the call's own, and written again."""
    for name in ("write_document", "save_picture"):
        monkeypatch.setattr(label_folder, name, interrupt)
        assert labels(gdseg, photos).exit_code != 0
        monkeypatch.undo()
        os.chdir(photos.parent)
    assert Path("labels.json").exists()
    assert isinstance(labels(gdseg, photos).exception, DataError)
    assert written() == whole


def test_several_processes_then_one(
    gdseg: Gdseg, whole: tuple[bytes, bytes], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes are stopped after three images; one goes on, with the same result."""
    append, begun = Parts.append, list[int]()

    def stop(self: Parts, entry: dict[str, Any]) -> None:
        append(self, entry)
        begun.append(entry["n"])
        if len(begun) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "append", stop)
    assert isinstance(labels(gdseg, photos, "--jobs", 2).exception, InterruptedRun)
    assert multiprocessing.active_children() == []
    monkeypatch.undo()
    os.chdir(photos.parent)
    assert isinstance(labels(gdseg, photos, "--jobs", 1).exception, DataError)
    assert written() == whole


def test_a_process_ends_with_the_one_that_gave_it_work(
    small_run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after kill -9 of the parent: its end of the pipe is closed."""
    monkeypatch.setattr(os, "setsid", lambda: None, raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    network = load_model(small_run, "cpu").path
    order = Order(network, "cpu", Distill(class_threshold=0.0), None, None, photos, photos)
    ours, theirs = multiprocessing.Pipe()
    process = threading.Thread(target=label_run._child, args=(theirs, order))
    process.start()
    for n, name in ((1, "b/1.png"), (4, "a/4.png")):
        ours.send((n, photos / name, False))
        entry = ours.recv()
        assert entry["n"] == n
        assert ("failed" in entry) == (n == 4)
    ours.close()
    process.join(60)
    assert not process.is_alive()


def test_shards_are_put_together_by_the_command_without(
    gdseg: Gdseg, whole: tuple[bytes, bytes], photos: Path
) -> None:
    first = labels(gdseg, photos, "--shard", "1/3")
    assert first.exit_code == 0, first.exception
    assert "shard 1/3 is done; 4 images of other shards to do" in first.stderr
    assert not Path("labels.json").exists()
    os.rename("labels.json.parts", "one")  # shards on other machines, their folders copied into one
    assert json.loads(labels(gdseg, photos, "--shard", "3/3", "--json").stdout) == {
        "shard": "3/3",
        "missing": 5,
    }
    assert labels(gdseg, photos, "--shard", "2/3").exit_code == 0
    os.rename("one/1-of-3.jsonl", "labels.json.parts/1-of-3.jsonl")
    again = labels(gdseg, photos, "--shard", "2/3").stderr
    assert "none to do" in again
    assert "all are done" in again
    assert isinstance(labels(gdseg, photos).exception, DataError)
    assert written() == whole


def test_a_missing_shard_is_labelled_by_the_command_without(
    gdseg: Gdseg, whole: tuple[bytes, bytes], photos: Path
) -> None:
    assert labels(gdseg, photos, "--shard", "2/2").exit_code == 0
    result = labels(gdseg, photos)
    assert isinstance(result.exception, DataError)
    assert "labelled already: 3 of 7 images, 4 to do" in result.stderr
    assert written() == whole


def test_another_command_does_not_go_on(
    gdseg: Gdseg, whole: tuple[bytes, bytes], small_run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert labels(gdseg, photos, "--shard", "1/2").exit_code == 0
    for words, said in (
        ((photos, *LOW, "distill.mask_nms=0.5"), "rule (mask_nms)"),
        ((photos / "a", *LOW), "list of images"),
        ((photos, *LOW, "--sample", 3), "--sample"),
    ):
        error = gdseg("pseudo-label", "runs/R", *words).exception
        assert isinstance(error, UsageError)
        assert f"labels of another {said} are half done here" in error.what
    Path("keep.yaml").write_text("min_pixels: 1")
    assert "--keep file" in str(labels(gdseg, photos, "--keep", "keep.yaml").exception)
    with (small_run / "checkpoints" / "best.safetensors").open("ab") as file:
        file.write(b"")
    Path("labels.json").write_text("mine")
    assert "the file exists, and half-done" in str(labels(gdseg, photos).exception)
    assert "would delete what other shards" in str(
        labels(gdseg, photos, "--shard", "1/2", "--overwrite").exception
    )
    other = gdseg("pseudo-label", "runs/R", photos / "b", *LOW, "--overwrite")
    assert other.exit_code == 0, other.exception
    assert len(json.loads(Path("labels.json").read_text())["images"]) == 3


def test_overwriting_is_gone_on_with_too(
    gdseg: Gdseg, whole: tuple[bytes, bytes], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("labels.json").write_text("old")
    monkeypatch.setattr(label_run, "_labelled", lambda *_: (interrupt() for _ in range(1)))
    error = labels(gdseg, photos, "--overwrite").exception
    assert isinstance(error, InterruptedRun)
    assert "without --overwrite" in str(error.hint)
    assert Path("labels.json").read_text() == "old"
    monkeypatch.undo()
    os.chdir(photos.parent)
    assert isinstance(labels(gdseg, photos).exception, DataError)
    assert written() == whole


def test_two_processes_do_not_label_the_same_images(
    gdseg: Gdseg, whole: tuple[bytes, bytes], photos: Path
) -> None:
    assert labels(gdseg, photos, "--shard", "1/2").exit_code == 0
    with holder(Path("labels.json.parts"), "1-of-2.lock"):
        assert "another process" in str(labels(gdseg, photos, "--shard", "1/2").exception)
        assert labels(gdseg, photos, "--shard", "2/2").exit_code == 0
        for more in ((), ("--overwrite",)):
            assert "a shard is still being labelled" in str(labels(gdseg, photos, *more).exception)
    with holder(Path("labels.json.parts"), "1-of-1.lock"):  # it puts them together
        assert "1-of-1" in str(labels(gdseg, photos, "--shard", "2/2").exception)
    assert isinstance(labels(gdseg, photos).exception, DataError)
    assert written() == whole


@contextmanager
def holder(folder: Path, name: str) -> Iterator[None]:
    """Another process that holds a lock."""
    if lock.fcntl is None:
        pytest.skip("no POSIX locks here")
    script = (
        "import sys; from pathlib import Path; from gdseg.lock import hold\n"
        "with hold(Path(sys.argv[1]), sys.argv[2]): print('held', flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", script, str(folder.absolute()), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate("\n")


def test_parts_that_cannot_be_gone_on_with_are_not_deleted(
    gdseg: Gdseg, small_run: Path, photos: Path
) -> None:
    assert labels(gdseg, photos, "--shard", "1/2").exit_code == 0
    Path("labels.json.parts/about.json").unlink()
    for more in ((), ("--shard", "2/2")):
        assert "without about.json" in str(labels(gdseg, photos, *more).exception)
    assert Path("labels.json.parts/1-of-2.jsonl").stat().st_size > 0


@pytest.mark.parametrize("word", ["0/2", "3/2", "2", "a/b", "-1/2", "1/0"])
def test_words_that_are_no_shard(gdseg: Gdseg, small_run: Path, photos: Path, word: str) -> None:
    assert "is no shard" in str(labels(gdseg, photos, "--shard", word).exception)


def test_what_is_kept_is_told_and_recorded(gdseg: Gdseg, small_run: Path, photos: Path) -> None:
    (photos / "a" / "4.png").unlink()
    assert labels(gdseg, photos, out="all.json").exit_code == 0
    everything = json.loads(Path("all.json").read_text())
    best = min(a["image_id"] for a in everything["annotations"] if a["category_id"] == 5)
    least = max(
        a["area"] for a in everything["annotations"] if (a["image_id"], a["category_id"]) == (best, 5)
    )
    Path("keep.yaml").write_text(
        f"max_instances: 2\nmin_objects: 1\nleave_out: [dog]\nclasses: {{cat: {{min_pixels: {least}}}}}\n"
    )
    result = labels(gdseg, photos, "--keep", "keep.yaml", "--json")
    assert result.exit_code == 0, result.exception
    document = json.loads(Path("labels.json").read_text())
    assert document["info"]["keep"]["leave_out"] == ["dog"]
    assert document["info"]["keep"]["classes"]["cat"]["min_pixels"] == least
    names = {image["id"]: image["file_name"] for image in everything["images"]}
    wanted: dict[str, list[float]] = {}
    for annotation in everything["annotations"]:  # best first
        if annotation["category_id"] == 5 and annotation["area"] >= least:
            wanted.setdefault(names[annotation["image_id"]], []).append(annotation["score"])
    wanted = {name: scores[:2] for name, scores in wanted.items()}
    names = {image["id"]: image["file_name"] for image in document["images"]}
    found: dict[str, list[float]] = {}
    for annotation in document["annotations"]:
        found.setdefault(names[annotation["image_id"]], []).append(annotation["score"])
    assert found == wanted
    assert set(names.values()) == set(wanted)
    assert json.loads(result.stdout)["left_out"] == 6 - len(wanted)


def test_a_key_given_twice_and_a_wrong_file(gdseg: Gdseg, small_run: Path, photos: Path) -> None:
    Path("keep.yaml").write_text("class_threshold: 0.5")
    error = labels(gdseg, photos, "--keep", "keep.yaml").exception
    assert isinstance(error, UsageError)
    assert "class_threshold is given here and in the --keep file" in error.what
    Path("keep.yaml").write_text("min_pixel: 3\nclasses: {cta: {}}")
    error = labels(gdseg, photos, "--keep", "keep.yaml").exception
    assert isinstance(error, RecipeError)
    assert "keep.yaml:1: unknown key 'min_pixel', did you mean 'min_pixels'?" in error.what
    assert "keep.yaml:2: 'classes': there is no class 'cta', did you mean 'cat'?" in error.what
    assert not Path("labels.json.parts").exists()
    shown = gdseg("pseudo-label", "--help").stdout
    assert all(name in shown for name in vars(Keep()))


def test_precision_and_recall(gdseg: Gdseg, small_run: Path, photos: Path) -> None:
    """The labels themselves as truth are all right; without half of them the others are wrong."""
    (photos / "a" / "4.png").unlink()
    assert labels(gdseg, photos, out="all.json").exit_code == 0
    document = json.loads(Path("all.json").read_text())
    annotations = document["annotations"]
    names = {5: "cat", 9: "dog"}
    truth = {**document, "annotations": [a for a in annotations if a["image_id"] != 2]}
    truth["images"] = [image for image in document["images"] if image["id"] != 1]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] != 1]
    Path("truth.json").write_text(json.dumps(truth))
    result = labels(gdseg, photos, "--truth", "truth.json", "--json")
    assert result.exit_code == 0, result.exception
    facts = json.loads(result.stdout)["truth"]
    assert (facts["judged"], facts["not_judged"]) == (5, 1)
    for category_id, name in names.items():
        right = sum(a["category_id"] == category_id and a["image_id"] > 2 for a in annotations)
        wrong = sum(a["category_id"] == category_id and a["image_id"] == 2 for a in annotations)
        row = facts["classes"][name]
        assert (row["right"], row["wrong"], row["missed"]) == (right, wrong, 0)
        assert row["precision"] == (right / (right + wrong) if right + wrong else None)
    assert (facts["mask_iou"], facts["area_ratio"]) == (1, 1)
    table = labels(gdseg, photos, "--truth", "truth.json", "--overwrite").stdout
    assert "right at IoU 0.5" in table
    assert "5 images" in " ".join(table.split())
    assert "IoU 100.0 % on average, area 100.0 % of the true (median)\n" in table
    assert "not judged: 1 image without truth" in table
    for annotation in truth["annotations"]:  # the truth is a part of what was labelled
        mask = coco_mask.decode(annotation["segmentation"])
        inside = np.flatnonzero(mask)
        mask.flat[inside[: round(0.3 * len(inside))]] = 0
        annotation["segmentation"] = to_rle(mask)
    Path("truth.json").write_text(json.dumps(truth))
    table = labels(gdseg, photos, "--truth", "truth.json", "--overwrite").stdout
    fit = json.loads(labels(gdseg, photos, "--truth", "truth.json", "--overwrite", "--json").stdout)["truth"]
    assert fit["area_ratio"] == pytest.approx(1 / 0.7, abs=0.03)
    assert fit["mask_iou"] == pytest.approx(0.7, abs=0.02)
    assert f"area {100 * fit['area_ratio']:.1f} % of the true" in table
    assert f"IoU {100 * fit['mask_iou']:.1f} % on average" in table
    assert "a higher distill.pixel_threshold makes them smaller" in table
    Path("truth.json").write_text("{}")
    assert isinstance(labels(gdseg, photos, "--truth", "truth.json", "--overwrite").exception, DataError)
    assert load_coco(Path("labels.json"), photos).faults == []
