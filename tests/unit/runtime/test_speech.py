"""Speaking, with a fake voice on PATH: a script that writes down what it hears and how it ends."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import pytest

from kiloword.runtime.errors import KilowordError
from kiloword.runtime.speech import Speaker, find_voice

TIMEOUT_S = 30.0
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="the fake voice is a shell script")


def make_voice(folder: Path, *, then: str = "exit 0", name: str = "espeak-ng") -> Path:
    """A voice that appends what it reads to `heard`, and then does what it is told to."""
    heard = folder / "heard"
    script = folder / name
    script.write_text(f'#!/bin/sh\nprintf "%s: %s\\n" "$*" "$(cat)" >> "{heard}"\n{then}\n')
    script.chmod(0o755)
    heard.touch()
    return heard


def wait_for(heard: Path, lines: int) -> list[str]:
    deadline = time.monotonic() + TIMEOUT_S
    while len(found := heard.read_text(encoding="utf-8").splitlines()) < lines:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@posix_only
def test_a_sentence_is_read_from_standard_input(path: Path) -> None:
    """Not from the command line: a caption that begins with a dash is no option, and `$(...)` no command."""
    heard = make_voice(path)
    with Speaker() as speaker:
        speaker.say("-v $(touch pwned); the café 犬")
        assert wait_for(heard, 1) == ["--stdin: -v $(touch pwned); the café 犬"]
    assert not Path("pwned").exists()


@posix_only
def test_a_new_sentence_cuts_off_the_old(path: Path) -> None:
    """The old voice would go on for a minute; it is told to stop, and is gone."""
    heard = make_voice(path, then=f'trap "echo cut off >> {path}/heard; exit 0" TERM; sleep 60 & wait')
    with Speaker() as speaker:
        speaker.say("one")
        wait_for(heard, 1)
        time.sleep(0.1)  # until the script has set its trap
        first = speaker._speaking
        speaker.say("two")
        assert first is not None
        assert first.returncode is not None
        lines = wait_for(heard, 3)
        last = speaker._speaking
    assert sorted(lines) == ["--stdin: one", "--stdin: two", "cut off"]
    assert last is not None
    assert last.returncode is not None  # silence at the end, and no zombie


@posix_only
def test_a_voice_that_fails_is_named_once_and_stops_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As espeak-ng does where there is no sound card."""
    make_voice(path, then="exit 3")
    with caplog.at_level(logging.WARNING, "kiloword"), Speaker() as speaker:
        for sentence in ("one", "two", "three"):
            speaker.say(sentence)
            speaker.finish()
    (record,) = caplog.records
    assert record.getMessage() == f"{path}/espeak-ng: cannot speak: ended with code 3"


@posix_only
def test_a_voice_that_does_not_listen(path: Path) -> None:
    """It ends before it has read anything: no broken pipe comes out."""
    script = path / "espeak-ng"
    script.write_text("#!/bin/sh\nexec <&-\nexit 0\n")
    script.chmod(0o755)
    with Speaker() as speaker:
        for _ in range(5):
            speaker.say("one " * 100_000)


@posix_only
def test_the_best_voice_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(path))
    make_voice(path, name="say")
    assert find_voice() == [str(path / "say"), "-f", "-"]
    make_voice(path, name="espeak-ng")
    assert find_voice() == [str(path / "espeak-ng"), "--stdin"]


def test_without_a_voice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KilowordError, match="no speech synthesiser") as caught:
        Speaker()
    assert "espeak-ng" in str(caught.value)
