"""`kiloword label`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import (
    FiniteRange,
    as_written,
    echo,
    log_at_least_info,
    needs_extra,
    split_source,
    threads_option,
    verbose_option,
)


@click.command(
    epilog=as_written(
        "Data sets are named as for `kiloword evaluate`; their captions are not looked at.",
        "",
        "Example:",
        "  kiloword label bundles/mine --classifier vit.safetensors --names names.txt --data flickr8k:train",
    )
)
@click.argument("bundle", type=click.Path())
@click.option(
    "--classifier", type=click.Path(), required=True, metavar="FILE",
    help="ViT with its classifier, safetensors with names as in timm.",
)  # fmt: skip
@click.option("--names", type=click.Path(), required=True, metavar="FILE", help="Its classes, one a line.")
@click.option(
    "--data", "sources", multiple=True, required=True, metavar="DATASET[:SPLIT]",
    help="Photos to learn from; may be given more than once.",
)  # fmt: skip
@click.option(
    "--least", type=FiniteRange(0, 1), metavar="X", default=0.3, show_default=True,
    help="Least probability of a name that is said.",
)  # fmt: skip
@click.option(
    "--views", type=click.IntRange(min=1), metavar="N", default=2, show_default=True,
    help="How often each photo is looked at: whole, then in part.",
)  # fmt: skip
@threads_option
@verbose_option
def label(
    bundle: str,
    classifier: str,
    names: str,
    sources: tuple[str, ...],
    least: float,
    views: int,
    threads: int | None,
) -> None:
    """Teach a bundle to name what may be in a photo.

    Where there is no reliable caption it then says, for example, "no reliable description; perhaps:
    espresso". The names are those of a classifier, which looks at the photos of DATASET beside the bundle's
    encoder. Two files join the bundle, its others stay as they are.
    """
    log_at_least_info()
    with needs_extra("train"):
        from kiloword.runtime.bundle import read_manifest
        from kiloword.train.datasets import load_records
        from kiloword.train.label_fitting import load_teacher, teach_labels

        size = read_manifest(Path(bundle)).image.height
        teacher = load_teacher(Path(classifier), Path(names), size)
        records = [record for source in sources for record in load_records(*split_source(source)).records]
        facts = teach_labels(Path(bundle), records, teacher, least=least, views=views, threads=threads).facts
    echo(
        f"{bundle}: learned from {facts['photos']} photos; on {facts['checked_on']} others:\n"
        f"  says something: {facts['says_something']:.1%}; its first name is among the classifier's five: "
        f"{facts['first_name_among_the_classifiers_five']:.1%}\n"
        f"  names the classifier's answer, where that is sure ({facts['classifier_is_sure']:.1%}): "
        f"{facts['classifiers_answer_named_where_it_is_sure']:.1%}\n"
    )
