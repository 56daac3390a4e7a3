"""Captions by Ray on this machine, with two workers: the local engine's rows, also where a worker is lost."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kiloword import Captioner, ConfigError
from kiloword.runtime import ray_engine
from kiloword.runtime.folders import expand_paths
from kiloword.runtime.outputs import row_fields
from kiloword.runtime.pipeline import caption_photos
from tests import hostile
from tests.bundles import make_tiny_bundle
from tests.unit.runtime.test_shards import make_tar

ray = pytest.importorskip("ray", reason="the extra [ray], 500 MB, is not installed")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes"),
    # Ray's own, while it starts and ends.
    pytest.mark.filterwarnings("ignore"),
]

PHOTOS = 24


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle")).directory


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A folder with photos, among them broken ones, and a shard."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(PHOTOS):
        photo = hostile.jpeg(hostile.scene(60 + number, 50))
        (folder / f"{number:03}.jpg").write_bytes(photo)
    (folder / "cut.jpg").write_bytes(hostile.jpeg(hostile.scene(320, 240))[:9000])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no picture")
    shard = make_tar(tmp_path_factory.mktemp("shards") / "train.tar")
    odd = tmp_path_factory.mktemp("odd")
    if sys.platform.startswith("linux"):  # elsewhere, names must be Unicode
        (odd / "bad\udcff.jpg").write_bytes((folder / "000.jpg").read_bytes())
        (odd / "bad\udcfe.png").touch()
    return [str(folder), str(shard), str(odd)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Any:
    """Two processors, so two workers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    niceness = {"worker_niceness": 0}  # else a busy machine hardly ever lets them run
    os.environ["PYTHONPATH"] = os.pathsep.join([path for path in sys.path if path])
    ray.init(
        num_cpus=2,
        log_to_driver=False,
        include_dashboard=False,
        logging_level=logging.ERROR,
        _system_config=niceness,
    )
    yield
    ray.shutdown()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray leaves its processes to the garbage collector
        gc.collect()


def options(bundle: Path) -> Any:
    return ray_engine.RayOptions(str(bundle), workers=2, threads=1, batch_size=4)


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    rows = parquet.read_table(folder).to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows), "a photo was captioned twice"
    return by_path


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Equal but for the time it took; the confidence as far as another batch changes float sums."""
    names = ("caption", "error", "warning", "bundle", "reliable")
    equal = all(found.get(name) == expected.get(name) for name in names)
    confidences = (found.get("confidence") or 0.0) - (expected.get("confidence") or 0.0)
    return equal and abs(confidences) < 1e-3


def local_rows(bundle: Path, inputs: list[str]) -> dict[str, dict[str, Any]]:
    with Captioner.load(bundle, provider="cpu", threads=1) as captioner:
        rows = caption_photos(captioner, expand_paths(inputs), batch_size=4, threads=1)
        listed = [{name: as_utf8(value) for name, value in row_fields(row).items()} for row in rows]
        return {row["path"]: row for row in listed}


def as_utf8(value: Any) -> Any:
    """Bytes of a name that are no UTF-8 are escaped in the files."""
    return value.encode("ascii", "backslashreplace").decode() if isinstance(value, str) else value


def check(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == expected.keys()
    assert [path for path in found if not same(found[path], expected[path])] == []


def test_the_rows_are_those_of_the_local_engine(bundle: Path, inputs: list[str], tmp_path: Path) -> None:
    counts = ray_engine.caption_on_cluster(inputs, str(tmp_path / "captions"), options(bundle))
    expected = local_rows(bundle, inputs)
    check(rows_of(tmp_path / "captions"), expected)
    assert (counts.photos, counts.failed) == (len(expected), sum("error" in row for row in expected.values()))


def test_urls_are_read_by_the_workers(bundle: Path, inputs: list[str], tmp_path: Path) -> None:
    """`file://` here as `s3://` elsewhere: the same captions, by the photos' paths."""
    ray_engine.caption_on_cluster([f"file://{inputs[0]}"], str(tmp_path / "captions"), options(bundle))
    expected = local_rows(bundle, inputs[:1])
    found = rows_of(tmp_path / "captions")
    assert found.keys() == {f"file://{path}" for path in expected}
    by_name = {os.path.basename(path): row.get("caption") for path, row in expected.items()}
    assert {os.path.basename(path): row["caption"] for path, row in found.items()} == by_name


def dying_worker(fatal: str, notes: Path) -> type:
    """Workers that tell which photos they begin; the first that begins `fatal` is killed in its batch."""

    class Dying(ray_engine.BlockCaptioner):
        def __call__(self, block: Any) -> Any:
            paths = [os.fsdecode(path) for path in block["path"].to_pylist()]
            with open(notes / "begun", "a", encoding="utf-8", errors="replace") as begun:
                begun.write("".join(f"{path}\n" for path in paths))
            if fatal in paths and not (notes / "killed").exists():
                (notes / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(block)

    return Dying


def test_a_killed_worker_costs_its_batch_only(
    bundle: Path, inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each photo has its row, once; none but the four of the batch that was lost were begun twice."""
    fatal = os.path.join(inputs[0], "010.jpg")
    monkeypatch.setattr(ray_engine, "BlockCaptioner", dying_worker(fatal, tmp_path))
    ray_engine.caption_on_cluster(inputs, str(tmp_path / "captions"), options(bundle))
    assert (tmp_path / "killed").exists()
    check(rows_of(tmp_path / "captions"), local_rows(bundle, inputs))
    begun = Counter((tmp_path / "begun").read_text(encoding="utf-8").splitlines())
    twice = [os.path.basename(path) for path, times in begun.items() if times > 1]
    assert sorted(twice) == ["008.jpg", "009.jpg", "010.jpg", "011.jpg"]
    assert max(begun.values()) == 2


def test_an_output_that_is_there_is_refused(bundle: Path, inputs: list[str], tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="would mix"):
        ray_engine.caption_on_cluster(inputs, str(tmp_path), options(bundle))


def test_parquet_columns_may_have_any_names(bundle: Path, inputs: list[str], tmp_path: Path) -> None:
    """Somebody's own `bytes` and `error` are not what the engine itself puts beside its photos."""
    photos = sorted(Path(inputs[0]).glob("00*.jpg"))
    table = {
        "key": [photo.name for photo in photos],
        "bytes": [photo.read_bytes() for photo in photos],
        "error": ["of somebody's" for _ in photos],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "photos.parquet")
    url = f"file://{tmp_path / 'photos.parquet'}"
    local = str(tmp_path / "photos.parquet")
    for name, path in (("a", local), ("b", url)):
        counts = ray_engine.caption_on_cluster([path], str(tmp_path / name), options(bundle))
        assert (counts.photos, counts.failed) == (10, 0)
        expected = {key.replace(local, path): row for key, row in local_rows(bundle, [local]).items()}
        check(rows_of(tmp_path / name), {key: {**row, "path": key} for key, row in expected.items()})


def test_what_is_not_there_is_a_row_with_an_error(bundle: Path, tmp_path: Path) -> None:
    """Of URLs as of paths."""
    (tmp_path / "empty").mkdir()
    urls = [f"file://{tmp_path}/{name}" for name in ("missing.jpg", "missing.tar", "empty")]
    counts = ray_engine.caption_on_cluster(urls, str(tmp_path / "captions"), options(bundle))
    assert (counts.photos, counts.failed) == (3, 3)
    rows = rows_of(tmp_path / "captions")
    assert rows.keys() == set(urls)
    assert all(row["error"].startswith(url) for url, row in rows.items())
