"""Captions by a cluster: Ray Data hands out photos, each worker holds one session, captions go to Parquet.

A worker captions a block of photos at a time with the code that runs everywhere else, so its rows are those
of the local engine. A worker that is lost is started again, and only the block that it had is done again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kiloword.runtime.errors import ConfigError, ImageError, KilowordError, MissingDependencyError
from kiloword.runtime.folders import PHOTO_SUFFIXES, expand_paths
from kiloword.runtime.outputs import CaptionRow, row_fields
from kiloword.runtime.reading import read_photo
from kiloword.runtime.shards import PackedPhoto, parquet_columns

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

    from kiloword.runtime.images import Photo

_MOST_BLOCKS = 20_000
"""More blocks than this would fill the memory of the process that hands them out."""
# Reading and writing wait for disks and networks. Counted as work, they would wait for a processor, while
# the workers hold all of them.
_WAITING = {"num_cpus": 0}
_WORKERS_FOR_EACH_WRITER = 16
_NAMES_HINT = "a column of names, called path, key or id"
_LOCAL_COLUMNS = {"path", "file", "error", "offset", "size", "bytes"}
_URL_COLUMNS = {"path", "bytes"}  # of `read_binary_files`
_TEXTS = ("path", "caption", "reason", "bundle", "error", "warning")
_NUMBERS = ("confidence", "latency_ms")


@dataclass(frozen=True)
class RayOptions:
    """How a cluster captions."""

    bundle: str | None = None
    """Directory of the bundle, the same on all machines; None for the one in the package."""
    workers: int | None = None
    """Sessions; None for one for each ``threads`` processors of the cluster."""
    threads: int = 1
    """Processors of each worker."""
    batch_size: int = 8
    """Photos that go through the model together, and that a lost worker costs."""
    num_beams: int | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class RayCounts:
    """How it went."""

    photos: int
    failed: int


def caption_on_cluster(paths: Sequence[str], output: str, options: RayOptions) -> RayCounts:
    """Caption photos and write the captions as Parquet files.

    Args:
        paths: Photos, folders, globs and shards, as for the local engine; or URLs such as `s3://bucket/photos/`,
            which the workers read themselves.
        output: A folder for Parquet files, which must not be there yet, or be empty; or a URL.
        options: How.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: The output holds something already.
        KilowordError: The cluster failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ray", "ray") from error
    _check_output(output)
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="error", include_dashboard=False)
    try:
        return _run(_photos(paths, options), output, options)
    except ray.exceptions.RayError as error:
        raise KilowordError("the cluster failed", found=str(error).strip().splitlines()[-1]) from error


def _check_output(output: str) -> None:
    if not _is_url(output) and os.path.exists(output) and (not os.path.isdir(output) or os.listdir(output)):
        problem = "the output is there already; captions of two runs would mix"
        raise ConfigError([problem], path=output, hint="name another folder")


