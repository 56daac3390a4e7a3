"""Makes the table of a bundle's draft from captions that the bundle writes, and says how well it guesses."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kiloword.runtime.bundle import write_manifest
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.captions import Caption
from kiloword.runtime.draft import DraftTable
from kiloword.runtime.draft_spec import DraftSpec
from kiloword.runtime.errors import BundleError, ConfigError, ImageError
from kiloword.runtime.manifest import can_check_drafts
from kiloword.runtime.outputs import replace_file

if TYPE_CHECKING:
    from kiloword.runtime.captioner import ImageSource

DRAFT_FILE = "draft.npy"
FEWEST_PHOTOS = 20
_CHECKED_SHARE = 10
_LOG_EVERY = 500

_log = logging.getLogger(__name__)


def teach_draft(
    directory: Path,
    photos: Iterable[ImageSource | ImageError],
    *,
    provider: str = "auto",
    threads: int | None = None,
) -> DraftSpec:
    """Caption photos greedily, count which token follows which, and write that into the bundle.

    Every tenth caption is not counted and tells how many tokens a step writes.

    Args:
        directory: The bundle; its ``bundle.json`` changes and a file joins it.
        photos: What to caption, best of the kind that the bundle will see. What cannot be read is passed over
            with a warning.
        provider: What runs the graphs.
        threads: Threads for one operator; None for all that the process is allowed.

    Returns:
        What was written into the manifest, with how well it does in ``facts``.

    Raises:
        BundleError: There is no bundle, or its decoder cannot check what is guessed.
        ConfigError: Fewer than `FEWEST_PHOTOS` photos can be read.
    """
    with Captioner.load(directory, provider=provider, threads=threads) as captioner:
        manifest = captioner.bundle.manifest
        if not can_check_drafts(manifest.decoder):
            raise BundleError(
                "its decoder cannot check several tokens in one call",
                path=directory,
                hint="make it again with `kiloword export`; decoders that read token by token never can",
            )
        prompt = manifest.tokens.prompt_token_ids
        captions = [(*prompt, *caption.token_ids) for caption in _captions(captioner, photos)]
    if len(captions) < FEWEST_PHOTOS:
        raise ConfigError([f"a draft needs {FEWEST_PHOTOS} photos or more, found {len(captions)}"])
    counted = [caption for number, caption in enumerate(captions) if number % _CHECKED_SHARE]
    table, spec = DraftTable.counted(counted), DraftSpec(DRAFT_FILE)
    share = tokens_a_step(table, captions[::_CHECKED_SHARE], len(prompt), spec.most)
    facts = {
        "photos": len(counted),
        "entries": len(table),
        "checked_on": len(captions) - len(counted),
        "tokens_a_step": round(share, 2),
    }
    stored = io.BytesIO()
    table.save(stored)
    replace_file(directory / DRAFT_FILE, stored.getvalue())
    spec = replace(spec, facts=facts)
    write_manifest(directory, replace(manifest, draft=spec))
    return spec


def tokens_a_step(
    table: DraftTable, captions: Iterable[Sequence[int]], prompt_length: int, most: int
) -> float:
    """How many tokens a step of the search writes on average, where captions are these.

    Args:
        table: What guesses.
        captions: Token ids of each, with the prompt and the end.
        prompt_length: Tokens of the prompt.
        most: Most tokens that are guessed at once.
    """
    tokens = steps = 0
    for caption in captions:
        place = prompt_length
        while place < len(caption):
            right = 0
            written = list(caption[:place])
            while right < most and place + right < len(caption) - 1:
                if table.next(written) != caption[place + right]:
                    break
                written.append(caption[place + right])
                right += 1
            place += right + 1
            steps += 1
        tokens += len(caption) - prompt_length
    return tokens / max(steps, 1)


def _captions(captioner: Captioner, photos: Iterable[ImageSource | ImageError]) -> list[Caption]:
    """Greedy captions of all photos that can be read."""
    found: list[Caption] = []
    for result in captioner.caption_many(_readable(photos), on_error="yield", num_beams=1):
        if not isinstance(result, Caption):
            _log.warning("passed over: %s", result.error)
            continue
        found.append(result)
        if len(found) % _LOG_EVERY == 0:
            _log.info("%d photos", len(found))
    return found


def _readable(photos: Iterable[ImageSource | ImageError]) -> Iterable[ImageSource]:
    for photo in photos:
        if isinstance(photo, ImageError):
            _log.warning("passed over: %s", photo)
        else:
            yield photo
