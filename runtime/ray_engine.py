"""Captions by a cluster: Ray Data hands out photos, each worker holds one session, captions go to Parquet.

A worker captions a block of photos at a time with the code that runs everywhere else, so its rows are those
of the local engine. A worker that is lost is started again, and only the block that it had is done again.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kiloword.runtime.errors import ConfigError, ImageError, KilowordError, MissingDependencyError
from kiloword.runtime.folders import expand_paths, is_photo_name
from kiloword.runtime.outputs import CaptionRow, row_fields
from kiloword.runtime.reading import read_photo
from kiloword.runtime.shards import PackedPhoto, is_packed_shard, is_shard_name, walk_shard

Row = dict[str, Any]
"""A photo or a shard on its way to the workers, as `_row` makes it."""

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

    from kiloword.runtime.images import Photo

_MOST_BLOCKS = 20_000
"""More blocks than this would fill the memory of the process that hands them out."""
# Reading and writing wait for disks and networks. Counted as work, they would wait for a processor, while
# the workers hold all of them.
_WAITING: dict[str, Any] = {"num_cpus": 0}
_FETCHERS = 2
"""Tasks that fetch photos, besides one for each worker."""
_FETCHED_BLOCK_BYTES = 1 << 20
"""Photos that were fetched travel in blocks of this size or of a batch; so much a lost worker costs."""
_WORKERS_FOR_EACH_WRITER = 16
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
        paths: Photos, folders, globs and shards, as for the local engine; or URLs of photos,
            of folders of them and of shards, such as `s3://bucket/photos/`.
        output: A folder for Parquet files, which must not be there yet, or be empty; or a URL.
        options: How.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: The output holds something already.
        KilowordError: The cluster failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ writes to stderr by itself
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ray", "ray") from error
    _check_output(output)
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        return _run(paths, output, options)
    except ray.exceptions.RayError as error:
        raise KilowordError("the cluster failed", found=_cause(str(error))) from error


def _cause(text: str) -> str:
    r"""The line that says what happened, of the many that Ray writes.

    >>> _cause("ray::f() (pid=1)\n  File 'x'\nFileNotFoundError: no x\n\nTo change the retries, ...")
    'FileNotFoundError: no x'
    """
    lines = text.strip().splitlines()
    return next((line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)), lines[-1])


def _check_output(output: str) -> None:
    if not _is_url(output) and os.path.exists(output) and (not os.path.isdir(output) or os.listdir(output)):
        problem = "the output is there already; captions of two runs would mix"
        raise ConfigError([problem], path=output, hint="name another folder")


def _run(paths: Sequence[str], output: str, options: RayOptions) -> RayCounts:
    import pyarrow.compute
    import pyarrow.dataset
    import ray

    cluster: Any = ray  # not all of it has types
    workers = options.workers or max(1, int(cluster.cluster_resources().get("CPU", 1)) // options.threads)
    _quieten()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    captions = _photos(paths, options, workers).map_batches(
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


def _quieten() -> None:
    """What Ray Data says of its own accord goes to its log file only; an error is raised, and told once."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def _is_url(path: str) -> bool:
    return "://" in path


