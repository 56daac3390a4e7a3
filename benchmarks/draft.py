"""What guessing tokens gains: greedy captions with a bundle's draft and without, by turns; one thread.

    python -m benchmarks.draft [--bundle DIR --what read]

And what the decoder takes for one call that reads one token, two, ... eight, where the gain comes from.
Photos are test photos where the data are, else the examples: the draft was counted on others.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import pin_to_cpus, shown_path, write_result
from benchmarks.quality import DATA, DATA_SETS
from kiloword.runtime.bench.pictures import pixels_of
from kiloword.runtime.bench.steps import decoder_feeds
from kiloword.runtime.bench.timing import paired_ratio, summarize, take_turns
from kiloword.runtime.bundle import Bundle, load_bundle
from kiloword.runtime.draft import Drafter
from kiloword.runtime.generation import generate
from kiloword.runtime.hypotheses import Generated
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import GenerationSettings
from kiloword.runtime.sessions import Sessions, load_sessions
from kiloword.train.datasets import load_records

READ = (1, 2, 3, 4, 5, 6, 8)
"""Tokens of one call."""


@dataclass(frozen=True)
class Written:
    """A caption, and in how many steps it was written."""

    caption: Generated
    steps: int


def caption_row(
    sessions: Sessions, bundle: Bundle, photos: Sequence[NDArray[np.uint8]], rounds: int
) -> dict[str, Any]:
    """Greedy captions with and without the draft: time of all tokens, steps, and whether they agree."""
    settings = replace(bundle.manifest.generation, num_beams=1)
    drafters = {"without": None, "draft": sessions.drafter}
    written: dict[str, dict[int, Written]] = {name: {} for name in drafters}
    encoded = [sessions.encoder.encode(pixels[None]) for pixels in photos]

    def write(name: str, drafter: Drafter | None) -> Callable[[int], None]:
        def at(turn: int) -> None:
            place = turn % len(photos)
            steps: list[object] = []
            tokens = bundle.manifest.tokens
            (caption,) = generate(
                sessions.decoder, encoded[place], tokens, settings, on_step=steps.append, drafter=drafter
            )
            written[name][place] = Written(caption, len(steps))

        return at

    variants = {name: write(name, drafter) for name, drafter in drafters.items()}
    taken = take_turns(variants, rounds * len(photos), warm_up=8)
    drafted = written["draft"]
    pairs = [(written["without"][place].caption, one.caption) for place, one in drafted.items()]
    same = [plain.token_ids == other.token_ids for plain, other in pairs]
    return {
        "measurement": "caption",
        "photos": len(photos),
        "tokens": round(statistics.fmean(len(plain.token_ids) for plain, _ in pairs), 2),
        **{f"{name}_ms": asdict(summarize(samples)) for name, samples in taken.items()},
        **{
            f"{name}_steps": round(statistics.fmean(one.steps for one in found.values()), 2)
            for name, found in written.items()
        },
        "times_as_fast": round(paired_ratio(taken["without"], taken["draft"]), 2),
        "same_captions": round(statistics.fmean(same), 4),
        "largest_logprob_difference": round(
            max(
                abs(a - b)
                for agrees, (plain, other) in zip(same, pairs, strict=True)
                if agrees
                for a, b in zip(plain.token_logprobs, other.token_logprobs, strict=True)
            ),
            4,
        ),
    }


def read_rows(sessions: Sessions, bundle: Bundle, rounds: int) -> list[dict[str, Any]]:
    """A call in the middle of a caption that reads so many tokens."""
    (pixels, *_) = pixels_of((), bundle.manifest.image)
    settings: GenerationSettings = replace(bundle.manifest.generation, num_beams=1)
    feeds = decoder_feeds(bundle, sessions.decoder, sessions.encoder.encode(pixels[None]), settings)
    ids, rows = (bundle.manifest.decoder.inputs_of(role)[0].name for role in ("token_ids", "beam_rows"))
    middle = feeds[len(feeds) // 2]
    context, state = (
        {tensor.name: middle[tensor.name] for tensor in bundle.manifest.decoder.inputs_of(role)}
        for role in ("context", "cache")
    )

    def read(count: int) -> Callable[[int], None]:
        tokens = np.tile(middle[ids], (1, 1, count))

        def call(_: int) -> None:
            sessions.decoder.read(tokens, middle[rows], context, state)

        return call

    taken = take_turns({count: read(count) for count in READ}, rounds)
    return [
        {
            "measurement": "read",
            "tokens": count,
            "ms": asdict(summarize(samples)),
            "times_one": round(paired_ratio(samples, taken[1]), 2),
        }
        for count, samples in taken.items()
    ]


def _photos(bundle: Bundle, count: int) -> list[NDArray[np.uint8]]:
    """Test photos of each data set, as many of one as of the other; the examples where there are none."""
    image = bundle.manifest.image
    if not DATA.is_dir():
        return list(pixels_of((), image))
    found: list[NDArray[np.uint8]] = []
    for name in ("flickr8k-test", "coco-dev"):
        records = load_records(DATA / DATA_SETS[name].source, DATA_SETS[name].split).records
        found += [load_image(record.image, image) for record in records[: count // 2]]
    return found


@click.command()
@click.option("--count", default=600, show_default=True, help="Test photos.")
@click.option("--rounds", default=1, show_default=True, help="Captions of each photo, and 200 calls each.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option(
    "--what", type=click.Choice(("all", "read")), default="all", show_default=True,
    help="read: the calls alone, for bundles without a draft.",
)  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(count: int, rounds: int, bundle: Path | None, what: str, output: Path | None) -> None:
    """Measure greedy captions with and without guesses, and calls that read several tokens."""
    pin_to_cpus(1)
    checked = load_bundle(bundle)
    sessions = load_sessions(checked, "cpu", 1)
    if what == "all" and sessions.drafter is None:
        raise click.ClickException(f"{checked.directory} has no draft; `kiloword draft` makes one")
    rows = read_rows(sessions, checked, 200 * rounds)
    if what == "all":
        rows.append(caption_row(sessions, checked, _photos(checked, count), rounds))
    for row in rows:
        click.echo(", ".join(f"{name} {value}" for name, value in row.items()))
    settings = {"bundle": shown_path(checked.directory), "threads": 1, "rounds": rounds}
    click.echo(f"wrote {write_result('draft', settings, rows, output)}")


if __name__ == "__main__":
    main()
