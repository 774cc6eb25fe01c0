"""Tiny runs of each task on data with hostile names, and a headless Chromium driven over plain HTTP (WebDriver)."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions, make_shapes
from gdseg.recipe_yaml import load_recipe
from gdseg.runs import find_checkpoint
from gdseg.train.distill import distill
from gdseg.train.pretrain import pretrain

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{",
    "' & http://evil.example/x.js",
    "名前",
]
CPU = torch.device("cpu")


def rename_classes(annotations: Path) -> None:
    """Give the first classes of COCO files hostile names."""
    for path in annotations.glob("*.json"):
        document = json.loads(path.read_text())
        for category, name in zip(document["categories"], HOSTILE, strict=False):
            category["name"] = name
        path.write_text(json.dumps(document))


@pytest.fixture(scope="session")
def runs_of(
    tmp_path_factory: pytest.TempPathFactory, tiny_settings: list[str]
) -> Callable[[str], tuple[Path, Path]]:
    """runs_of("instance") -> run directories of pretrain and of the distill that follows; do not change them."""

    @cache
    def make(task: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(task)
        options = ShapesOptions(train=8, val=3, size=64)
        if task == "instance":
            make_shapes(folder / "data", options)
            rename_classes(folder / "data" / "annotations")
        else:
            make_scenes(folder / "data", options, task)
        name = "shapes_maskdino" if task == "instance" else f"shapes_{task}"
        recipe = load_recipe(
            name,
            [
                *tiny_settings,
                f"data.root={folder / 'data'}",
                "distill.ignore_threshold=0.02",
                "distill.region_threshold=0.02",
            ],
        )
        pretrain(recipe, folder / "teacher", CPU, quiet=True)
        distill(recipe, folder / "student", find_checkpoint(folder / "teacher"), CPU, quiet=True)
        return folder / "teacher", folder / "student"

    return make


class Browser:
    """One Chromium window. See https://www.w3.org/TR/webdriver2/ for the calls."""

    def __init__(self, driver: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._log = (folder / "chromedriver.log").open("wb")
        self._process = subprocess.Popen([driver, f"--port={port}"], stdout=self._log, stderr=self._log)
        self._base = f"http://127.0.0.1:{port}"
        self._wait()
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        wanted = {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self._base += f"/session/{session}"

    def _wait(self) -> None:
        for _ in range(200):
            try:
                self._call("GET", "/status")
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.1)
        raise RuntimeError("chromedriver does not answer")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._base + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        """Load a file in a window of `width` CSS pixels, in a light or dark colour scheme."""
        phone = width < 600
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=2, mobile=phone
        )
        self.devtools(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        self.log("browser"), self.log("performance")
        self._call("POST", "/url", {"url": page.as_uri()})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def ask(self, script: str) -> Any:
        """The value that a script in the page returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Console messages ("browser") or what was fetched ("performance") since the last call."""
        return list(self._call("POST", "/se/log", {"type": kind}))

    def close(self) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._process.terminate()
            self._process.wait(10)
            self._log.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Skipped where Debian's chromium and chromium-driver, or their like, are missing."""
    driver = shutil.which("chromedriver")
    if driver is None or not (
        shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    ):
        pytest.skip("no chromium with chromedriver here (apt-get install chromium chromium-driver)")
    chromium = Browser(driver, tmp_path_factory.mktemp("browser"))
    yield chromium
    chromium.close()