def _photos(paths: Sequence[str], options: RayOptions, workers: int) -> Dataset:
    """The photos to caption, as rows that any worker can do."""
    import ray

    rows = [row for path in paths for row in _rows_of(path)]
    blocks = min(_MOST_BLOCKS, -(-len(rows) // options.batch_size) or 1)
    if not any(_is_to_be_fetched(row) for row in rows):
        return ray.data.from_items(rows, override_num_blocks=blocks)
    # What Ray's own readers do would wait for processors that the workers hold.
    ray.data.DataContext.get_current().target_max_block_size = _FETCHED_BLOCK_BYTES
    photos = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
    return photos.flat_map(_fetch, concurrency=workers + _FETCHERS, **_WAITING)


def _rows_of(path: str) -> Iterator[Row]:
    """What the local engine would caption, told so that any worker can find it."""
    if _is_url(path):
        yield from _rows_of_url(path)
    elif is_packed_shard(path) and os.path.isfile(path):
        yield _row(path, file=os.path.abspath(path), shard=True)
    else:
        yield from map(_row_of, expand_paths([path]))


def _rows_of_url(url: str) -> Iterator[Row]:
    from pyarrow.fs import FileSelector, FileSystem, FileType

    if is_shard_name(url):
        yield _row(url, file=url, shard=True)
        return
    try:
        system, root = FileSystem.from_uri(url)
        if system.get_file_info(root).type != FileType.Directory:
            yield _row(url, file=url)
            return
        found = system.get_file_info(FileSelector(root, recursive=True))
    except (OSError, ValueError) as error:  # an ArrowException is one of them
        yield _row(url, error=str(ImageError("cannot be listed", path=url, found=_first_line(error))))
        return
    photos = sorted(one.path for one in found if one.type == FileType.File and is_photo_name(one.base_name))
    if not photos:
        yield _row(url, error=str(ImageError("no photos in this folder", path=url)))
    for photo in photos:
        inside = url.rstrip("/") + photo[len(root.rstrip("/")) :]
        yield _row(inside, file=inside)


def _row_of(photo: str | ImageError) -> Row:
    if isinstance(photo, ImageError):
        return _row(photo.path or "", error=str(photo))
    if isinstance(photo, PackedPhoto) and photo.data is not None:
        return _row(str(photo), data=photo.data)
    if isinstance(photo, PackedPhoto):
        return _row(str(photo), file=os.path.abspath(photo.shard), offset=photo.offset or 0, size=photo.size)
    return _row(photo, file=photo if _is_url(photo) else os.path.abspath(photo))


def _row(
    path: str,
    *,
    file: str = "",
    shard: bool = False,
    offset: int = 0,
    size: int = 0,
    data: bytes = b"",
    error: str = "",
) -> Row:
    """A photo, or a shard full of them: where its bytes are, or the bytes, or what is wrong.

    Args:
        path: As rows of captions name it.
        file: The file or URL with its bytes; empty if they are in `data`.
        shard: Whether this is a whole shard.
        offset: Of the bytes in the file.
        size: How many bytes; 0 for the whole file.
        data: The bytes.
        error: The line for a photo that cannot be read.
    """
    # As bytes, for a path need not be UTF-8, and Arrow's strings must.
    texts = {"path": os.fsencode(path), "file": os.fsencode(file), "error": os.fsencode(error)}
    return {**texts, "shard": shard, "offset": offset, "size": size, "bytes": data}


def _texts(row: Row) -> tuple[str, str, str]:
    """A row's path, file and error."""
    return os.fsdecode(row["path"]), os.fsdecode(row["file"]), os.fsdecode(row["error"])


def _is_to_be_fetched(row: Row) -> bool:
    return bool(row["shard"]) or _is_url(os.fsdecode(row["file"]))


def _fetch(row: Row) -> Iterator[Row]:
    """A shard's photos, or a photo with the bytes behind its URL; runs where there is time to wait."""
    if not _is_to_be_fetched(row):
        yield row
        return
    path, file, _ = _texts(row)
    try:
        with _open_url(file) if _is_url(file) else nullcontext() as stream:
            if stream is not None and not row["shard"]:
                yield _row(path, data=stream.read())
                return
            for photo in walk_shard(file, stream, name=path):
                yield from _fetch(_row_of(photo))  # a Parquet file may hold URLs
    except (OSError, ValueError) as error:
        yield _row(path, error=str(ImageError("cannot be read", path=path, found=_first_line(error))))


def _open_url(url: str) -> pyarrow.NativeFile:
    from pyarrow.fs import FileSystem

    system, path = FileSystem.from_uri(url)
    return system.open_input_file(path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
        loaded = [self._load(row) for row in block.to_pylist()]
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

    def _load(self, row: Row) -> tuple[str, Photo | str]:
        """A photo's path with the photo, or with the line that says what is wrong."""
        path, file, error_line = _texts(row)
        if error_line:
            return path, error_line
        try:
            return path, read_photo(_source_of(row, path, file)).decode(self._captioner.bundle.manifest.image)
        except ImageError as error:
            return path, f"{path}: {str(error).removeprefix(f'{error.path}: ')}"


def _source_of(row: Row, path: str, file: str) -> str:
    """What to read."""
    if row["size"]:
        return PackedPhoto.at(path, file, row["offset"], row["size"])
    return file or PackedPhoto.holding(path, path, row["bytes"])


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
    fields = [{name: _as_utf8(value) for name, value in row_fields(row).items()} for row in rows]
    return pyarrow.Table.from_pylist(fields, schema=schema)


def _as_utf8(value: Any) -> Any:
    """A text without the bytes of a path that are no UTF-8: they are escaped, as in the other formats."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
