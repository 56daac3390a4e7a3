"""docs/SCALING.md: its figures are those that docs/scaling.py computes from the newest measurement."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.docs_scripts import load_docs_script

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    return load_docs_script("scaling")


def test_the_page_is_up_to_date(scaling: ModuleType) -> None:
    """Run `python docs/scaling.py` when this fails."""
    text = (REPOSITORY / "docs" / "SCALING.md").read_text("utf-8")
    assert text == scaling.page(text)


def test_the_tables_by_hand(scaling: ModuleType) -> None:
    """36 ms and 72 ms a photo are 1,000 and 2,000 core-hours for 100 million; the rest by a calculator."""
    result = {
        "date": "2026-01-02",
        "machine": {"cpu_model": "some processor"},
        "versions": {"onnxruntime": "1"},
        "settings": {"bundle": "b", "precision": "int8", "bundle_bytes": 11_000_000},
        "measurements": [
            *(
                {
                    "measurement": "decode",
                    "photos": name,
                    "width": 4,
                    "height": 3,
                    "bytes": b,
                    "cpu_ms": ms,
                }
                for name, b, ms in (("small", 100_000, 6.0), ("large", 2_000_000, 42.0))
            ),
            {"measurement": "caption", "search": "default", "num_beams": 3, "batch_size": 8, "cpu_ms": 30.0},
            {"measurement": "caption", "search": "greedy", "num_beams": 1, "batch_size": 8, "cpu_ms": 20.0},
            {"measurement": "memory", "peak_rss_bytes": 110_000_000},
        ],
    }
    text = scaling.tables(result)
    for line in (
        "| together | 36.0 ms | 72.0 ms |",
        "| core-hours of work | 1,000 | 2,000 |",
        "| machines of 16 cores for one day | 2.9, so 3 | 5.8, so 6 |",
        "| with 10 such machines | 6.9 hours | 13.9 hours |",
        "| core-hours for each million | 11.1 | 22.2 |",
        "| cost of a million at 0.04 USD a core-hour | 0.44 USD | 0.89 USD |",
        "| bytes to be moved | 10 TB | 200 TB |",
        "| into each machine of 16 cores | 40 MB/s | 400 MB/s |",
    ):
        assert line in text
