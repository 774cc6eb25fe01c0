"""What the tests of the image benches share."""

import multiprocessing
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bench runs in a process of its own runs in this one, where constants can be made small."""

    @contextmanager
    def pool(_: int) -> Any:
        yield SimpleNamespace(apply=lambda call, arguments: call(*arguments))

    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=pool))
