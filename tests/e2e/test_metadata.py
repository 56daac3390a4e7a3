"""Captions in sidecars and photos, and taking them back: the commands as a user types them, on a folder."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from kiloword.cli import main
from kiloword.runtime.xmp_sinks import xmp_sidecar_of
from kiloword.runtime.xmp_tree import DC, KILOWORD, RDF
from tests import hostile
from tests.bundles import make_tiny_bundle
from tests.unit.runtime.test_xmp import DARKTABLE, described_as

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_bundle(tmp_path_factory.mktemp("bundle")).directory)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two JPEGs and a PNG."""
    photos = tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    (photos / "a.jpg").write_bytes(hostile.jpeg(exif=exif))
    (photos / "b.jpg").write_bytes(hostile.jpeg(hostile.scene(200, 100)))
    (photos / "c.png").write_bytes(hostile.png())
    return photos


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def captions(output: str) -> dict[str, str]:
    rows = map(json.loads, output.splitlines())
    return {os.path.basename(row["path"]): row["caption"] for row in rows if "caption" in row}


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the journal."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".kiloword" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def description(packet: bytes) -> str | None:
    items = list(ElementTree.fromstring(packet).iterfind(f".//{{{DC}}}description//{{{RDF}}}li"))
    assert len(items) <= 1
    return items[0].text if items else None


def mark(packet: bytes, name: str) -> str | None:
    found = (one.get(f"{{{KILOWORD}}}{name}") for one in ElementTree.fromstring(packet).iter())
    return next((value for value in found if value), None)


def packet_in(photo: Path) -> bytes:
    with Image.open(photo) as image:
        packet = image.info["xmp"]
    assert isinstance(packet, bytes)
    return packet


def caption(folder: Path, bundle: str, *options: str | Path, code: int = 0) -> dict[str, str]:
    arguments = ("caption", folder, "--bundle", bundle, "--threads", "1", "--format", "jsonl", *options)
    return captions(run(*arguments, code=code).stdout)


def test_xmp_sidecars_are_written_found_and_taken_back(folder: Path, bundle: str) -> None:
    before = contents(folder)
    texts = caption(folder, bundle, "--sidecar", "xmp")
    for name, text in texts.items():
        packet = (folder / f"{name}.xmp").read_bytes()
        assert description(packet) == text
        assert mark(packet, "bundle") == "tiny"
    once = contents(folder)
    caption(folder, bundle, "--sidecar", "xmp")
    assert contents(folder) == once  # again: nothing to do
    said = run("undo", folder).stdout
    assert said.count("removed ") == len(texts)
    assert contents(folder) == before


def test_an_existing_sidecar_gets_the_caption_and_loses_it_again(folder: Path, bundle: str) -> None:
    (folder / "a.jpg.xmp").write_bytes(DARKTABLE)
    (folder / "b.xmp").write_bytes(described_as("Rex in the garden"))
    before = contents(folder)
    texts = caption(folder, bundle, "--sidecar", "xmp")
    after = contents(folder)
    assert description(after["a.jpg.xmp"]) == texts["a.jpg"]
    assert b"gz02eJz" in after["a.jpg.xmp"]
    assert description(after["b.xmp"]) == "Rex in the garden"
    assert texts["b.jpg"].encode() in after["b.xmp"]  # as the alternative text
    assert "b.jpg.xmp" not in after
    assert "restored" in run("undo", folder).stdout
    assert contents(folder) == before


def test_embedding_and_taking_back(folder: Path, bundle: str) -> None:
    """The JPEGs hold their captions; the PNG is named; then each byte, and each time, is what it was."""
    before, photo = contents(folder), folder / "a.jpg"
    os.chmod(photo, 0o640)
    os.utime(photo, ns=(10**18, 10**18))
    result = run("caption", folder, "--bundle", bundle, "--embed", "--format", "jsonl", "--threads", "1")
    texts = captions(result.stdout)
    assert f"{folder / 'c.png'}: left as it was: only a JPEG takes a caption" in result.stderr
    for name in ("a.jpg", "b.jpg"):
        assert description(packet_in(folder / name)) == texts[name]
        assert before[name][2:20] in (folder / name).read_bytes()
    assert stat.S_IMODE(photo.stat().st_mode) == 0o640
    assert photo.stat().st_mtime_ns == 10**18
    once = contents(folder)
    caption(folder, bundle, "--embed")
    assert contents(folder) == once
    assert "restored" in run("undo", folder).stdout
    assert contents(folder) == before
    assert photo.stat().st_mtime_ns == 10**18
    caption(folder, bundle, "--embed")
    assert contents(folder) == once  # and may be written again


def test_a_persons_description_in_the_photo_is_respected(folder: Path, bundle: str) -> None:
    """By embedding and by sidecars, wherever in the photo it stands."""
    exif = Image.Exif()
    exif[0x010E] = "Rex in the garden"
    (folder / "a.jpg").write_bytes(hostile.jpeg(exif=exif))
    texts = caption(folder, bundle, "--embed", "--sidecar", "xmp")
    for packet in (packet_in(folder / "a.jpg"), (folder / "a.jpg.xmp").read_bytes()):
        assert description(packet) is None
        assert texts["a.jpg"].encode() in packet
    with Image.open(folder / "a.jpg") as image:
        assert image.getexif()[0x010E] == "Rex in the garden"


