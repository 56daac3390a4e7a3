"""A command in the documentation is a command that CI runs, or at least one that the program would accept.

Code blocks in README.md, CONTRIBUTING.md and docs/*.md are read by their info string:

- `sh` and `python` blocks are run from start to end, in a folder that holds a copy of `examples/`.
- `sh no-run` and `python no-run` blocks (training takes hours, a camera may be absent) are parsed.
- Each command line of both kinds, and of `$` lines in `console` blocks, is checked against what it calls:
  `kiloword` and `python cli.py` against the click group, `make` against the Makefile, `pip install`
  against the extras.

Some lines of a `sh` block are not run here. `make` lines: a test run is no place to build environments, so
`.ci/run` runs them, and a test fails where it does not. `pip install` lines: `.ci/run` installs what
they name in its own environments. `git clone` and the `cd` after it: this is that clone.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from kiloword.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(?P<info>\w[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
OTHER_PROGRAMS = {"cd", "cp", "cat", "curl", "echo", "find", "git", "ls", "mkdir", "npm", "tar", "torchrun"}
"""Programs that are not ours and that a reader has."""


@dataclass(frozen=True)
class Block:
    """One fenced block of code."""

    page: str
    """Where it stands, relative to the root."""
    line: int
    """The line that its fence opens on, from 1."""
    language: str
    """`sh`, `console`, `python` or another."""
    run: bool
    """Whether CI runs it."""
    body: str
    """The text between the fences."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> Iterator[Block]:
    """Find the fenced blocks of one page."""
    for match in FENCE.finditer(text):
        language, *flags = match["info"].split()
        run = language in {"sh", "python"} and "no-run" not in flags
        yield Block(page, text.count("\n", 0, match.start()) + 1, language, run, match["body"])


def all_blocks() -> list[Block]:
    """Find the blocks of all pages."""
    pages = [page for page in PAGES if page.exists()]
    return [
        block
        for page in pages
        for block in blocks_of(str(page.relative_to(REPOSITORY)), page.read_text(encoding="utf-8"))
    ]


def command_lines(block: Block) -> list[str]:
    """The command lines of a shell block: continued lines joined, comments and printed output left out."""
    lines = block.body.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def simple_commands(line: str) -> list[list[str]]:
    """`FOO=1 a x > y | b && c` -> [[a, x], [b], [c]]."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    redirected = False
    for token in lexer:
        if set(token) <= set("<>"):
            redirected = True
        elif set(token) <= set("|&;()"):
            commands.append([])
        elif redirected:
            redirected = False
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=.*", token):
            commands[-1].append(token)
    return [command for command in commands if command]


def problem(command: list[str]) -> str | None:
    """Say what is wrong with a simple command, or None."""
    program, *arguments = command
    if command[:2] == ["python", "cli.py"]:
        program, arguments = "kiloword", arguments[1:]
    if program == "kiloword":
        return problem_of_kiloword(arguments)
    if program == "make":
        return problem_of_make(arguments)
    if program == "pip":
        return problem_of_pip(arguments)
    if program == "python" or program in OTHER_PROGRAMS or program == ".ci/run":
        return None
    return f"nobody checks `{program}`"


def problem_of_kiloword(arguments: list[str]) -> str | None:
    """Parse the arguments exactly as the command line does, without calling the command."""
    position = next(
        (index for index, word in enumerate(arguments) if not word.startswith("-")), len(arguments)
    )
    name = arguments[position] if position < len(arguments) else ""
    try:
        if position == len(arguments):
            main.make_context("kiloword", list(arguments))
        elif name not in main.commands:
            return f"there is no command `{name}`"
        else:
            main.commands[name].make_context(name, arguments[position + 1 :])
    except click.exceptions.Exit:  # --help and --version
        return None
    except click.UsageError as error:
        return error.format_message()
    return None


def problem_of_make(targets: list[str]) -> str | None:
    """Each target has a rule in the Makefile."""
    rules = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = {target for target in targets if "=" not in target} - set(rules)
    return f"no such target: {sorted(unknown)}" if unknown else None


def problem_of_pip(arguments: list[str]) -> str | None:
    """Each extra is one that pyproject.toml has."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    asked = {
        extra for group in re.findall(r"\[([\w,]+)\]", " ".join(arguments)) for extra in group.split(",")
    }
    unknown = asked - set(settings["project"]["optional-dependencies"])
    return f"no such extra: {sorted(unknown)}" if unknown else None


