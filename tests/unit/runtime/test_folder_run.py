"""Runs over a folder: what is done again and what is not, how runs end, and what files are left."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kiloword.runtime import folder_run, outputs, sinks
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.dry_run import plan_run
from kiloword.runtime.errors import JournalError, KilowordError
from kiloword.runtime.folder_run import FolderRun, RunEnd, default_state, run_folder
from kiloword.runtime.folders import expand_paths
from kiloword.runtime.pipeline import PipelineOptions
from kiloword.runtime.progress import CaptionProgress
from kiloword.runtime.roots import Roots
from kiloword.runtime.sinks import TextSidecars
from tests.bundles import make_tiny_bundle

OPTIONS = PipelineOptions(batch_size=4, lanes=2, threads=2)
OLD_NS = 1_600_000_000_000_000_000


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    directory = tmp_path_factory.mktemp("bundle")
    make_tiny_bundle(directory)
    return Captioner.load(directory, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def other_captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    """The same name, other weights."""
    directory = tmp_path_factory.mktemp("other")
    make_tiny_bundle(directory, seed=1)
    return Captioner.load(directory, provider="cpu", threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve different photos, two copies, and a bad one."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(12):
        pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("sub" if number % 2 else "") / f"{number:02d}.png")
    for name in ("copy1.png", "copy2.png"):
        (folder / name).write_bytes((folder / "00.png").read_bytes())
    (folder / "bad.jpg").write_text("no picture")
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(OLD_NS, OLD_NS))
    return folder


class Counting:
    """A captioner that counts the photos that go through its model."""

    def __init__(self, captioner: Captioner) -> None:
        self.photos = 0
        self._captioner = captioner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._captioner, name)

    def caption_pixels(self, pixels: Any, **settings: Any) -> Any:
        self.photos += len(pixels)
        return self._captioner.caption_pixels(pixels, **settings)


def run_on(
    folder: Path, captioner: Any, *, photos: Any = None, options: PipelineOptions = OPTIONS, **asked: Any
) -> tuple[RunEnd, int]:
    """Run with an output beside the folder; gives how it ended and how many photos the model saw."""
    output = str(folder.parent / "out.jsonl")
    asked = {"state": output + ".journal", "output": output, "format_name": "jsonl", **asked}
    if asked.get("redo"):
        asked["redo_first"] = lambda: expand_paths([str(folder)])
    counting = Counting(captioner)
    listed = expand_paths([str(folder)]) if photos is None else photos
    end = run_folder(counting, listed, FolderRun(**asked), options, CaptionProgress(enabled=False))  # type: ignore[arg-type]
    return end, counting.photos


def rows_of(folder: Path, name: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.parent / name).read_text("utf-8").splitlines()]


def expected_rows(folder: Path, captioner: Captioner) -> list[tuple[str, str | None]]:
    """Path and caption in the order of the listing, by the public API, one photo at a time."""
    listed = [str(photo) for photo in expand_paths([str(folder)])]
    return [(path, None if path.endswith("bad.jpg") else captioner.caption(path).text) for path in listed]


def shown(rows: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(row["path"], row.get("caption")) for row in rows]


def test_every_photo_once_in_order_and_copies_through_the_model_once(
    folder: Path, captioner: Captioner
) -> None:
    end, through_model = run_on(folder, captioner)
    assert shown(rows_of(folder)) == expected_rows(folder, captioner)
    assert through_model == 12
    assert (end.counts.photos, end.counts.captioned, end.counts.failed) == (15, 12, 1)
    assert "is not a picture" in next(row["error"] for row in rows_of(folder) if "error" in row)
    assert sorted(os.listdir(folder.parent)) == ["out.jsonl", "out.jsonl.journal", "photos"]


def test_a_second_run_does_nothing_and_leaves_the_output_alone(folder: Path, captioner: Captioner) -> None:
    run_on(folder, captioner)
    before = os.stat(folder.parent / "out.jsonl")
    end, through_model = run_on(folder, captioner)
    assert (through_model, end.counts.known, end.counts.failed_before) == (0, 15, 1)
    after = os.stat(folder.parent / "out.jsonl")
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_an_output_that_was_touched_is_written_again(folder: Path, captioner: Captioner) -> None:
    """Neither a missing output, nor one that somebody edited, nor another format is taken for the same."""
    run_on(folder, captioner)
    output = folder.parent / "out.jsonl"
    whole = output.read_bytes()
    for damage in (output.unlink, lambda: output.write_bytes(b"mine\n")):
        damage()
        assert run_on(folder, captioner)[1] == 0
        assert output.read_bytes() == whole
    run_on(folder, captioner, format_name="csv")
    assert output.read_text().startswith("path,caption")
    (folder / "02.png").unlink()
    run_on(folder, captioner)
    assert shown(rows_of(folder)) == expected_rows(folder, captioner)


def test_only_new_changed_and_unknown_photos_are_done(folder: Path, captioner: Captioner) -> None:
    """Moved and renamed ones are known by content; one that is gone is gone from the output, too."""
    run_on(folder, captioner)
    (folder / "02.png").rename(folder / "sub" / "moved.png")
    (folder / "04.png").unlink()
    random = np.random.default_rng(1)
    for name in ("06.png", "new.png"):
        Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / name)
    _, through_model = run_on(folder, captioner)
    assert through_model == 2
    assert shown(rows_of(folder)) == expected_rows(folder, captioner)


def test_another_bundle_or_other_settings_do_all_again(
    folder: Path, captioner: Captioner, other_captioner: Captioner
) -> None:
    run_on(folder, captioner)
    assert run_on(folder, other_captioner)[1] == 12
    assert shown(rows_of(folder)) == expected_rows(folder, other_captioner)
    assert run_on(folder, captioner)[1] == 0  # what the first bundle said is still known
    assert shown(rows_of(folder)) == expected_rows(folder, captioner)
    assert run_on(folder, captioner, options=PipelineOptions(num_beams=2))[1] == 12


def test_redo_and_retry_failed(folder: Path, captioner: Captioner) -> None:
    run_on(folder, captioner)
    assert run_on(folder, captioner, redo=True)[1] == 12
    end, through_model = run_on(folder, captioner, retry_failed=True)
    assert (through_model, end.counts.failed, end.counts.failed_before) == (0, 1, 0)


def test_a_photo_that_cannot_be_read_is_tried_again_by_itself(folder: Path, captioner: Captioner) -> None:
    """Its content is unknown, so nothing says that it would fail again."""
    (folder / "dangling.png").symlink_to(folder.parent / "elsewhere.png")
    end, _ = run_on(folder, captioner)
    assert end.counts.failed == 2
    (folder.parent / "elsewhere.png").write_bytes((folder / "00.png").read_bytes() + b"x")
    end, through_model = run_on(folder, captioner)
    assert (end.counts.failed, through_model) == (1, 1)


def test_a_photo_that_is_named_twice_is_there_once(folder: Path, captioner: Captioner) -> None:
    photos = expand_paths([str(folder / "00.png"), str(folder), str(folder / "sub" / ".." / "00.png")])
    run_on(folder, captioner, photos=photos)
    paths = [row["path"] for row in rows_of(folder)]
    assert paths.count(str(folder / "00.png")) == 1
    assert len(paths) == 15


def test_a_journal_without_output_gives_rows_in_order(folder: Path, captioner: Captioner) -> None:
    """`--state` with captions on stdout: known photos and new ones come together in the right order."""
    some = [str(photo) for photo in expand_paths([str(folder)])][::3]
    run_on(folder, captioner, photos=iter(some))
    rows: list[outputs.CaptionRow] = []

    class Writer:
        def write(self, row: outputs.CaptionRow) -> None:
            rows.append(row)

    run = FolderRun(state=str(folder.parent / "out.jsonl.journal"))
    progress = CaptionProgress(enabled=False)
    run_folder(captioner, expand_paths([str(folder)]), run, OPTIONS, progress, Writer())
    found = [(row.path, row.caption.text if row.caption else None) for row in rows]
    assert found == expected_rows(folder, captioner)


# Sidecars


def test_sidecars_of_known_photos_are_written_too(folder: Path, captioner: Captioner) -> None:
    run_on(folder, captioner)
    end, through_model = run_on(folder, captioner, sinks=[TextSidecars()])
    assert (through_model, end.counts.failed) == (0, 1)
    expected = {
        Path(path).with_suffix(".txt"): text for path, text in expected_rows(folder, captioner) if text
    }
    assert {path: path.read_text().strip() for path in folder.rglob("*.txt")} == expected


def test_our_sidecars_follow_the_bundle_and_a_persons_stay(
    folder: Path, captioner: Captioner, other_captioner: Captioner, caplog: pytest.LogCaptureFixture
) -> None:
    run_on(folder, captioner, sinks=[TextSidecars()])
    (folder / "02.txt").write_text("my own words\n")
    (folder / "04.txt").unlink()
    run_on(folder, other_captioner, sinks=[TextSidecars()])
    texts = {
        Path(path).with_suffix(".txt"): text for path, text in expected_rows(folder, other_captioner) if text
    }
    texts[folder / "02.txt"] = "my own words"
    assert {path: path.read_text().strip() for path in folder.rglob("*.txt")} == texts
    assert "02.txt: left as it was" in caplog.text


def test_a_sidecar_that_was_moved_with_its_photo_follows_the_bundle(
    folder: Path, captioner: Captioner, other_captioner: Captioner, caplog: pytest.LogCaptureFixture
) -> None:
    """The text beside the moved photo is ours wherever it lies now, unless somebody changed it there; a text
    that is the same as one of ours, beside another photo, is somebody's."""
    run_on(folder, captioner, sinks=[TextSidecars()])
    album = folder / "album"
    album.mkdir()
    for name in ("02.png", "02.txt", "04.png", "04.txt"):
        (folder / name).rename(album / name)
    (album / "04.txt").write_text("my own words\n")
    stranger = (folder / "08.txt").read_bytes()
    (folder / "06.txt").write_bytes(stranger)
    run_on(folder, other_captioner, sinks=[TextSidecars()])
    captions = dict(expected_rows(folder, other_captioner))
    assert (album / "02.txt").read_text().strip() == captions[str(album / "02.png")]
    assert (album / "04.txt").read_text() == "my own words\n"
    assert (folder / "06.txt").read_bytes() == stranger
    assert "02.txt: left as it was" not in caplog.text


