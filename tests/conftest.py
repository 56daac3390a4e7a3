"""Fixtures that every test may use, and the rule for tests that need data which is not in the repository."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.checkpoints import TinyExport

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("KILOWORD_DATA", REPOSITORY.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `realdata`, visibly, where the data sets are not at hand."""
    if DATA.is_dir():
        return
    skip = pytest.mark.skip(reason="no data sets: set KILOWORD_DATA to a folder with flickr8k/ and coco/")
    for item in items:
        if "realdata" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def interrupts_count() -> Iterator[None]:
    """A shell starts what runs in the background with Ctrl-C ignored, and all children would inherit that."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def quiet_for_itself_alone() -> Iterator[None]:
    """The command line, run in this process, sets up the logger; the next test must find it as it was."""
    logger = logging.getLogger("kiloword")
    before = logger.propagate, logger.level
    yield
    logger.propagate, logger.level = before


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def photos(repository: Path) -> Path:
    """The folder with the photos that ship with the repository."""
    return repository / "examples" / "photos"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with flickr8k/, coco/ and encoders/; only for tests marked `realdata`."""
    return DATA


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> TinyExport:
    """A tiny checkpoint and its bundles, made once because torch's exporter is slow; do not change them."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tests.checkpoints import export_tiny_checkpoint

    return export_tiny_checkpoint(tmp_path_factory.mktemp("export"))
