"""Photos in, captions out: the class that most programs need alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, overload

import numpy as np

from kiloword.runtime.assessment import Assessor
from kiloword.runtime.attention import add_attention, choose_layers
from kiloword.runtime.background import InBackground
from kiloword.runtime.bundle import Bundle, loading_bundle
from kiloword.runtime.captions import Caption, CaptionFailure, confidence
from kiloword.runtime.errors import ConfigError, ImageError, KilowordError
from kiloword.runtime.generation import generate, generate_stream
from kiloword.runtime.images import Photo, import_decoders, load_photo
from kiloword.runtime.manifest import AttentionSpec, GenerationSettings, check_generation
from kiloword.runtime.providers import AUTO
from kiloword.runtime.sessions import Sessions, import_onnxruntime, load_sessions
from kiloword.runtime.tokenizer import Tokenizer
from kiloword.runtime.wording import Wording, WordRules

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray
    from PIL.Image import Image

    from kiloword.runtime.sessions import Tensors

__all__ = ["Caption", "CaptionFailure", "Captioner", "ImageSource", "confidence"]

ImageSource: TypeAlias = Union[str, "PathLike[str]", bytes, "Image", "NDArray[np.uint8]"]
"""A path, an encoded picture's bytes, a PIL image, or an array uint8 (height, width, 3) in RGB."""