def _run(photos: Dataset, output: str, options: RayOptions) -> RayCounts:
    import pyarrow.compute
    import pyarrow.dataset
    import ray

    workers = options.workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // options.threads)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    captions = photos.map_batches(
        BlockCaptioner,
        fn_constructor_args=(options,),
        batch_size=options.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=options.threads,
    )
    # A few writers: one writes far more rows than many workers caption, and each is a process.
    writers = max(1, workers // _WORKERS_FOR_EACH_WRITER)
    captions.write_parquet(output, ray_remote_args=_WAITING, concurrency=writers)
    written = pyarrow.dataset.dataset(output, format="parquet")
    failed = written.count_rows(filter=~pyarrow.compute.field("error").is_null())
    return RayCounts(written.count_rows(), failed)


def _is_url(path: str) -> bool:
    return "://" in path


def _photos(paths: Sequence[str], options: RayOptions) -> Dataset:
    """The photos to caption, as rows with a path and, but for local files, the bytes."""
    import ray

    urls = [path for path in paths if _is_url(path)]
    if urls and len(urls) < len(paths):
        raise ConfigError(["URLs and local paths cannot be mixed in one run"])
    if not urls:
        rows = list(_local_rows(paths))
        blocks = min(_MOST_BLOCKS, -(-len(rows) // options.batch_size) or 1)
        return ray.data.from_items(rows, override_num_blocks=blocks)
    if all(url.endswith(".parquet") for url in urls):
        table = ray.data.read_parquet(urls, ray_remote_args=_WAITING)
        if parquet_columns(table.schema().base_schema, urls[0])[1] is None:
            raise ConfigError(
                ["the photos in these Parquet files have no names"], path=urls[0], hint=_NAMES_HINT
            )
        return table
    suffixes = [suffix[1:] for suffix in sorted(PHOTO_SUFFIXES)]
    return ray.data.read_binary_files(
        urls, include_paths=True, file_extensions=suffixes, ray_remote_args=_WAITING
    )


def _local_rows(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the local engine would caption, told so that any worker can find it."""
    for photo in expand_paths(paths):
        row: dict[str, Any] = {
            "path": str(photo),
            "file": "",
            "error": "",
            "offset": 0,
            "size": 0,
            "bytes": b"",
        }
        if isinstance(photo, ImageError):
            row |= {"path": photo.path or "", "error": str(photo)}
        elif isinstance(photo, PackedPhoto) and photo.data is not None:
            row |= {"bytes": photo.data}
        elif isinstance(photo, PackedPhoto):
            row |= {"file": os.path.abspath(photo.shard), "offset": photo.offset, "size": photo.size}
        else:
            row |= {"file": os.path.abspath(photo)}
        yield row


class BlockCaptioner:
    """A worker: loads the bundle once and captions one block of photos after the other.

    Args:
        options: As for `caption_on_cluster`.
    """

    def __init__(self, options: RayOptions) -> None:
        from kiloword.runtime.captioner import Captioner

        self._options = options
        self._captioner = Captioner.load(options.bundle, threads=options.threads)

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        """Caption a block; a photo that cannot be read becomes a row with an error."""
        ours = set(block.column_names) in (_LOCAL_COLUMNS, _URL_COLUMNS)
        columns = None if ours else parquet_columns(block.schema, "the photos")
        loaded = [self._load(row, columns) for row in block.to_pylist()]
        captions = iter(self._captions([photo for _, photo in loaded if not isinstance(photo, str)]))
        return _as_table(
            CaptionRow(path, error=photo) if isinstance(photo, str) else CaptionRow(path, next(captions))
            for path, photo in loaded
        )

    def _captions(self, photos: list[Photo]) -> list[Any]:
        from dataclasses import replace

        import numpy as np

        if not photos:
            return []
        captions = self._captioner.caption_pixels(
            np.stack([photo.pixels for photo in photos]),
            num_beams=self._options.num_beams,
            max_new_tokens=self._options.max_new_tokens,
        )
        pairs = zip(captions, photos, strict=True)
        return [replace(caption, warnings=photo.warnings) for caption, photo in pairs]

    def _load(
        self, row: dict[str, Any], columns: tuple[str | None, str | None] | None
    ) -> tuple[str, Photo | str]:
        """A photo's path with the photo, or with the line that says what is wrong."""
        if columns is None and row.get("error"):
            return row["path"], row["error"]
        photo = _photo_of_row(row) if columns is None else _photo_of_table(row, columns)
        shown = row["path"] if columns is None else str(photo)
        try:
            return shown, read_photo(photo).decode(self._captioner.bundle.manifest.image)
        except ImageError as error:
            return shown, f"{shown}: {str(error).removeprefix(f'{error.path}: ')}"


def _photo_of_row(row: dict[str, Any]) -> str:
    """What to read, of a row that this module made or that was read from a URL."""
    path, data = row["path"], row["bytes"]
    if row.get("size"):
        return PackedPhoto.at(path, row["file"], row["offset"], row["size"])
    return row["file"] if row.get("file") else PackedPhoto.holding(path, path, data or b"")


def _photo_of_table(row: dict[str, Any], columns: tuple[str | None, str | None]) -> str:
    """What to read, of a row of somebody's Parquet files."""
    images, names = columns
    image, name = row.get(images or ""), str(row.get(names or ""))
    data = image.get("bytes") if isinstance(image, dict) else image
    return name if images is None else PackedPhoto.holding(name, name, data or b"")


def _as_table(rows: Iterator[CaptionRow]) -> pyarrow.Table:
    """Rows with the same columns and types in every block, whatever is in them."""
    import pyarrow

    schema = pyarrow.schema(
        [
            *((name, pyarrow.string()) for name in _TEXTS),
            *((name, pyarrow.float64()) for name in _NUMBERS),
            ("reliable", pyarrow.bool_()),
        ]
    )
    return pyarrow.Table.from_pylist([row_fields(row) for row in rows], schema=schema)
