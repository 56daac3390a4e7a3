"""`kiloword calibrate`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import (
    FiniteRange,
    as_written,
    echo,
    log_at_least_info,
    needs_extra,
    provider_option,
    split_source,
    threads_option,
    verbose_option,
)


@click.command(
    epilog=as_written(
        "Data sets are named as for `kiloword evaluate`; without a SPLIT, all of it is taken.",
        "Never name photos that the bundle was trained on, nor those that you will report results on.",
        "",
        "Example:",
        "  kiloword calibrate bundles/mine --data flickr8k:dev --data coco/captions_dev.json",
    )
)
@click.argument("bundle", type=click.Path())
@click.option(
    "--data", "sources", multiple=True, required=True, metavar="DATASET[:SPLIT]",
    help="Photos with captions to fit on; may be given more than once.",
)  # fmt: skip
@click.option(
    "--good-cider", type=FiniteRange(0, 1000), metavar="X", default=40.0, show_default=True,
    help="A caption is good from this CIDEr on.",
)  # fmt: skip
@click.option(
    "--lost", type=FiniteRange(0, 0.5), metavar="SHARE", default=0.01, show_default=True,
    help="Share of photos that may be taken for something else, and that may be too uncertain.",
)  # fmt: skip
@click.option(
    "--sure-from", type=FiniteRange(0, 1), metavar="X", default=0.5, show_default=True,
    help='Below this confidence, say "probably".',
)  # fmt: skip
@click.option(
    "--cache", type=click.Path(file_okay=False), metavar="DIR", help="Keep captions here for the next time."
)
@threads_option
@provider_option
@verbose_option
def calibrate(
    bundle: str,
    sources: tuple[str, ...],
    good_cider: float,
    lost: float,
    sure_from: float,
    cache: str | None,
    threads: int | None,
    provider: str,
) -> None:
    """Make a bundle know how far to trust its captions.

    Captions the photos of DATASET and fits how probable it is that a caption is good, and how photos differ
    from screenshots, text, charts, drawings and empty pictures. The numbers go into the bundle's bundle.json;
    its other files stay as they are.
    """
    log_at_least_info()
    with needs_extra("train"):
        from kiloword.train.calibration import CalibrationSettings
        from kiloword.train.calibration import calibrate as run_calibration
        from kiloword.train.datasets import load_records

        records = {source: load_records(*split_source(source)).records for source in sources}
        settings = CalibrationSettings(good_cider=good_cider, lost_share=lost, sure_from=sure_from)
        spec = run_calibration(
            Path(bundle),
            records,
            settings,
            provider=provider,
            threads=threads,
            cache=None if cache is None else Path(cache),
        )
    check = spec.facts["check"]
    echo(
        f"{bundle}: fitted on {spec.facts['fitted_on']} photos; on {spec.facts['checked_on']} others:\n"
        f"  good captions {check['good_share']:.1%}, calibration error {check['calibration_error']:.3f}, "
        f"area under ROC {check['area_under_roc']:.3f}\n"
        f'  said without "probably": {check["sure_share"]:.1%}\n'
        f"  photos taken for something else {check['taken_for_no_photo']:.1%}, "
        f"too uncertain {check['too_uncertain']:.1%}\n"
    )