class Captioner:
    """A loaded bundle that captions photos.

    Make one with `load` and keep it: loading takes far longer than a caption. One captioner may be used from
    several threads; its calls then share the processor.

    >>> from kiloword import Captioner
    >>> with Captioner.load(provider="cpu", threads=1) as captioner:
    ...     caption = captioner.caption("cat.jpg", num_beams=3)
    >>> 0 < caption.confidence <= 1
    True
    """

    def __init__(
        self,
        bundle: Bundle,
        sessions: Sessions,
        tokenizer: Tokenizer,
        wording: Wording | None = None,
        min_confidence: float | None = None,
    ) -> None:
        self._bundle = bundle
        self._sessions: Sessions | None = sessions
        self._tokenizer = tokenizer
        self._provider = sessions.provider
        self._min_confidence = min_confidence
        self._assessor = Assessor(bundle, min_confidence)
        self._wording = wording
        self._rules = None if wording is None else WordRules(wording, tokenizer)

    @classmethod
    def load(
        cls,
        bundle: str | PathLike[str] | None = None,
        *,
        provider: str = AUTO,
        threads: int | None = None,
        wording: Wording | None = None,
        min_confidence: float | None = None,
    ) -> Captioner:
        """Load a bundle and get ready to caption.

        Args:
            bundle: Directory of the bundle; None for the one that ships in the package.
            provider: ``cpu``, ``cuda``, ...; ``auto`` takes the best that loads and logs which.
            threads: Threads for one operator; None for all that the process is allowed, at most 8.
            wording: Words never to write, and words to prefer to others; None: any that the model likes.
            min_confidence: A caption with less confidence (0..1) is not reliable; None: the bundle decides.

        Raises:
            BundleError: The bundle is missing, damaged or of another version.
            ProviderError: The provider that was asked for is not there.
            ConfigError: ``threads`` is less than 1, or the wording contradicts itself.
        """
        # Hashing and loading happen outside Python's lock; what is needed next is imported meanwhile.
        with loading_bundle(bundle) as checked:
            import_onnxruntime()
            loading = InBackground(lambda: load_sessions(checked, provider, threads))
            tokenizer = Tokenizer(checked.tokenizer_path)
            import_decoders()
            sessions = loading.result()
        return cls(checked, sessions, tokenizer, wording, min_confidence)

    def reworded(self, wording: Wording | None) -> Captioner:
        """A captioner with another choice of words that shares this one's loaded graphs.

        Raises:
            ConfigError: The wording contradicts itself.
        """
        sessions = self._open_sessions()
        return Captioner(self._bundle, sessions, self._tokenizer, wording, self._min_confidence)

    @property
    def bundle(self) -> Bundle:
        """The bundle that was loaded."""
        return self._bundle

    @property
    def provider(self) -> str:
        """The execution provider that really runs."""
        return self._provider

    def caption(
        self,
        image: ImageSource,
        *,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        length_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        attention: bool | Sequence[int] = False,
    ) -> Caption:
        """Caption one photo.

        Args:
            image: Path, encoded bytes, PIL image, or array uint8 (height, width, 3) in RGB (OpenCV's is BGR).
            num_beams: Hypotheses kept; 1 is greedy. This and the following default to the bundle's own.
            max_new_tokens: Most tokens in the caption.
            length_penalty: More favours longer captions.
            no_repeat_ngram_size: No sequence of this many tokens occurs twice; 0 allows all.
            attention: Also say where the decoder looked for each word; the caption is read a second time.
                True: mean over all of the decoder's layers; a list: over these, counted from 0.

        Raises:
            ImageError: The picture cannot be read.
            ConfigError: The settings make no sense, or the bundle cannot say where it looked.

        >>> captioner = Captioner.load()
        >>> caption = captioner.caption("cat.jpg", max_new_tokens=10)
        >>> len(caption.token_ids) <= 10
        True
        """
        settings = self._settings(num_beams, max_new_tokens, length_penalty, no_repeat_ngram_size)
        looking = self._attention_spec(attention)
        start = time.perf_counter()
        photo = load_photo(image, self._bundle.manifest.image)
        return self._describe([photo], settings, start, looking)[0]

    @overload
    def caption_many(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        on_error: Literal["raise"] = "raise",
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        length_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        attention: bool | Sequence[int] = False,
    ) -> Iterator[Caption]: ...

    @overload
    def caption_many(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        on_error: Literal["yield"],
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        length_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        attention: bool | Sequence[int] = False,
    ) -> Iterator[Caption | CaptionFailure]: ...

    def caption_many(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        on_error: Literal["raise", "yield"] = "raise",
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        length_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        attention: bool | Sequence[int] = False,
    ) -> Iterator[Caption | CaptionFailure]:
        """Caption any number of photos, a batch at a time.

        Args:
            images: Image sources as for `caption`; read as they are needed, so a generator may be endless.
            batch_size: Photos that go through the graphs together.
            on_error: ``raise`` at the first photo that fails, or ``yield`` a `CaptionFailure` in its place.
            num_beams: As for `caption`, like the settings that follow.
            max_new_tokens: As for `caption`.
            length_penalty: As for `caption`.
            no_repeat_ngram_size: As for `caption`.
            attention: As for `caption`.

        Returns:
            One result for each photo, in order.

        Raises:
            ImageError: A picture cannot be read and ``on_error`` is ``raise``.
            ConfigError: The settings make no sense; raised at once, before the first photo.

        >>> captioner = Captioner.load()
        >>> results = captioner.caption_many(["cat.jpg", "missing.jpg"], on_error="yield")
        >>> [type(result).__name__ for result in results]
        ['Caption', 'CaptionFailure']
        """
        settings = self._settings(num_beams, max_new_tokens, length_penalty, no_repeat_ngram_size)
        looking = self._attention_spec(attention)
        problems = []
        if batch_size < 1:
            problems.append(f"batch_size: expected 1 or more, found {batch_size}")
        if on_error not in ("raise", "yield"):
            problems.append(f"on_error: expected 'raise' or 'yield', found {on_error!r}")
        if problems:
            raise ConfigError(problems)
        return self._caption_batches(iter(images), batch_size, on_error == "yield", settings, looking)

    def caption_pixels(
        self,
        pixels: NDArray[np.uint8],
        *,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        length_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        attention: bool | Sequence[int] = False,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Caption]:
        """Caption a batch of photos that `images.load_image` has read already.

        Args:
            pixels: uint8 (batch_size, height, width, 3), RGB, of the size in ``bundle.manifest.image``.
            num_beams: As for `caption`, like the settings that follow.
            max_new_tokens: As for `caption`.
            length_penalty: As for `caption`.
            no_repeat_ngram_size: As for `caption`.
            attention: As for `caption`.
            on_text: Called with a photo's number and its text so far, each time that a word was added. With
                more than one beam, words that were shown may still change.

        Raises:
            ImageError: The array has another shape or element type.
            ConfigError: The settings make no sense.
        """
        settings = self._settings(num_beams, max_new_tokens, length_penalty, no_repeat_ngram_size)
        looking = self._attention_spec(attention)
        self._check_pixels(pixels)
        photos = [Photo(one) for one in pixels]
        return self._describe(photos, settings, time.perf_counter(), looking, on_text) if photos else []

    def stream(
        self,
        image: ImageSource,
        *,
        max_new_tokens: int | None = None,
        no_repeat_ngram_size: int | None = None,
    ) -> Iterator[str]:
        """Caption one photo greedily, word by word as the words come.

        Args:
            image: As for `caption`.
            max_new_tokens: As for `caption`.
            no_repeat_ngram_size: As for `caption`.

        Yields:
            Pieces of text; joined, they are the text of a greedy `caption`.

        Raises:
            ImageError: The picture cannot be read.
            ConfigError: The settings make no sense.

        >>> captioner = Captioner.load()
        >>> "".join(captioner.stream("cat.jpg")) == captioner.caption("cat.jpg", num_beams=1).text
        True
        """
        settings = self._settings(1, max_new_tokens, None, no_repeat_ngram_size)
        sessions = self._open_sessions()
        photo = load_photo(image, self._bundle.manifest.image)
        encoded = sessions.encoder.encode(photo.pixels[None])
        tokens = self._bundle.manifest.tokens
        growing = generate_stream(sessions.decoder, encoded, tokens, settings, self._rules, sessions.drafter)
        yield from self._tokenizer.decode_stream(growing)

    def close(self) -> None:
        """Free the graphs' memory; the captioner cannot be used afterwards."""
        self._sessions = None

    def __enter__(self) -> Captioner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_sessions(self) -> Sessions:
        if self._sessions is None:
            raise KilowordError(
                "the captioner is closed", path=self._bundle.directory, hint="Captioner.load()"
            )
        return self._sessions

    def settings_that_count(
        self, *, num_beams: int | None = None, max_new_tokens: int | None = None
    ) -> dict[str, Any]:
        """All settings that a caption depends on besides the bundle, ready for JSON.

        Args:
            num_beams: As for `caption`.
            max_new_tokens: As for `caption`.

        Raises:
            ConfigError: The settings make no sense.
        """
        search = asdict(self._settings(num_beams, max_new_tokens, None, None))
        wording = None if self._wording is None else asdict(self._wording)
        return {**search, "wording": wording, "min_confidence": self._min_confidence}

    def _settings(
        self,
        num_beams: int | None,
        max_new_tokens: int | None,
        length_penalty: float | None,
        no_repeat_ngram_size: int | None,
    ) -> GenerationSettings:
        """The bundle's defaults with what this call overrides; wrong ones are refused before any work."""
        given = {
            "num_beams": num_beams,
            "max_new_tokens": max_new_tokens,
            "length_penalty": length_penalty,
            "no_repeat_ngram_size": no_repeat_ngram_size,
        }
        manifest = self._bundle.manifest
        overrides = {name: value for name, value in given.items() if value is not None}
        settings = replace(manifest.generation, **overrides)  # type: ignore[arg-type]
        problems = check_generation(settings, manifest.tokens)
        if problems:
            raise ConfigError(problems)
        return settings

    def _check_pixels(self, pixels: NDArray[np.uint8]) -> None:
        image = self._bundle.manifest.image
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (image.height, image.width, 3):
            raise ImageError(
                "the pixels have the wrong form",
                expected=f"uint8 (batch_size, {image.height}, {image.width}, 3)",
                found=f"{pixels.dtype} {pixels.shape}",
                hint="kiloword.runtime.images.load_image",
            )

    def _caption_batches(
        self,
        images: Iterator[ImageSource],
        batch_size: int,
        keep_failures: bool,
        settings: GenerationSettings,
        looking: AttentionSpec | None,
    ) -> Iterator[Caption | CaptionFailure]:
        while batch := list(islice(images, batch_size)):
            yield from self._caption_batch(batch, keep_failures, settings, looking)

    def _caption_batch(
        self,
        batch: Sequence[ImageSource],
        keep_failures: bool,
        settings: GenerationSettings,
        looking: AttentionSpec | None,
    ) -> list[Caption | CaptionFailure]:
        """Caption the photos of a batch that can be read, and put the failures where they belong."""
        start = time.perf_counter()
        loaded = [self._try_load(image, keep_failures) for image in batch]
        photos = [item for item in loaded if isinstance(item, Photo)]
        captions = iter(self._describe(photos, settings, start, looking) if photos else [])
        return [item if isinstance(item, CaptionFailure) else next(captions) for item in loaded]

    def _try_load(self, image: ImageSource, keep_failures: bool) -> Photo | CaptionFailure:
        try:
            return load_photo(image, self._bundle.manifest.image)
        except ImageError as error:
            if not keep_failures:
                raise
            return CaptionFailure(error)

    def _describe(
        self,
        photos: Sequence[Photo],
        settings: GenerationSettings,
        start: float,
        looking: AttentionSpec | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Caption]:
        """Caption a batch; ``start`` is when `time.perf_counter` was read."""
        sessions, manifest = self._open_sessions(), self._bundle.manifest
        encoded = sessions.encoder.encode(np.stack([photo.pixels for photo in photos]))
        on_step = None if on_text is None else self._tokenizer.teller(on_text)
        results = generate(
            sessions.decoder, encoded, manifest.tokens, settings, self._rules, on_step, sessions.drafter
        )
        texts = [self._tokenizer.decode(result.token_ids) for result in results]
        latency_ms = 1000 * (time.perf_counter() - start) / len(results)
        captions = [
            self._assessor.caption(result, text, latency_ms, photo, _row(encoded, row))
            for row, (result, text, photo) in enumerate(zip(results, texts, photos, strict=True))
        ]
        if looking is None:
            return captions
        return add_attention(captions, sessions.decoder, encoded, manifest.tokens, looking, self._tokenizer)

    def _attention_spec(self, attention: bool | Sequence[int]) -> AttentionSpec | None:
        if attention is False:
            return None
        spec = self._bundle.manifest.attention
        if spec is None:
            problem = "attention: the manifest does not say how to tell where the decoder looks"
            raise ConfigError(
                [problem],
                path=self._bundle.directory,
                hint="export the checkpoint again with `kiloword export`; a decoder that reads the picture "
                "as the beginning of its text has no attention to show",
            )
        return spec if attention is True else choose_layers(spec, attention)


def _row(encoded: Tensors, row: int) -> Tensors:
    """One photo's part of what the encoder returned for a batch."""
    return {name: value[row] for name, value in encoded.items()}
