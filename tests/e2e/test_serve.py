"""`kiloword serve` as a process of its own: start, answer, stop; and its OpenAPI document held against it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bundles import make_tiny_bundle
from tests.servers import ask

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.e2e

CLI = [sys.executable, "-m", "kiloword.cli"]
HOOKS = """
import io
import schemathesis
from hypothesis import strategies
from PIL import Image

def photo(size):
    stream = io.BytesIO()
    Image.new("RGB", size, "teal").save(stream, "JPEG")
    return stream.getvalue()

# Random bytes are no photo, and the document cannot say what a JPEG is.
photos = strategies.tuples(*[strategies.integers(1, 40)] * 2).map(photo)
for kind in ("image/*", "image/jpeg", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, photos)
schemathesis.openapi.format("binary", photos)
"""


@contextmanager
def serving(directory: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its URL; it is killed at the end if it still lives."""
    bundle = make_tiny_bundle(directory / "bundle").directory
    command = [*CLI, "serve", "--port", "0", "--bundle", str(bundle), "--threads", "1", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        found = re.search(r"http://\S+", said)
        assert found, said + process.stderr.read()
        yield process, found[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_well(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as (process, url):
        assert ask(url, "GET", "/healthz").json()["status"] == "ok"
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "stopped\n"


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "serve", *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--host", "0.0.0.0"), "a token is needed"),
        (("--token", "short"), "expected 16 plain characters"),
        (("--host", "203.0.113.7", "--token", "x" * 20, "--port", "0"), "cannot listen on 203.0.113.7"),
    ],
)
def test_what_it_refuses_to_start_with(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle").directory
    done = run("--bundle", str(bundle), *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert expected in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_token_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("the-token-of-this-file\n", encoding="utf-8")
    with serving(tmp_path, "--token-file", str(tmp_path / "token")) as (_, url):
        right = {"Authorization": "Bearer the-token-of-this-file"}
        assert ask(url, "GET", "/v1/bundle", headers=right).status == 200
        assert ask(url, "GET", "/v1/bundle").status == 401


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--token", "a-token-of-this-test")])
def test_the_openapi_document_is_true(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """schemathesis, with all its checks: statuses, types, headers, schemas, wrong refused, right taken."""
    pytest.importorskip("schemathesis")
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program, "schemathesis is installed without its program"
    (tmp_path / "hooks.py").write_text(HOOKS, encoding="utf-8")
    headers = ["--header", f"Authorization: Bearer {arguments[1]}"] if arguments else []
    with serving(tmp_path, *arguments) as (_, url):
        done = subprocess.run(
            [program, "run", f"{url}openapi.json", "--max-examples", "20", "--seed", "1", *headers],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert ask(url, "GET", "/healthz").status == 200


def test_the_document_names_every_route_with_an_answer(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, url):
        document = json.loads(ask(url, "GET", "/openapi.json").body)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {"/v1/captions", "/v1/bundle", "/healthz", "/metrics"}
