"""Says captions aloud with the voice that the system has: espeak-ng, macOS' say, or Windows' speech.

The words go to the voice's standard input, never onto a command line: a caption is data.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from contextlib import suppress
from threading import Lock

from kiloword.runtime.errors import KilowordError

_STOP_TIMEOUT_S = 1.0
_WINDOWS_SCRIPT = (
    "[Console]::InputEncoding = [Text.Encoding]::UTF8; "
    "Add-Type -AssemblyName System.Speech; "
    "(New-Object System.Speech.Synthesis.SpeechSynthesizer).Speak([Console]::In.ReadToEnd())"
)
_VOICES = (
    ("espeak-ng", ("--stdin",)),
    ("espeak", ("--stdin",)),
    ("say", ("-f", "-")),
    ("powershell", ("-NoProfile", "-NonInteractive", "-Command", _WINDOWS_SCRIPT)),
)
_HINTS = {"linux": "sudo apt install espeak-ng", "darwin": "say hello", "win32": "powershell"}

_log = logging.getLogger(__name__)


def find_voice() -> list[str]:
    """The command of the first voice that is there; it reads what to say from its standard input.

    Raises:
        KilowordError: There is none.
    """
    for program, arguments in _VOICES:
        if program == "powershell" and sys.platform != "win32":
            continue  # there is a PowerShell for Linux; it has no voice
        found = shutil.which(program)
        if found is not None:
            return [found, *arguments]
    raise KilowordError(
        "no speech synthesiser to speak with",
        expected="espeak-ng, espeak, say or Windows' speech",
        found="none on PATH",
        hint=_HINTS.get(sys.platform, _HINTS["linux"]),
    )


class Speaker:
    """Speaks one sentence at a time; a new one cuts off the old, which describes what is over.

    Args:
        command: The voice; None for the one that the system has.

    Raises:
        KilowordError: The system has none.
    """

    def __init__(self, command: list[str] | None = None) -> None:
        self._command = command or find_voice()
        self._speaking: subprocess.Popen[bytes] | None = None
        self._complained = False
        self._lock = Lock()

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def say(self, sentence: str) -> None:
        """Begin to speak; returns at once."""
        with self._lock:
            self._end()
            try:
                self._speaking = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=sys.platform != "win32",  # Ctrl-C is for us, and we end the voice
                )
            except OSError as error:
                self._complain(error.strerror or str(error))
                return
            self._tell(self._speaking, sentence)

    def finish(self, timeout_s: float = 15.0) -> None:
        """Wait until what was begun is said, but no longer than this."""
        if self._speaking is not None:
            with suppress(subprocess.TimeoutExpired):
                self._speaking.wait(timeout_s)

    def stop(self) -> None:
        """Be silent."""
        with self._lock:
            self._end()

    def _tell(self, voice: subprocess.Popen[bytes], sentence: str) -> None:
        if voice.stdin is None:
            return
        with (
            suppress(BrokenPipeError),
            voice.stdin as stdin,
        ):  # a voice that ended at once is named when it is reaped
            stdin.write(sentence.encode())

    def _end(self) -> None:
        voice, self._speaking = self._speaking, None
        if voice is None:
            return
        if voice.poll() is None:
            voice.terminate()
            try:
                voice.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                voice.kill()
                voice.wait()
        elif voice.returncode:
            self._complain(f"ended with code {voice.returncode}")

    def _complain(self, reason: str) -> None:
        """Once: a voice without a sound card fails at each sentence, and captions go on."""
        if not self._complained:
            _log.warning("%s: cannot speak: %s", self._command[0], reason)
        self._complained = True
