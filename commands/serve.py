"""`kiloword serve`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import (
    FiniteRange,
    as_written,
    batch_size_option,
    bundle_option,
    needs_extra,
    provider_option,
    threads_option,
    verbose_option,
)
from kiloword.runtime.errors import ConfigError

_MIN_TOKEN = 16
_REMOTE_RATE = 20.0
_NEW_TOKEN = "--token-file FILE, made with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


@click.command(
    epilog=as_written(
        "Examples:",
        "  kiloword serve",
        "  curl -F photo=@cat.jpg http://127.0.0.1:8765/v1/captions",
        "  curl -N -H 'Accept: text/event-stream' -F photo=@cat.jpg http://127.0.0.1:8765/v1/captions",
        "  kiloword serve --host 0.0.0.0 --token-file token.txt",
    )
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--token", envvar="KILOWORD_TOKEN", metavar="TEXT",
    help="What clients must send as bearer token; better in the environment as KILOWORD_TOKEN, "
    "for other users see command lines.",
)  # fmt: skip
@click.option("--token-file", type=click.Path(), metavar="FILE", help="The same, from the file's first line.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME",
    help="A name besides localhost and plain addresses by which clients call this server; may be repeated.",
)  # fmt: skip
@click.option(
    "--max-waiting", type=click.IntRange(min=1), default=128, show_default=True, metavar="N",
    help="Photos that may wait; beyond them clients are told to come back.",
)  # fmt: skip
@click.option(
    "--max-photo-mib", type=FiniteRange(min=0, min_open=True), default=32, show_default=True,
    metavar="N", help="Largest photo, in MiB.",
)  # fmt: skip
@click.option(
    "--max-megapixels", type=FiniteRange(min=0, min_open=True), default=64, show_default=True,
    metavar="N", help="Largest photo, in millions of pixels.",
)  # fmt: skip
@click.option(
    "--rate", type=FiniteRange(min=0), metavar="N",
    help="Photos a second that one address may send; 0 is any number.  "
    "[default: 0 on this machine, 20 elsewhere]",
)  # fmt: skip
@bundle_option
@provider_option
@threads_option
@batch_size_option
@verbose_option
def serve(
    host: str,
    port: int,
    token: str | None,
    token_file: str | None,
    allow_host: tuple[str, ...],
    max_waiting: int,
    max_photo_mib: float,
    max_megapixels: float,
    rate: float | None,
    bundle: str | None,
    provider: str,
    threads: int | None,
    batch_size: int,
) -> None:
    """Caption over HTTP, with the model kept warm.

    It listens on this machine only; another address needs a token. The page at / takes photos and shows the
    captions as they are written; docs/SERVER.md has the rest. Ctrl-C ends it when the requests that run are
    answered.
    """
    with needs_extra("serve"):
        from kiloword.runtime.serve.guard import Access
        from kiloword.runtime.serve.limits import MIB, ServeLimits
        from kiloword.runtime.serve.server import CaptionServer, is_loopback
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.pipeline import plan_lanes

    here = is_loopback(host)
    secret = _token(token, token_file)
    if secret is None and not here:
        raise ConfigError(
            [f"--host {host}: others can reach this address, so a token is needed"], hint=_NEW_TOKEN
        )
    if rate is None:
        rate = 0.0 if here else _REMOTE_RATE
    # As for folders: one thread a lane does more than one lane with all threads.
    lanes, lane_threads = plan_lanes(threads)
    max_photo_bytes = round(max_photo_mib * MIB)
    limits = ServeLimits(
        max_body_bytes=2 * max_photo_bytes,
        max_photo_bytes=max_photo_bytes,
        max_photos=min(64, max_waiting),
        max_pixels=round(max_megapixels * 1e6),
        max_waiting=max_waiting,
        batch_size=batch_size,
        lanes=lanes,
        photos_per_second=rate or None,
    )
    with Captioner.load(bundle, provider=provider, threads=lane_threads) as captioner:
        server = CaptionServer(
            captioner, host=host, port=port, limits=limits, access=Access(secret, (host, *allow_host))
        )
        name = captioner.bundle.name
        server.run(on_ready=lambda url: click.echo(f"{name} at {url} (Ctrl-C ends it)", err=True))
    click.echo("stopped", err=True)


def _token(token: str | None, token_file: str | None) -> str | None:
    """The token from where it was given."""
    if token_file is not None:
        if token is not None:
            raise ConfigError(["--token-file: expected either it or --token (KILOWORD_TOKEN), found both"])
        lines = Path(token_file).read_text(encoding="utf-8").splitlines()
        token = lines[0].strip() if lines else ""
    if token is not None and (len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable()):
        problem = f"the token: expected {_MIN_TOKEN} plain characters or more, found {len(token)}"
        raise ConfigError([problem], hint=_NEW_TOKEN)
    return token