def left_to_ci(line: str) -> bool:
    """Whether `.ci/run` runs this line and not this test."""
    return line.startswith(("make ", "pip install ", "git clone ", "cd kiloword"))


BLOCKS = all_blocks()
SHELL = [block for block in BLOCKS if block.language in {"sh", "console"}]
PYTHON = [block for block in BLOCKS if block.language == "python"]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder to run a page's commands in: what they write must not land in the checkout."""
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    (tmp_path / "cli.py").symlink_to(REPOSITORY / "cli.py")
    return tmp_path


def run_in(workplace: Path, command: list[str], script: str) -> None:
    """Run a script from stdin with this environment's programs first on the path; fail with what it said."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        input=script,
        cwd=workplace,
        env={**os.environ, "PATH": programs},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def test_the_checks_find_mistakes() -> None:
    """The checker itself, on lines with a known mistake each."""
    assert simple_commands("A=1 ls x > y | kiloword caption - && cd z") == [
        ["ls", "x"],
        ["kiloword", "caption", "-"],
        ["cd", "z"],
    ]
    assert problem(["kiloword", "no-such-command"])
    assert problem(["kiloword", "caption", "--no-such-option", "x.jpg"])
    assert problem(["python", "cli.py", "caption", "--format", "no-such-format", "x.jpg"])
    assert problem(["make", "no-such-target"])
    assert problem(["pip", "install", ".[no_such_extra]"])
    assert problem(["no-such-program"])
    assert problem(["kiloword", "caption", "--format", "jsonl", "x.jpg"]) is None
    assert problem(["kiloword", "--help"]) is None


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_command_lines_are_accepted(block: Block) -> None:
    """Nothing is documented that the program, the Makefile or pyproject.toml does not know."""
    problems = [
        f"{' '.join(command)}: {found}"
        for line in command_lines(block)
        for command in simple_commands(line)
        if (found := problem(command))
    ]
    assert problems == []


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_documented(name: str) -> None:
    """docs/CLI.md has a heading for each command, and names each of its options."""
    page = REPOSITORY / "docs" / "CLI.md"
    if not page.exists():
        pytest.skip("there is no docs/CLI.md yet")
    sections = re.split(r"^#+ ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = "".join(text for text in sections if re.match(rf"`?kiloword {name}\b", text))
    assert section, f"docs/CLI.md has no heading `kiloword {name}`"
    options = [
        parameter.opts for parameter in main.commands[name].params if isinstance(parameter, click.Option)
    ]
    assert [names for names in options if not any(option in section for option in names)] == []


@pytest.mark.e2e
@pytest.mark.parametrize("block", [block for block in SHELL if block.run], ids=str)
def test_shell_blocks_run(block: Block, workplace: Path) -> None:
    """Each line of a `sh` block ends well, here or in `.ci/run`."""
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    ours, theirs = [], []
    for line in command_lines(block):
        (theirs if left_to_ci(line) else ours).append(line)
    for line in theirs:
        assert not line.startswith("make ") or line in ci, f"`.ci/run` does not run `{line}`"
    if ours:
        run_in(workplace, ["bash", "-euo", "pipefail", "-s"], "\n".join(ours))


@pytest.mark.e2e
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_run(block: Block, workplace: Path) -> None:
    """Each `python` block is a whole program; one that is not run is at least Python."""
    ast.parse(block.body)
    if block.run:
        run_in(workplace, [sys.executable, "-W", "error", "-"], block.body)
