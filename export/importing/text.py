"""A checkpoint's tokenizer as one `tokenizer.json` whose decoder alone gives the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kiloword.export.importing.source import reason_of
from kiloword.runtime.errors import ExportError

# What transformers does to a decoded text where a tokenizer asks for it, in this order.
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a checkpoint, as transformers loads it.

    Raises:
        ExportError: there is none, it cannot be read, or it is none of the tokenizers library.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise ExportError(
            "the tokenizer cannot be loaded",
            path=directory,
            found=reason_of(error),
            hint="copy tokenizer.json from the checkpoint that this one was trained from",
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ExportError(
            "the tokenizer is none of the tokenizers library",
            path=directory,
            expected="tokenizer.json, or files that transformers can turn into one",
            found=type(tokenizer).__name__,
        )
    return tokenizer


def save_tokenizer(tokenizer: Any, path: Path) -> None:
    """Writes `tokenizer.json`; what transformers does after decoding becomes a part of the decoder.

    Args:
        tokenizer: what `load_tokenizer` returned.
        path: the file to write.
    """
    from tokenizers import Tokenizer, decoders

    library = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    library.no_padding()
    library.no_truncation()
    if _cleans_up(tokenizer):
        steps = [decoders.Replace(old, new) for old, new in _CLEAN_UP]
        first = [decoders.Fuse()] if library.decoder is None else [library.decoder, decoders.Fuse()]
        library.decoder = decoders.Sequence([*first, *steps])
    library.save(str(path), pretty=False)


def _cleans_up(tokenizer: Any) -> bool:
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    anyway = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    return type(tokenizer.backend_tokenizer.model).__name__ != "BPE" or getattr(tokenizer, anyway, False)
