"""Photos in tar and Parquet files: the same bytes, in the same order, whatever way they are packed."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kiloword import ImageError
from kiloword.runtime.folders import expand_paths, names_one_photo
from kiloword.runtime.reading import read_photo
from kiloword.runtime.shards import PackedPhoto, walk_shard
from tests import hostile

PHOTOS = {f"{number:05}.jpg": hostile.jpeg(hostile.scene(40 + number, 30)) for number in range(5)}


def make_tar(path: Path, mode: str = "w", **files: bytes) -> Path:
    """A shard as WebDataset has it: photos and captions side by side."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in {**PHOTOS, **files}.items():
            for member, content in ((name, data), (name.replace(".jpg", ".txt"), b"words")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def bytes_of(photos: list[Any]) -> dict[str, bytes | None]:
    return {str(photo): read_photo(photo).data for photo in photos}


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
def test_tar(tmp_path: Path, suffix: str, mode: str) -> None:
    shard = make_tar(tmp_path / f"train{suffix}", mode)
    found = bytes_of(list(expand_paths([str(shard)])))
    assert found == {f"{shard}/{name}": data for name, data in PHOTOS.items()}
    assert list(found) == sorted(found)


def test_a_glob_of_shards(tmp_path: Path) -> None:
    for number in range(3):
        make_tar(tmp_path / f"train-{number}.tar")
    assert len(list(expand_paths([str(tmp_path / "*.tar")]))) == 15
    assert not names_one_photo([str(tmp_path / "train-0.tar")])


def test_a_shard_in_a_folder_is_no_photo(tmp_path: Path) -> None:
    make_tar(tmp_path / "backup.tar")
    (tmp_path / "a.jpg").write_bytes(PHOTOS["00000.jpg"])
    assert list(expand_paths([str(tmp_path)])) == [str(tmp_path / "a.jpg")]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_shard_that_broke_off(tmp_path: Path, suffix: str) -> None:
    """The photos before the break are listed; then a line says that there is one."""
    shard = make_tar(tmp_path / f"cut{suffix}", "w" if suffix == ".tar" else "w:gz")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 3])
    *photos, last = walk_shard(str(shard))
    problems = [photo for photo in [*photos, last] if isinstance(photo, ImageError)]
    for photo in photos:
        assert isinstance(photo, PackedPhoto)
    if not problems:  # the tar ends within the last photo's bytes
        with pytest.raises(ImageError, match="cut off"):
            read_photo(str.__new__(PackedPhoto, "x") if isinstance(last, ImageError) else last)


@pytest.mark.parametrize("content", [b"", b"no shard at all" * 100])
def test_no_shard(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    (problem,) = expand_paths([str(tmp_path / "x.tar")])
    assert isinstance(problem, ImageError)


def test_a_packed_photo_travels(tmp_path: Path) -> None:
    """To the workers of a cluster, which unpack it there."""
    shard = make_tar(tmp_path / "train.tar")
    photo = next(iter(walk_shard(str(shard))))
    assert read_photo(pickle.loads(pickle.dumps(photo))).data == PHOTOS["00000.jpg"]


def test_a_photo_of_a_shard_that_is_elsewhere() -> None:
    """Its bytes were fetched; nothing is known of the shard's time."""
    photo = PackedPhoto.holding("s3://b/a.jpg", "s3://b/a.jpg", PHOTOS["00000.jpg"])
    read = read_photo(photo)
    assert (read.data, read.stat) == (PHOTOS["00000.jpg"], None)


def write_parquet(path: Path, /, **columns: Any) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def test_parquet_with_bytes_and_names(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", jpg=list(PHOTOS.values()), key=list(PHOTOS), text=["x"] * 5)
    assert bytes_of(list(expand_paths([path]))) == {f"{path}/{name}": data for name, data in PHOTOS.items()}


def test_parquet_of_hugging_face(tmp_path: Path) -> None:
    images = [{"bytes": data, "path": name} for name, data in PHOTOS.items()]
    path = write_parquet(tmp_path / "a.parquet", image=[*images[:4], {"bytes": None, "path": "x"}])
    *photos, empty = walk_shard(path)
    assert bytes_of(photos) == {f"{path}/{name}": data for name, data in list(PHOTOS.items())[:4]}
    assert str(empty) == f"{path}/x: holds no image"


def test_parquet_without_names_or_with_paths(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", anything=list(PHOTOS.values()))
    assert list(bytes_of(list(walk_shard(path)))) == [f"{path}/{row}" for row in range(5)]
    path = write_parquet(tmp_path / "b.parquet", path=["/x/1.jpg", "/x/2.jpg"], likes=[1, 2])
    assert list(walk_shard(path)) == ["/x/1.jpg", "/x/2.jpg"]


def test_parquet_without_photos(tmp_path: Path) -> None:
    (problem,) = walk_shard(write_parquet(tmp_path / "a.parquet", words=["a"]))
    assert "holds no photos; expected a column of images" in str(problem)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    (problem,) = walk_shard(str(tmp_path / "b.parquet"))
    assert "cannot be read" in str(problem)
