"""Runs that are killed, that meet, and that run out of room: in processes of their own, from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.folder_kills import problems_of, run_with_kills
from benchmarks.folder_photos import SIZE_SMALL, make_photos
from tests.bundles import make_tiny_bundle

pytestmark = pytest.mark.e2e

KILOWORD = [sys.executable, "-m", "kiloword.cli"]
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    make_tiny_bundle(directory)
    return directory


def caption(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KILOWORD, "caption", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )


def test_killed_runs_lose_nothing_and_do_nothing_twice(tmp_path: Path, bundle: Path) -> None:
    """The benchmark does this with 30 kills; what is checked, and how, is written there."""
    done = run_with_kills(tmp_path / "photos", 4, most_s=1.5, photos=150, bundle=bundle)
    assert done.problems == []
    assert done.kills == 4


def test_the_check_of_kills_finds_what_is_wrong(tmp_path: Path, bundle: Path) -> None:
    """Each damage that a kill could do is named."""
    folder, output = tmp_path / "photos", tmp_path / "out.jsonl"
    make_photos(folder, 6, SIZE_SMALL)
    assert caption(folder, "-o", output, "--sidecar", "txt", "--bundle", bundle).returncode == 0
    assert problems_of(folder, output) == []
    whole = output.read_text("utf-8")
    output.write_text("".join(whole.splitlines(keepends=True)[1:]))
    assert len(problems_of(folder, output)) == 1
    output.write_text(whole)
    next(folder.rglob("*.txt")).write_text("half a")
    (tmp_path / ".out.jsonl.x.part").touch()
    assert len(problems_of(folder, output)) == 2


def test_two_runs_at_once(tmp_path: Path, bundle: Path) -> None:
    """With one journal, one of them does it all and the other says so; with two, both do, to the same end."""
    folder = tmp_path / "photos"
    make_photos(folder, 300, SIZE_SMALL)
    shared = [*KILOWORD, "caption", folder, "--bundle", bundle, "--sidecar", "txt"]
    commands = [
        [*shared, "-o", tmp_path / "one.jsonl"],
        [*shared, "-o", tmp_path / "one.jsonl"],
        [*shared, "-o", tmp_path / "two.jsonl"],
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    errors = [process.communicate(timeout=TIMEOUT_S)[1].decode() for process in processes]
    codes = [process.returncode for process in processes]
    assert codes[2] == 0, errors[2]
    # Either one may have been quicker, or even through before the other one came.
    assert sorted(codes[:2]) in ([0, 1], [0, 0]), errors
    for code, error in zip(codes[:2], errors[:2], strict=True):
        assert code == 0 or "another run is using this journal" in error
    for name in ("one", "two"):
        assert problems_of(folder, tmp_path / f"{name}.jsonl") == []


def test_a_disk_that_is_full_midway(tmp_path: Path, bundle: Path) -> None:
    """A limit on the size of files makes writes beyond it fail, as a full disk does; nothing is lost."""
    resource = pytest.importorskip("resource")
    folder, output = tmp_path / "photos", tmp_path / "out.jsonl"
    make_photos(folder, 20, SIZE_SMALL)
    for photo in folder.rglob("*.jpg"):
        os.utime(photo, (1e9, 1e9))  # the times of files as young as this run are not relied on
    assert caption(folder, "-o", output, "--bundle", bundle).returncode == 0
    output.unlink()
    make_photos(folder, 200, SIZE_SMALL)
    limit = 100_000  # room for what the journal has, and not for the rest

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [*KILOWORD, "caption", folder, "-o", output, "--bundle", bundle]
    done = subprocess.run(
        command, preexec_fn=limited, capture_output=True, encoding="utf-8", timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "out.jsonl" in line
    assert not output.exists()
    again = caption(folder, "-o", output, "--bundle", bundle, "--dry-run")
    assert again.returncode == 0, again.stderr
    assert int(again.stdout.split(" photos: ")[1].split()[0]) >= 20, again.stdout
    assert caption(folder, "-o", output, "--bundle", bundle).returncode == 0
    assert len(output.read_text("utf-8").splitlines()) == 200


def test_a_run_on_a_small_disk(tmp_path: Path, bundle: Path) -> None:
    """A real file system without room, where one can be mounted: one line, and what was there stays."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        make_photos(tmp_path / "photos", 400, SIZE_SMALL)
        output = disk / "out.jsonl"
        output.write_text("what was there\n")
        done = caption(tmp_path / "photos", "-o", output, "--bundle", bundle)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "full" in line or "No space left" in line
        assert output.read_text() == "what was there\n"
        assert sorted(os.listdir(disk))[:1] == ["out.jsonl"]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert caption(tmp_path / "photos", "-o", output, "--bundle", bundle).returncode == 0
        assert len(output.read_text("utf-8").splitlines()) == 400
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe in the place of a slow disk")
def test_a_slow_file_holds_up_nobody(tmp_path: Path, bundle: Path) -> None:
    """The first photo comes through a pipe that nobody writes to; the others are captioned meanwhile."""
    folder = tmp_path / "photos"
    make_photos(folder, 40, SIZE_SMALL)
    slow = tmp_path / "slow.jpg"
    os.mkfifo(slow)
    command = [
        *KILOWORD,
        "caption",
        slow,
        folder,
        "--bundle",
        bundle,
        "--sidecar",
        "txt",
        "--format",
        "jsonl",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while len(list(folder.rglob("*.txt"))) < 40:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        slow.write_bytes(next(folder.rglob("*.jpg")).read_bytes())
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    rows = [json.loads(line) for line in stdout.decode().splitlines()]
    assert [row["path"] for row in rows] == [
        str(slow),
        *(str(path) for path in sorted(folder.rglob("*.jpg"))),
    ]
