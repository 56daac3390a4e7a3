"""Photos that lie in shards: tar files as WebDataset has them, and Parquet files with images in a column.

A photo in a shard has a path like any other, `shard.tar/00012.jpg`, and brings along where its bytes are. So
it goes through the same pipeline and journal as a file does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kiloword.runtime.errors import ImageError, MissingDependencyError

if TYPE_CHECKING:
    from pyarrow import NativeFile, Schema

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PARQUET_SUFFIX = ".parquet"
_PLAIN_SUFFIX = ".tar"
_MOST_MEMBER_BYTES = 512 << 20
_PARQUET_ROWS = 64
_IMAGE_COLUMNS = ("image", "img", "bytes", "data", "content", "jpg", "jpeg", "png", "webp")
_NAME_COLUMNS = ("path", "file_name", "filename", "file", "__key__", "key", "id", "image_id", "url")


class PackedPhoto(str):
    """The path of a photo in a shard, with where its bytes are."""

    shard: str
    offset: int | None
    """Of its bytes in the shard; None where they are held here."""
    size: int
    data: bytes | None

    @classmethod
    def at(cls, path: str, shard: str, offset: int, size: int) -> PackedPhoto:
        """A photo whose bytes lie in the shard as they are."""
        photo = cls(path)
        photo.shard, photo.offset, photo.size, photo.data = shard, offset, size, None
        return photo

    @classmethod
    def holding(cls, path: str, shard: str, data: bytes) -> PackedPhoto:
        """A photo whose bytes had to be unpacked."""
        photo = cls(path)
        photo.shard, photo.offset, photo.size, photo.data = shard, None, len(data), data
        return photo

    def read(self) -> bytes:
        """The photo's bytes.

        Raises:
            ImageError: The shard cannot be read, or is shorter than it was.
        """
        if self.data is not None:
            return self.data
        try:
            with open(self.shard, "rb") as stream:
                stream.seek(self.offset or 0)
                data = stream.read(self.size)
        except OSError as error:
            raise ImageError("cannot be read", path=self, found=error.strerror) from error
        if len(data) < self.size:
            raise ImageError("is cut off: its shard is shorter than it says", path=self, hint="copy it again")
        return data


def is_shard_name(path: str) -> bool:
    """Whether a file is taken for a shard, by its suffix.

    >>> is_shard_name("train-0001.tar"), is_shard_name("a.tar.jpg")
    (True, False)
    """
    return path.lower().endswith((*_TAR_SUFFIXES, _PARQUET_SUFFIX))


def is_packed_shard(path: str) -> bool:
    """Whether a file is a shard whose photos are not in it as they are: all but plain tar.

    >>> is_packed_shard("a.tar"), is_packed_shard("a.tgz"), is_packed_shard("a.parquet")
    (False, True, True)
    """
    return is_shard_name(path) and not path.lower().endswith(_PLAIN_SUFFIX)


def walk_shard(
    path: str, stream: NativeFile | None = None, *, name: str | None = None
) -> Iterator[str | ImageError]:
    """List the photos in a shard, in its order.

    Of a tar file these are the members that are called like photos; of a Parquet file, the rows, with the
    images' bytes in a column (as Hugging Face's data sets have it, or a binary column) or with paths.

    Args:
        path: The shard.
        stream: Its bytes, where it is no file of this machine.
        name: How photos' paths begin; None for `path`.

    Raises:
        MissingDependencyError: The file is Parquet, and pyarrow is not installed.
    """
    import tarfile  # here, because a single photo on a command line must not wait for it
    import zlib

    try:
        if path.lower().endswith(_PARQUET_SUFFIX):
            yield from _walk_parquet(path, stream, name or path)
        else:
            yield from _walk_tar(path, stream, name or path)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        found = getattr(error, "strerror", None) or str(error)
        yield ImageError("this shard cannot be read to its end", path=name or path, found=found)


def _walk_tar(path: str, stream: NativeFile | None, shown: str) -> Iterator[str | ImageError]:
    import tarfile

    from kiloword.runtime.folders import is_photo_name

    in_place = stream is None and path.lower().endswith(_PLAIN_SUFFIX)
    # tarfile asks a stream for no more than `read`.
    source: Any = stream
    with tarfile.open(None if stream else path, "r:" if in_place else "r|*", fileobj=source) as archive:
        for member in archive:
            # The archive keeps all members it has seen: a list without end.
            archive.members = []  # type: ignore[attr-defined]
            if not member.isfile() or not is_photo_name(os.path.basename(member.name)):
                continue
            name = f"{shown}/{member.name}"
            if member.size > _MOST_MEMBER_BYTES:
                limit = f"{_MOST_MEMBER_BYTES:,} bytes"
                yield ImageError("is too large", path=name, expected=limit, found=f"{member.size:,}")
            elif in_place:
                yield PackedPhoto.at(name, path, member.offset_data, member.size)
            else:
                packed = archive.extractfile(member)
                yield PackedPhoto.holding(name, path, packed.read() if packed else b"")


def _walk_parquet(path: str, stream: NativeFile | None, shown: str) -> Iterator[str | ImageError]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise MissingDependencyError("pyarrow", "parquet") from error
    try:
        with ParquetFile(stream or path) as file:
            images, names = parquet_columns(file.schema_arrow, shown)
            columns = [column for column in (images, names) if column]
            row = 0
            for batch in file.iter_batches(_PARQUET_ROWS, columns=columns):
                for fields in batch.to_pylist():
                    yield photo_of_row(fields, images, names, shown, row)
                    row += 1
    except ImageError as error:
        yield error
    except ArrowException as error:
        found = str(error).splitlines()[0]
        yield ImageError("this shard cannot be read to its end", path=shown, found=found)


def parquet_columns(schema: Schema, path: str) -> tuple[str | None, str | None]:
    """Which columns hold the images' bytes, and their names; the first is None where there are only paths.

    Raises:
        ImageError: There is neither.
    """
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def is_image(kind: Any) -> bool:  # as Hugging Face's data sets store one: {bytes, path}
        return bool(
            types.is_struct(kind) and any(one.name == "bytes" and is_binary(one.type) for one in kind)
        )

    binaries = [column.name for column in schema if is_binary(column.type) or is_image(column.type)]
    only = binaries[0] if len(binaries) == 1 else None
    images = next((name for name in _IMAGE_COLUMNS if name in binaries), only)
    texts = {column.name for column in schema if not is_binary(column.type) and column.name not in binaries}
    names = next((name for name in _NAME_COLUMNS if name in texts), None)
    if images is None and names is None:
        expected = f"a column of images ({', '.join(_IMAGE_COLUMNS[:3])}, ...) or of paths"
        raise ImageError("holds no photos", path=path, expected=expected, found=", ".join(schema.names))
    return images, names


def photo_of_row(
    fields: dict[str, Any], images: str | None, names: str | None, shard: str, row: int
) -> str | ImageError:
    """A row of a Parquet file as a photo."""
    image: Any = fields.get(images) if images else None
    name = fields.get(names) if names else None
    if isinstance(image, dict):
        image, name = image.get("bytes"), name or image.get("path")
    if images is None:
        return str(name)
    path = f"{shard}/{row if name is None else name}"
    if not image:
        return ImageError("holds no image", path=path)
    return PackedPhoto.holding(path, shard, image)