def test_a_sidecar_that_is_left_behind_stays(folder: Path, captioner: Captioner) -> None:
    """The photo is somewhere else now, and has its own there; we delete nothing that nobody asked us to."""
    run_on(folder, captioner, sinks=[TextSidecars()])
    left = (folder / "02.txt").read_text()
    (folder / "02.png").rename(folder / "sub" / "02.png")
    _, through_model = run_on(folder, captioner, sinks=[TextSidecars()])
    assert through_model == 0
    assert (folder / "02.txt").read_text() == left
    assert (folder / "sub" / "02.txt").read_text() == left


def test_a_disk_that_is_full_for_sidecars_ends_the_run(
    folder: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, and not one for each photo; with room again, no photo is captioned a second time."""

    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(sinks, "write_new", full)
        with pytest.raises(KilowordError, match="disk is full"):
            run_on(folder, captioner, sinks=[TextSidecars()])
    assert caplog.text.count("No space left") == 1
    end, _ = run_on(folder, captioner, sinks=[TextSidecars()])
    assert len(list(folder.rglob("*.txt"))) == 14
    assert end.counts.known > 0


def test_two_photos_do_not_fight_for_one_sidecar(folder: Path, captioner: Captioner) -> None:
    """00.png and 00.jpg share 00.txt: the first one has it, run after run."""
    Image.open(folder / "06.png").rotate(90).save(folder / "00.jpg")
    run_on(folder, captioner, sinks=[TextSidecars()])
    first = (folder / "00.txt").read_text()
    run_on(folder, captioner, sinks=[TextSidecars()])
    assert (folder / "00.txt").read_text() == first


# How runs end


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_batch_and_keeps_what_is_done(folder: Path, captioner: Captioner) -> None:
    """The signal comes while paths are listed; the run after it does the rest and no more."""
    listed = list(expand_paths([str(folder)]))

    def interrupting() -> Iterator[Any]:
        yield from listed[:9]
        seen.wait(30)
        os.kill(os.getpid(), signal.SIGINT)
        while True:  # nothing of this is done
            yield str(folder / "missing.png")

    seen = threading.Event()

    class Signalling(Counting):
        def caption_pixels(self, pixels: Any, **settings: Any) -> Any:
            captions = super().caption_pixels(pixels, **settings)
            seen.set()
            return captions

    handler = signal.getsignal(signal.SIGINT)
    signalling = Signalling(captioner)
    end, _ = run_on(folder, signalling, photos=interrupting())
    assert end.interrupted
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (folder.parent / "out.jsonl").exists()
    partial = [row for row in rows_of(folder, "out.jsonl.partial") if "caption" in row]
    assert partial
    assert set(shown(partial)) <= set(expected_rows(folder, captioner))
    _, through_model = run_on(folder, captioner)
    assert through_model == 12 - signalling.photos
    assert shown(rows_of(folder)) == expected_rows(folder, captioner)
    assert not (folder.parent / "out.jsonl.partial").exists()


def test_a_folder_that_vanishes_midway(
    folder: Path, captioner: Captioner, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for the folder, none for each photo in it; when it is back, only the rest is done."""
    listed = list(expand_paths([str(folder)]))
    elsewhere = folder.with_name("elsewhere")
    seen = threading.Event()

    class Signalling(Counting):
        def caption_pixels(self, pixels: Any, **settings: Any) -> Any:
            captions = super().caption_pixels(pixels, **settings)
            seen.set()
            return captions

    def vanishing() -> Iterator[Any]:
        yield from listed[:9]
        seen.wait(30)
        folder.rename(elsewhere)
        yield from listed[9:]

    signalling = Signalling(captioner)
    with pytest.raises(KilowordError, match=r"photos: this folder cannot be read any more.*No such file"):
        run_on(folder, signalling, photos=vanishing(), folders=[str(folder)])
    assert "cannot be read" not in caplog.text
    assert not (folder.parent / "out.jsonl").exists()
    elsewhere.rename(folder)
    _, through_model = run_on(folder, captioner, folders=[str(folder)])
    assert signalling.photos > 0
    assert through_model <= 12 - signalling.photos + OPTIONS.batch_size
    assert shown(rows_of(folder)) == expected_rows(folder, captioner)


def test_another_disk_in_the_place_of_a_folder_is_a_loss(tmp_path: Path) -> None:
    """As when a drive is pulled out: its mount point stays, empty."""
    roots = Roots.of([str(tmp_path), str(tmp_path / "a.jpg")])
    assert roots.loss() is None
    (device,) = roots.devices.values()
    loss = Roots({str(tmp_path): device + 1}).loss()
    assert loss is not None
    assert "another disk" in str(loss)


def test_a_photo_that_vanishes_is_its_own_error_only(folder: Path, captioner: Captioner) -> None:
    """The folder is there: no reason to stop."""
    listed = [*expand_paths([str(folder)]), str(folder / "gone.png")]
    end, _ = run_on(folder, captioner, photos=listed, folders=[str(folder)])
    assert end.counts.failed == 2
    assert len(rows_of(folder)) == 16


def test_a_listing_that_fails_keeps_what_is_done(folder: Path, captioner: Captioner) -> None:
    """As when a disk is pulled out midway."""
    listed = [str(photo) for photo in expand_paths([str(folder)])]

    def broken() -> Iterator[str]:
        yield from listed[:8]
        raise OSError(errno.EIO, "Input/output error", str(folder))

    with pytest.raises(OSError, match="Input/output"):
        run_on(folder, captioner, photos=broken())
    assert not (folder.parent / "out.jsonl").exists()
    end, _ = run_on(folder, captioner)
    assert shown(rows_of(folder)) == expected_rows(folder, captioner)
    assert end.counts.photos == 15


def test_a_second_run_at_once_is_refused(folder: Path, captioner: Captioner) -> None:
    """The first one is in the middle of it; nothing of it is lost."""

    def photos() -> Iterator[Any]:
        listed = list(expand_paths([str(folder)]))
        yield from listed[:5]
        try:
            run_on(folder, captioner)
        except JournalError as error:
            errors.append(str(error))
        yield from listed[5:]

    errors: list[str] = []
    run_on(folder, captioner, photos=photos())
    assert len(errors) == 1
    assert "another run" in errors[0]
    assert shown(rows_of(folder)) == expected_rows(folder, captioner)


def test_a_full_disk_at_the_output_keeps_the_captions(
    folder: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC while the output is written: the old one stays whole, no half one is left."""
    run_on(folder, captioner)
    before = (folder.parent / "out.jsonl").read_bytes()
    (folder / "02.png").unlink()

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run_on(folder, captioner)
    assert (folder.parent / "out.jsonl").read_bytes() == before
    assert sorted(os.listdir(folder.parent)) == ["out.jsonl", "out.jsonl.journal", "photos"]
    monkeypatch.undo()
    assert run_on(folder, captioner)[1] == 0
    assert shown(rows_of(folder)) == expected_rows(folder, captioner)


def test_a_file_that_changes_while_it_is_read_is_an_error_of_its_own(
    folder: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo that is still being copied: `fstat` after reading differs from the one before."""
    monkeypatch.setattr("kiloword.runtime.reading._SETTLE_S", 0.0)
    growing = os.stat(folder / "02.png").st_ino
    sizes = iter(range(1000))
    real = os.fstat

    def fstat(handle: int) -> os.stat_result:
        found = real(handle)
        if found.st_ino != growing:
            return found
        values = list(found)
        values[6] = next(sizes)
        return os.stat_result(values)

    monkeypatch.setattr("kiloword.runtime.reading.os.fstat", fstat)
    end, through_model = run_on(folder, captioner)
    errors = [row["error"] for row in rows_of(folder) if "error" in row]
    assert (end.counts.failed, through_model) == (2, 11)
    assert any("02.png: changes while it is being read" in error for error in errors)
    monkeypatch.undo()
    assert run_on(folder, captioner)[1] == 1


# Beside what is written


def test_where_the_journal_lies(tmp_path: Path) -> None:
    """Beside the output; in the folder for sidecars; nowhere where nothing is written to a file."""
    photos, output = str(tmp_path), str(tmp_path / "o.jsonl")
    assert default_state([photos], output, sidecars=True) == output + ".journal"
    assert default_state([photos], None, sidecars=True) == str(tmp_path / ".kiloword.journal")
    assert default_state([str(tmp_path / "a.jpg")], None, sidecars=True) == str(
        tmp_path / ".kiloword.journal"
    )
    assert default_state([str(tmp_path / "*" / "*.jpg")], None, sidecars=True) == str(
        tmp_path / ".kiloword.journal"
    )
    assert default_state(["-"], None, sidecars=True) == os.path.join(".", ".kiloword.journal")
    assert default_state([photos], None, sidecars=False) is None
    if os.path.exists(os.devnull):
        assert default_state([photos], os.devnull, sidecars=False) is None


def test_leftovers_of_a_killed_run_are_removed(folder: Path, captioner: Captioner) -> None:
    (folder.parent / ".out.jsonl.abc123.part").write_text("half a line")
    (folder.parent / ".other.jsonl.abc123.part").write_text("somebody else's")
    run_on(folder, captioner)
    names = os.listdir(folder.parent)
    assert ".out.jsonl.abc123.part" not in names
    assert ".other.jsonl.abc123.part" in names


def test_a_dry_run_counts_and_writes_nothing(folder: Path, captioner: Captioner) -> None:
    output = str(folder.parent / "out.jsonl")
    run = FolderRun(state=output + ".journal", output=output)
    plan = plan_run(captioner, expand_paths([str(folder)]), run, OPTIONS)
    assert (plan.done, plan.new, plan.again) == (0, 15, 0)
    assert plan.measured_now
    assert plan.seconds_per_photo
    assert os.listdir(folder.parent) == ["photos"]
    run_on(folder, captioner)
    (folder / "02.png").unlink()
    (folder / "new.png").write_bytes(b"")
    plan = plan_run(captioner, expand_paths([str(folder)]), run, OPTIONS)
    assert (plan.done, plan.new, plan.again) == (14, 1, 0)
    assert not plan.measured_now
    (folder / "04.png").rename(folder / "renamed.png")
    (folder / "06.png").write_bytes((folder / "06.png").read_bytes()[:-1] + b"?")  # the size it had
    plan = plan_run(captioner, expand_paths([str(folder)]), run, OPTIONS)
    assert (plan.done, plan.moved, plan.new, plan.again) == (12, 1, 2, 0)
    assert plan.lines()[0].startswith("15 photos: 12 done already, 1 known by another name or time, 2 new")
    (folder / "renamed.png").rename(folder / "04.png")
    plan = plan_run(
        captioner, expand_paths([str(folder)]), FolderRun(state=run.state, retry_failed=True), OPTIONS
    )
    assert (plan.done, plan.new, plan.again) == (12, 2, 1)
    plan = plan_run(captioner, expand_paths([str(folder)]), FolderRun(state=run.state, redo=True), OPTIONS)
    assert (plan.done, plan.again) == (0, 13)
    assert folder_run.default_state([str(folder)], output, sidecars=False) == run.state
