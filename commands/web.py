"""`kiloword web`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import as_written, verbose_option

_MIB = 1 << 20


@click.command(
    epilog=as_written(
        "Examples:",
        "  kiloword web -o site",
        "  kiloword web my_bundle -o site --onnxruntime-web package",
        "  python -m http.server --directory site",
    )
)
@click.argument("bundle", type=click.Path(), required=False)
@click.option("-o", "--output", type=click.Path(), required=True, metavar="DIR", help="The folder to write.")
@click.option(
    "--onnxruntime-web", type=click.Path(), metavar="DIR",
    help="The unpacked npm package.  [default: fetched with npm, once]",
)  # fmt: skip
@verbose_option
def web(bundle: str | None, output: str, onnxruntime_web: str | None) -> None:
    """Write a page that captions in the browser alone.

    BUNDLE is a bundle's directory; the one in the package if it is left out. The folder can be put on any
    static host: the browser fetches the model once, runs it with onnxruntime-web, and no photo leaves the
    page. Opened as a file it does not run, for browsers refuse modules there.
    """
    from kiloword.runtime.bundle import load_bundle
    from kiloword.runtime.web.build import write_web_page

    package = None if onnxruntime_web is None else Path(onnxruntime_web)
    page = write_web_page(load_bundle(bundle), Path(output), package)
    click.echo(
        f"{page.directory}: {page.size_bytes / _MIB:.1f} MiB; python -m http.server --directory {output}",
        err=True,
    )