def test_undo_leaves_what_people_changed_since(folder: Path, bundle: str) -> None:
    """A rating was added, a description corrected, a txt file edited, a sidecar deleted."""
    texts = caption(folder, bundle, "--sidecar", "xmp", "--sidecar", "txt", "--embed")
    sidecar = folder / "a.jpg.xmp"
    ours = texts["a.jpg"].encode()
    changed = sidecar.read_bytes().replace(
        b">" + ours + b"</rdf:li></rdf:Alt></dc:", b">my cat</rdf:li></rdf:Alt></dc:"
    )
    sidecar.write_bytes(changed.replace(b'rdf:about=""', b'rdf:about="" xmlns:xmp="x" xmp:Rating="5"'))
    (folder / "b.txt").write_text("my own words\n")
    (folder / "b.jpg.xmp").unlink()
    photo = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(photo + b"appended")
    result = run("undo", folder)
    assert description(sidecar.read_bytes()) == "my cat"
    assert b'xmp:Rating="5"' in sidecar.read_bytes()
    assert ours not in sidecar.read_bytes().replace(b"my cat", b"")
    assert mark(sidecar.read_bytes(), "caption") is None
    assert (folder / "b.txt").read_text() == "my own words\n"
    assert "b.txt: kept: it was changed since" in result.stderr
    assert not (folder / "a.txt").exists()
    assert (folder / "b.jpg").read_bytes().endswith(b"appended")
    with Image.open(folder / "b.jpg") as image:
        assert "xmp" not in image.info


def test_undo_without_a_journal_goes_by_the_marks(folder: Path, bundle: str) -> None:
    (folder / "a.jpg.xmp").write_bytes(DARKTABLE)
    before = contents(folder)
    caption(folder, bundle, "--sidecar", "xmp", "--embed", "--state", folder.parent / "journal")
    dry = run("undo", folder, "--dry-run")
    assert dry.stdout.count("\n") == 5
    assert contents(folder) != before
    run("undo", folder)
    assert contents(folder) == before
    assert "nothing to take back" in run("undo", folder).stderr


def test_undo_takes_back_one_run_or_all(folder: Path, bundle: str) -> None:
    before = contents(folder)
    first = caption(folder, bundle, "--sidecar", "txt")
    (folder / "d.jpg").write_bytes(hostile.jpeg(hostile.scene(90, 90)))
    caption(folder, bundle, "--sidecar", "txt")
    assert run("undo", folder).stdout == f"removed {folder / 'd.txt'}\n"
    assert (folder / "a.txt").read_text().strip() == first["a.jpg"]
    caption(folder, bundle, "--sidecar", "txt")
    run("undo", folder, "--all")
    (folder / "d.jpg").unlink()
    assert contents(folder) == before


def test_an_emptied_txt_gets_its_white_space_back(folder: Path, bundle: str) -> None:
    (folder / "a.txt").write_bytes(b" \r\n")
    before = contents(folder)
    caption(folder, bundle, "--sidecar", "txt")
    assert (folder / "a.txt").read_bytes().strip()
    run("undo", folder)
    assert contents(folder) == before


def test_which_sidecar_is_a_photos(tmp_path: Path) -> None:
    """As docs/METADATA.md says."""
    photo = str(tmp_path / "cat.jpg")
    assert xmp_sidecar_of(photo) == photo + ".xmp"
    (tmp_path / "cat.xmp").touch()
    assert xmp_sidecar_of(photo) == str(tmp_path / "cat.xmp")
    (tmp_path / "cat.NEF").touch()
    assert xmp_sidecar_of(photo) == photo + ".xmp"
    (tmp_path / "cat.NEF").unlink()
    (tmp_path / "cat.jpg.xmp").touch()
    assert xmp_sidecar_of(photo) == photo + ".xmp"


def test_a_sidecar_that_is_no_xmp_is_named_and_left(folder: Path, bundle: str) -> None:
    (folder / "a.jpg.xmp").write_text("<html>not for us</html>")
    result = run("caption", folder, "--bundle", bundle, "--sidecar", "xmp", "--threads", "1")
    assert "a.jpg.xmp: left as it was: this is no XMP" in result.stderr
    assert (folder / "a.jpg.xmp").read_text() == "<html>not for us</html>"


def test_misuse_of_undo(folder: Path) -> None:
    assert "no journal" in run("undo", folder, "--all", code=2).stderr
    assert "exclude" in run("undo", folder, "--all", "--run", "1", code=2).stderr
    assert "no such journal" in run("undo", folder, "--state", folder / "x", code=2).stderr


def test_csv_for_spreadsheets(folder: Path, bundle: str) -> None:
    """With --bom the file begins with EF BB BF, and is CSV as ever behind it."""
    output = folder / "captions.csv"
    caption(folder, bundle, "-o", output, "--format", "csv", "--bom")
    data = output.read_bytes()
    assert data.startswith(b"\xef\xbb\xbfpath,")
    assert len(list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))) == 3


def test_gallery(folder: Path, bundle: str) -> None:
    """A page with an entry for each photo, those that failed too; a second run has all of them again."""
    (folder / "broken <script>.jpg").write_bytes(b"no picture")
    page = folder / "pages" / "all.html"
    page.parent.mkdir()
    for _ in range(2):
        caption(folder, bundle, "--gallery", page, code=1)
        text = page.read_text(encoding="utf-8")
        block = text[text.index('id="photos">') + 12 :]
        entries = json.loads(block[: block.index("</script>")])
        assert [entry["name"] for entry in entries] == [
            str(folder / name) for name in ("a.jpg", "b.jpg", "broken <script>.jpg", "c.png")
        ]
        assert entries[0]["href"] == "../a.jpg"
        assert entries[2]["href"] == "../broken%20%3Cscript%3E.jpg"
        assert "is not a picture" in entries[2]["error"]
        assert all(entry["thumbnail"] and entry["caption"] for entry in entries if "error" not in entry)
    for word in ("http:", "https:", "src=", "@import", "url("):
        assert word not in text.replace("default-src", "").replace("image.src", "")
