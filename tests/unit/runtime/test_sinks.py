"""Sidecars: beside their photos, and never over somebody's text."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kiloword.runtime.captioner import Caption
from kiloword.runtime.hashing import content_hash
from kiloword.runtime.sinks import LeftAlone, Ours, TextSidecars

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file names and rights")


def nobody(target: str, content: bytes) -> bool:
    """Nothing there is ours."""
    return False


def write_sidecar(photo: str, text: str, ours: Ours = nobody) -> str | None:
    """Plan and write; gives why it was not."""
    planned = TextSidecars().plan(photo, Caption(text, 0.5, (), (), 1.0, "tiny"), ours)
    if isinstance(planned, LeftAlone):
        return planned.reason
    if planned is not None:
        assert planned.before == (content_hash(Path(planned.target).read_bytes()) if planned.before else None)
        planned.write()
        assert planned.after == content_hash(Path(planned.target).read_bytes())
    return None


def test_sidecar_beside_its_photo(tmp_path: Path) -> None:
    """The convention of training sets: the photo's name with .txt for its suffix."""
    assert write_sidecar(str(tmp_path / "my.dog.jpg"), "a dog") is None
    assert (tmp_path / "my.dog.txt").read_bytes() == b"a dog\n"
    assert os.listdir(tmp_path) == ["my.dog.txt"]


def test_a_sidecar_with_this_caption_is_ours(tmp_path: Path) -> None:
    photo = str(tmp_path / "dog.jpg")
    write_sidecar(photo, "a dog")
    before = (tmp_path / "dog.txt").stat().st_mtime_ns
    assert write_sidecar(photo, "a dog") is None
    assert (tmp_path / "dog.txt").stat().st_mtime_ns == before


def test_somebodys_text_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "dog.txt").write_bytes(b"my dog Rex\r\n")
    message = write_sidecar(str(tmp_path / "dog.jpg"), "a dog")
    assert message is not None
    assert "dog.txt" in message
    assert (tmp_path / "dog.txt").read_bytes() == b"my dog Rex\r\n"


def test_an_empty_sidecar_is_filled(tmp_path: Path) -> None:
    """Annotation tools make empty ones in advance."""
    (tmp_path / "dog.txt").write_text(" \n")
    assert write_sidecar(str(tmp_path / "dog.jpg"), "a dog") is None
    assert (tmp_path / "dog.txt").read_text() == "a dog\n"


@posix_only
def test_a_sidecar_that_is_a_folder_or_a_dangling_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dog.txt").mkdir()
    (tmp_path / "cat.txt").symlink_to("nowhere.txt")
    assert write_sidecar(str(tmp_path / "dog.jpg"), "a dog") is not None
    assert write_sidecar(str(tmp_path / "cat.jpg"), "a cat") is not None
    assert not (tmp_path / "nowhere.txt").exists()


def test_a_sidecar_that_appears_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs at once, or a person: between the look and the write, the file came to be."""
    (tmp_path / "dog.txt").write_text("theirs\n")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(FileExistsError):
        write_sidecar(str(tmp_path / "dog.jpg"), "a dog")
    assert (tmp_path / "dog.txt").read_text() == "theirs\n"
    assert os.listdir(tmp_path) == ["dog.txt"]


def test_sidecars_on_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory cards are FAT, where os.link fails."""

    def no_links(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    assert write_sidecar(str(tmp_path / "dog.jpg"), "a dog") is None
    assert (tmp_path / "dog.txt").read_text() == "a dog\n"
    assert os.listdir(tmp_path) == ["dog.txt"]


def test_our_own_text_is_replaced_by_a_newer_one(tmp_path: Path) -> None:
    """What the journal knows as ours, byte for byte; one changed letter makes it somebody's."""
    known = content_hash(b"a dog\n")
    (tmp_path / "dog.txt").write_text("a dog\n")
    assert write_sidecar(str(tmp_path / "dog.jpg"), "a cat", lambda _, content: content == known) is None
    assert (tmp_path / "dog.txt").read_text() == "a cat\n"
    (tmp_path / "dog.txt").write_text("a Dog\n")
    assert write_sidecar(str(tmp_path / "dog.jpg"), "a cow", lambda _, content: content == known) is not None
