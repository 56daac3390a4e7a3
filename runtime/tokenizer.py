"""From token ids to text, by the tokenizers library alone.

A screen reader once joined sub-words with spaces by itself and read them out like that; a tokenizer carries
its own decoder, and nobody else should put words together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kiloword.runtime.errors import BundleError


class Tokenizer:
    """A `tokenizer.json`, for decoding.

    Args:
        path: The file, in the format of the tokenizers library.

    Raises:
        BundleError: The file is not a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for a file it cannot parse
            raise BundleError(
                "is not a tokenizer",
                path=path,
                expected="a file of the tokenizers library",
                found=str(error),
                hint="make the bundle again with `kiloword export`",
            ) from error

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self._library.get_vocab_size()

    def is_special(self, token_id: int) -> bool:
        """True for tokens that are no text, such as the end of sequence."""
        added = self._library.get_added_tokens_decoder().get(token_id)
        return added is not None and bool(added.special)

    def pieces(self) -> dict[int, str]:
        """What each token that is text adds to a text that it follows; a space first if it begins a word."""
        ids = [token for token in range(self.vocab_size) if not self.is_special(token)]
        anchor = next(token for token in ids if self._library.decode([token]).strip().isalpha())
        before = self._library.decode([anchor])
        texts = self._library.decode_batch([[anchor, token] for token in ids], skip_special_tokens=True)
        # A decoder may join what follows in its own way; then the token is taken as it is alone.
        return {
            token: text[len(before) :] if text.startswith(before) else self._library.decode([token])
            for token, text in zip(ids, texts, strict=True)
        }

    def spellings(self, words: Sequence[str]) -> list[list[int]]:
        """The tokens that a text with these words would be cut into: in its middle, and where it begins."""
        start = len(self._library.encode("a", add_special_tokens=False).ids)
        found = []
        for word in words:
            found.append(self._library.encode(word, add_special_tokens=False).ids)
            found.append(self._library.encode(f"a {word}", add_special_tokens=False).ids[start:])
        return [ids for ids in found if ids]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Put tokens together to text.

        Args:
            token_ids: Ids, special tokens among them.

        Returns:
            The text without special tokens and without spaces around it.
        """
        return self._library.decode(list(token_ids), skip_special_tokens=True).strip()

    def decode_stream(self, growing: Iterable[Sequence[int]]) -> Iterator[str]:
        """Turn tokens that arrive one by one into pieces of text.

        The last word is held back until the next one begins, because decoders join what follows to it:
        sub-words, full stops, and the bytes of one character.

        Args:
            growing: All ids so far, again and again, as `generate_stream` yields them.

        Yields:
            Pieces whose concatenation is the text that `decode` gives for the last ids.
        """
        shown = text = ""
        for token_ids in growing:
            text = self.decode(token_ids)
            ready = _whole_words(text)
            if ready.startswith(shown) and ready != shown:
                yield ready[len(shown) :]
                shown = ready
        if text != shown:
            yield text[len(shown) :]

    def teller(self, on_text: Callable[[int, str], None]) -> Callable[[list[tuple[int, ...]]], None]:
        """Turn tokens of several texts that grow together into calls with whole words.

        Args:
            on_text: Gets the number of a text and its whole words so far, when they have changed.

        Returns:
            What to call with the ids so far of all texts, after each step.
        """
        shown: dict[int, str] = {}

        def tell(growing: list[tuple[int, ...]]) -> None:
            for index, token_ids in enumerate(growing):
                ready = _whole_words(self.decode(token_ids))
                if ready and ready != shown.get(index):
                    shown[index] = ready
                    on_text(index, ready)

        return tell


def _whole_words(text: str) -> str:
    """The text without its last word, to which the next token may still belong."""
    return text[: max(text.rfind(" "), 0)]
