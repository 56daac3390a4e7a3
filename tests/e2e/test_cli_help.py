"""Every command explains itself, and docs/CLI.md says what --help says."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kiloword import __version__
from kiloword.cli import main
from kiloword.commands.common import PROVIDERS
from kiloword.runtime.outputs import FORMATS
from kiloword.runtime.providers import AUTO
from kiloword.runtime.providers import PROVIDERS as SESSION_PROVIDERS
from tests.docs_scripts import load_docs_script

COMMANDS = sorted(main.commands)


def test_reference_is_current(repository: Path) -> None:
    """Run `python docs/cli_reference.py > docs/CLI.md` when this fails."""
    written = (repository / "docs" / "CLI.md").read_text(encoding="utf-8")
    assert written == load_docs_script("cli_reference").reference()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"  kiloword {name}" in result.stdout.partition("Example")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    options = [option for option in main.commands[name].params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_choices_are_those_of_the_runtime() -> None:
    """They are written out in cli.py, because importing their home takes longer than all of --help."""
    assert (AUTO, *SESSION_PROVIDERS) == PROVIDERS
    (option,) = [option for option in main.commands["caption"].params if option.name == "format_name"]
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == FORMATS


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"kiloword, version {__version__}\n"


@pytest.mark.parametrize("arguments", [["-v", "inspect", "."], ["inspect", "-v", "."]])
def test_verbose_stands_anywhere(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("kiloword")
    for name, value in (("level", logging.NOTSET), ("propagate", True), ("handlers", [])):
        monkeypatch.setattr(logger, name, value)
    CliRunner().invoke(main, arguments)
    assert logger.level == logging.INFO
