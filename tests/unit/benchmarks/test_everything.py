"""`make bench`: every part takes the arguments that it is given, and a failure stops no other."""

from __future__ import annotations

import importlib
import subprocess
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("onnx")

from benchmarks import everything

NAMES = sorted(everything.PARTS | everything.PEERS)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_part_takes_its_arguments(name: str, quick: bool) -> None:
    """The command of each benchmark parses them, without being run."""
    arguments = everything.parts_of(quick=quick, with_peers=True).get(name)
    if arguments is None:
        assert (name, quick) == ("quality", True)
        return
    importlib.import_module(f"benchmarks.{name}").main.make_context(name, list(arguments))


def test_rivals_are_installed_only_where_they_are_asked_for() -> None:
    assert not {"peers", "imported"} & set(everything.parts_of(quick=False, with_peers=False))


def test_what_fails_is_named_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """No benchmark runs here; the one that is told to fail is in the end's line, and the page is written."""
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command[1:])
        return subprocess.CompletedProcess(command, "benchmarks.speed" in command)

    monkeypatch.setattr(subprocess, "run", run)
    done = CliRunner().invoke(everything.main, ["--quick"])
    assert (done.exit_code, done.output.splitlines()[-1]) == (1, "Error: not measured: speed")
    assert ran[0] == ["-m", "benchmarks.speed", "--rounds", "12"]
    (growth,) = [command for command in ran if "benchmarks.growth" in command]
    assert growth[2] != everything.FOLDER
    assert ran[-1] == ["docs/benchmarks.py"]
