"""The command line as a user runs it: real processes, their stdout, stderr and exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from kiloword import Captioner
from kiloword.cli import main
from tests.bundles import make_tiny_bundle
from tests.videos import make_video

pytestmark = pytest.mark.e2e

KILOWORD = (sys.executable, "-m", "kiloword.cli")
TIMEOUT_S = 120
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pipes")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("bundle")
    make_tiny_bundle(directory)
    return str(directory)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small photos, one of them in a subfolder."""
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number * 80, 200, 90)).save(path)
    return tmp_path / "photos"


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def kiloword(
    *arguments: str | Path,
    stdin: str | bytes = b"",
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command and return what it printed, decoded as the UTF-8 that it promises."""
    done = subprocess.run(
        [*KILOWORD, *map(str, arguments)],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    )


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines on stderr; a traceback is always wrong."""
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()


def assert_one_error(done: subprocess.CompletedProcess[str], *parts: str | Path, code: int = 1) -> None:
    """Exactly one line, which begins with `error:` and has all parts; nothing on stdout."""
    lines = error_lines(done)
    assert done.returncode == code
    assert done.stdout == ""
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert str(part) in lines[0]


# Captions and where they go


def test_one_photo_gives_its_caption_alone(bundle: str, folder: Path) -> None:
    done = kiloword("caption", folder / "a.png", "--bundle", bundle)
    assert (done.returncode, error_lines(done)) == (0, [])
    assert done.stdout.endswith("\n")
    assert done.stdout.count("\n") == 1
    assert "a.png" not in done.stdout


def test_a_folder_gives_path_and_caption_per_line(bundle: str, folder: Path) -> None:
    """And no progress bar, for stderr is no terminal here."""
    done = kiloword("caption", "photos", "--bundle", bundle, cwd=folder.parent)
    assert (done.returncode, error_lines(done)) == (0, [])
    paths = [line.split(": ")[0] for line in done.stdout.splitlines()]
    assert paths == [os.path.join("photos", *name.split("/")) for name in ("a.png", "b.png", "sub/c.png")]


def test_jsonl_csv_and_text_agree(bundle: str, folder: Path) -> None:
    """Three ways of writing the same captions."""
    text = kiloword("caption", folder, "--bundle", bundle).stdout
    rows = [
        json.loads(line)
        for line in kiloword("caption", folder, "--bundle", bundle, "--format", "jsonl").stdout.splitlines()
    ]
    table = list(
        csv.DictReader(io.StringIO(kiloword("caption", folder, "--bundle", bundle, "--format", "csv").stdout))
    )
    assert [f"{row['path']}: {row['caption']}" for row in rows] == text.splitlines()
    assert [(row["path"], row["caption"]) for row in table] == [(row["path"], row["caption"]) for row in rows]
    assert {"path", "caption", "confidence", "bundle", "latency_ms"} <= rows[0].keys()
    assert all(0 <= row["confidence"] <= 1 and row["bundle"] == "tiny" for row in rows)


def test_options_reach_the_model(bundle: str, folder: Path) -> None:
    """Two tokens at most give two words at most; batches of any size give the same captions (fp32)."""
    short = kiloword(
        "caption", folder / "a.png", "--bundle", bundle, "--max-new-tokens", "2", "--num-beams", "3"
    )
    assert len(short.stdout.split()) <= 2
    one = kiloword(
        "caption", folder, "--bundle", bundle, "--batch-size", "1", "--threads", "1", "--provider", "cpu"
    )
    assert one.stdout == kiloword("caption", folder, "--bundle", bundle).stdout


def test_output_file_takes_its_format_from_its_name(bundle: str, folder: Path, tmp_path: Path) -> None:
    done = kiloword("caption", folder, "--bundle", bundle, "-o", tmp_path / "out.jsonl")
    assert (done.returncode, done.stdout, error_lines(done)) == (0, "", [])
    assert len([json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]) == 3


def test_stdin_globs_and_folders_together(bundle: str, folder: Path) -> None:
    done = kiloword("caption", folder / "*.png", "-", "--bundle", bundle, stdin=f"{folder / 'sub'}\n")
    assert len(done.stdout.splitlines()) == 3
    assert done.returncode == 0


@posix_only
def test_stdin_is_answered_line_by_line(bundle: str, folder: Path) -> None:
    """One process, one model, and an answer before the next question."""
    with subprocess.Popen(
        [*KILOWORD, "caption", "-", "--bundle", bundle, "--format", "jsonl"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdin
        assert process.stdout
        for name in ("a.png", "b.png"):
            process.stdin.write(f"{folder / name}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["path"] == str(folder / name)
        process.stdin.close()
        assert process.wait(TIMEOUT_S) == 0


def test_paths_in_any_alphabet_with_any_locale(bundle: str, folder: Path) -> None:
    """LANG=C and Windows code pages made other tools crash at the first such name."""
    photo = folder / "Фото 🐈.png"
    shutil.copy(folder / "a.png", photo)
    env = environment(LC_ALL="C", PYTHONIOENCODING="cp1251")
    done = kiloword("caption", folder, "--bundle", bundle, env=env)
    assert done.returncode == 0
    assert f"{photo}: " in done.stdout


@posix_only
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses such names")
def test_a_name_that_is_no_utf8(bundle: str, folder: Path) -> None:
    shutil.copy(folder / "a.png", os.fsencode(folder) + b"/caf\xe9.png")
    for format_name in ("text", "jsonl", "csv", "table"):
        done = kiloword("caption", folder, "--bundle", bundle, "--format", format_name)
        assert (done.returncode, error_lines(done)) == (0, [])
        assert "\\udce9" in done.stdout


def test_sidecars(bundle: str, folder: Path) -> None:
    """Captions beside the photos; on the second run nothing to do; a person's text stays and is named."""
    (folder / "b.txt").write_text("my own words\n")
    for _ in range(2):
        done = kiloword("caption", folder, "--bundle", bundle, "--sidecar", "txt")
        assert done.returncode == 0
        (warning,) = error_lines(done)
        assert warning.startswith("warning: ")
        assert str(folder / "b.txt") in warning
    captions = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert (folder / "a.txt").read_text().strip() == captions[0]
    assert (folder / "sub" / "c.txt").read_text().strip() == captions[2]
    assert (folder / "b.txt").read_text() == "my own words\n"


# What is wrong is said once, clearly, and the others get their captions


@pytest.fixture
def hostile(folder: Path) -> dict[str, Path]:
    """One of each bad file beside the three good ones."""
    jpeg = folder / "whole.jpg"
    Image.effect_noise((400, 300), 60).convert("RGB").save(jpeg)
    files = {"missing": folder / "missing.jpg", "empty": folder / "empty.jpg"}
    files |= {"truncated": folder / "truncated.jpg", "text": folder / "text.jpg"}
    files["empty"].touch()
    files["truncated"].write_bytes(jpeg.read_bytes()[: jpeg.stat().st_size // 10])
    files["text"].write_text("this is no picture\n")
    jpeg.unlink()
    return files


def test_bad_files_get_a_line_each_and_the_others_their_captions(
    bundle: str, folder: Path, hostile: dict[str, Path]
) -> None:
    done = kiloword("caption", folder, hostile["missing"], "--bundle", bundle, "--format", "jsonl")
    rows = {Path(row["path"]): row for row in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    assert len(rows) == 7
    assert sum("caption" in row for row in rows.values()) == 3
    expected = {
        "missing": "no such file",
        "empty": "empty",
        "truncated": "truncated",
        "text": "not a picture",
    }
    for name, words in expected.items():
        row = rows[hostile[name]]
        assert "caption" not in row
        assert words in row["error"]
        assert len([line for line in error_lines(done) if str(hostile[name]) in line and words in line]) == 1
    assert len(error_lines(done)) == 5  # one for each, and how many there were
    assert "4 of 7 failed" in done.stderr


@pytest.mark.parametrize("name", ["missing", "empty", "truncated", "text"])
def test_a_single_bad_file(bundle: str, hostile: dict[str, Path], name: str) -> None:
    assert_one_error(kiloword("caption", hostile[name], "--bundle", bundle), hostile[name])


def test_a_folder_without_photos(bundle: str, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert_one_error(kiloword("caption", tmp_path / "nothing", "--bundle", bundle), "nothing", "no photos")


def flip_a_byte(directory: Path) -> None:
    path = directory / "decoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_a_file(directory: Path) -> None:
    (directory / "encoder.onnx").unlink()


def set_future_version(directory: Path) -> None:
    manifest = json.loads((directory / "bundle.json").read_text("utf-8"))
    (directory / "bundle.json").write_text(json.dumps({**manifest, "format_version": 99}))


def remove_all(directory: Path) -> None:
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (flip_a_byte, ("decoder.onnx", "expected", "found")),
        (remove_a_file, ("encoder.onnx", "missing")),
        (set_future_version, ("bundle.json", "99", "upgrade")),
        (remove_all, ("no such directory",)),
    ],
)
@pytest.mark.parametrize("command", ["caption", "inspect"])
def test_a_bad_bundle(
    folder: Path, tmp_path: Path, damage: object, parts: Sequence[str], command: str
) -> None:
    """Each of these is one line with the file, and no photo is touched before it is known."""
    directory = tmp_path / "bundle"
    make_tiny_bundle(directory)
    assert callable(damage)
    damage(directory)
    arguments = ["inspect", directory] if command == "inspect" else ["caption", folder, "--bundle", directory]
    assert_one_error(kiloword(*arguments), directory, *parts)


def test_an_unknown_provider_is_misuse(bundle: str, folder: Path) -> None:
    done = kiloword("caption", folder, "--bundle", bundle, "--provider", "abacus")
    assert done.returncode == 2
    assert "abacus" in done.stderr
    assert "cuda" in done.stderr  # what there is to choose from
    assert done.stdout == ""


def test_a_provider_that_is_not_there_is_an_error(bundle: str, folder: Path) -> None:
    """Never a silent fall-back to the CPU (onnxruntime#23372)."""
    import onnxruntime

    if "CoreMLExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CoreML is there")
    assert_one_error(kiloword("caption", folder, "--bundle", bundle, "--provider", "coreml"), "coreml", "cpu")


def test_impossible_settings_are_one_error(bundle: str, folder: Path) -> None:
    assert_one_error(
        kiloword("caption", folder, "--bundle", bundle, "--num-beams", "9999"), "num_beams", "9999"
    )


def test_an_output_that_cannot_be_written(bundle: str, folder: Path, tmp_path: Path) -> None:
    done = kiloword("caption", folder, "--bundle", bundle, "-o", tmp_path / "nowhere" / "out.txt")
    assert_one_error(done, "nowhere")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(bundle: str, folder: Path) -> None:
    done = kiloword("caption", folder, "--bundle", bundle, "-o", "/dev/full")
    assert done.returncode == 1
    assert any("No space left" in line for line in error_lines(done))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("caption",),
        ("caption", "a.png", "--num-beams", "0"),
        ("caption", "a.png", "--format", "xml"),
        ("caption", "a.png", "--bom"),
        ("caption", "a.png", "b.png", "--bom", "-o", "captions.jsonl"),
        ("caption", "a.png", "--workers", "2"),
        ("dance",),
    ],
    ids=" ".join,
)
def test_misuse_exits_with_2(arguments: tuple[str, ...]) -> None:
    done = kiloword(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("a.png", "--bom"), ("a.png", "--redo"), ("a.png", "--gallery", "page.html", "--bom")]
)
def test_misuse_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    loaded: list[dict[str, Any]] = []
    monkeypatch.setattr(Captioner, "load", lambda *_, **options: loaded.append(options))
    done = CliRunner().invoke(main, ["caption", *arguments])
    assert done.exit_code == 2, done.output
    assert loaded == []


# How a run ends


@posix_only
def test_a_closed_pipe_ends_the_run_quietly(bundle: str, folder: Path) -> None:
    """`kiloword caption folder | head -1` must not end in a traceback."""
    photo = (folder / "a.png").read_bytes()
    for number in range(200):  # each with a content of its own, for copies are captioned once
        (folder / f"{number:03d}.png").write_bytes(photo + bytes([number]))
    with subprocess.Popen(
        [*KILOWORD, "caption", folder, "--bundle", bundle],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
        assert process.wait(TIMEOUT_S) == 1
    assert stderr == b""


@posix_only
def test_ctrl_c_keeps_what_was_done(bundle: str, folder: Path, tmp_path: Path) -> None:
    """One line that says how to go on, exit code 130, and what was done is known to the next run."""
    arguments = ["caption", "-", "--bundle", bundle, "--format", "jsonl", "--state", str(tmp_path / "state")]
    with subprocess.Popen(
        [*KILOWORD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(f"{folder / 'a.png'}\n".encode())
        process.stdin.flush()
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
        (last,) = process.stderr.read().decode().splitlines()
    go_on = "interrupted after 1 photo; to go on: kiloword "
    assert last.startswith(go_on)
    assert shlex.split(last.removeprefix(go_on)) == arguments
    (folder / "a.png").rename(folder / "moved.png")
    done = kiloword(*arguments, stdin=f"{folder / 'moved.png'}\n")
    assert json.loads(done.stdout) == {**json.loads(line), "path": str(folder / "moved.png")}


# The camera


def test_webcam_describes_a_video_and_ends_with_it(bundle: str, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", frames=15)
    done = kiloword("webcam", "--source", video, "--headless", "--format", "jsonl", "--bundle", bundle)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert lines[-1]["frame"] == 14
    assert all(line["age_ms"] >= line["latency_ms"] > 0 and "caption" in line for line in lines)
    (summary,) = error_lines(done)
    assert f"{len(lines)} captions of 15 frames" in summary


def test_webcam_stops_after_max_frames(bundle: str, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", frames=300)
    arguments = (
        "--source",
        video,
        "--headless",
        "--format",
        "jsonl",
        "--max-frames",
        "2",
        "--bundle",
        bundle,
    )
    done = kiloword("webcam", *arguments)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)


@posix_only
def test_ctrl_c_ends_the_webcam_with_a_summary(bundle: str, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", frames=3000)
    with subprocess.Popen(
        [*KILOWORD, "webcam", "--source", video, "--headless", "--format", "jsonl", "--bundle", bundle],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert len(stderr.splitlines()) == 1
    assert b"captions of" in stderr or b"caption of" in stderr


@pytest.mark.parametrize("source", ["97", "nowhere.mp4", "notes.mp4"])
def test_webcam_without_a_camera(bundle: str, tmp_path: Path, source: str) -> None:
    """One line of ours, and not a word on stderr by OpenCV or ffmpeg."""
    pytest.importorskip("cv2")
    (tmp_path / "notes.mp4").write_text("no video")
    done = kiloword("webcam", "--source", source, "--headless", "--bundle", bundle, cwd=tmp_path)
    assert_one_error(done, source, "--source video.mp4")


def test_webcam_without_a_display(bundle: str, tmp_path: Path) -> None:
    """Qt would abort the process with a core dump."""
    if sys.platform in ("win32", "darwin"):
        pytest.skip("there is always a display")
    video = make_video(tmp_path / "a.mp4", frames=3)
    env = {key: value for key, value in environment().items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = kiloword("webcam", "--source", video, "--bundle", bundle, env=env)
    assert_one_error(done, "display", "--headless")


# The other commands


def test_inspect(bundle: str) -> None:
    text = kiloword("inspect", bundle)
    assert (text.returncode, error_lines(text)) == (0, [])
    assert "input_ids" in text.stdout
    as_json = kiloword("inspect", bundle, "--json")
    assert json.loads(as_json.stdout) == json.loads((Path(bundle) / "bundle.json").read_text("utf-8"))


def make_dataset(folder: Path) -> Path:
    lines = [{"file_name": f"{name}.png", "text": f"a {name} dog"} for name in ("a", "b")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_evaluate(bundle: str, folder: Path, tmp_path: Path) -> None:
    """The scores themselves are tested where they are computed; here, that they come out."""
    dataset = make_dataset(folder)
    text = kiloword("evaluate", dataset, "--split", "all", "--bundle", bundle)
    assert text.returncode == 0, text.stderr
    assert "BLEU-4" in text.stdout
    out = tmp_path / "report.json"
    done = kiloword("evaluate", dataset, "--split", "all", "--bundle", bundle, "--format", "json", "-o", out)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(json.loads(out.read_text("utf-8"))["photos"]) == 2


def test_evaluate_without_a_data_set(bundle: str, tmp_path: Path) -> None:
    assert_one_error(kiloword("evaluate", tmp_path / "nowhere", "--bundle", bundle), "nowhere")


def test_train_without_a_recipe(tmp_path: Path) -> None:
    """The recipe is read before torch is imported."""
    assert_one_error(kiloword("train", tmp_path / "nowhere.toml"), "nowhere.toml", "recipe")


@pytest.mark.parametrize("name", ["nowhere", "empty", "file.txt"])
def test_export_of_what_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    for package in ("torch", "onnx", "onnxscript"):
        pytest.importorskip(package)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("no checkpoint\n")
    assert_one_error(kiloword("export", tmp_path / name, "-o", tmp_path / "out"), name, "checkpoint")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [("train", "tiny"), ("export", "nowhere")], ids=["train", "export"])
def test_without_torch_the_extra_is_named(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """torch is hidden by a module of that name that fails as a missing one does."""
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    done = kiloword(*arguments, env=environment(PYTHONPATH=str(tmp_path)), cwd=tmp_path)
    assert_one_error(done, "torch", f'pip install "kiloword[{arguments[0]}]"')


def test_python_cli_py_is_the_same(bundle: str, folder: Path, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, repository / "cli.py", "caption", folder, "--bundle", bundle],
        capture_output=True,
        env=environment(),
        check=True,
        timeout=TIMEOUT_S,
    )
    assert done.stdout.decode() == kiloword("caption", folder, "--bundle", bundle).stdout


def test_help_imports_nothing_heavy() -> None:
    """What makes `kiloword --help` answer in a tenth of a second."""
    script = (
        "import sys\nfrom kiloword.cli import main\n"
        "try:\n    main(['caption', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'onnxruntime', 'PIL', 'rich', 'tokenizers', 'cv2', 'torch', 'onnx'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["heavy: []"], done.stderr
