"""Tokenizers trained on the captions, by the ``tokenizers`` library: words, byte-pair encoding, characters.

The trained tokenizer is one ``tokenizer.json``, read by the runtime as it is. It normalises, splits, adds
``<bos>`` and ``<eos>`` and joins the pieces again, so that no caller ever handles text by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNK)
"""In the order of their ids: 0, 1, 2, 3."""


def train_word_tokenizer(captions: Iterable[str], *, min_count: int, vocab_size: int) -> Tokenizer:
    """One token for each word that occurs at least ``min_count`` times; rarer words become ``<unk>``.

    Args:
        captions: plain sentences.
        min_count: least occurrences of a word.
        vocab_size: most tokens, the four special ones included; the most frequent are kept.

    Returns:
        A tokenizer that lower-cases, drops punctuation and separates at spaces.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _trained(tokenizer, trainers.WordLevelTrainer, captions, min_count, vocab_size)


def train_bpe_tokenizer(captions: Iterable[str], *, min_count: int, vocab_size: int) -> Tokenizer:
    """Byte-pair encoding: frequent words stay whole, rare ones are spelt in pieces.

    Args:
        captions: plain sentences.
        min_count: least occurrences of a pair that is merged.
        vocab_size: most tokens, the four special ones included.

    Returns:
        A tokenizer with the same normalisation as the word-level one; spaces are part of the tokens.

    Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", arXiv 1508.07909.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _trained(tokenizer, trainers.BpeTrainer, captions, min_count, vocab_size)


def train_char_tokenizer(captions: Iterable[str], *, min_count: int, vocab_size: int) -> Tokenizer:
    """One token for each character, the space included; rarer ones become ``<unk>``.

    Args:
        captions: plain sentences.
        min_count: least occurrences of a character.
        vocab_size: most tokens, the four special ones included; the most frequent are kept.

    Returns:
        A tokenizer with the same normalisation as the word-level one, which it gives back to the letter.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _trained(tokenizer, trainers.WordLevelTrainer, captions, min_count, vocab_size)


def _trained(
    tokenizer: Tokenizer,
    trainer: Callable[..., trainers.Trainer],
    captions: Iterable[str],
    min_count: int,
    vocab_size: int,
) -> Tokenizer:
    """What all kinds share: the normalisation, the special tokens, the ends of a sentence."""
    tokenizer.normalizer = _caption_normalizer()
    settings = trainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, settings)
    return _with_sentence_ends(tokenizer)


TOKENIZER_TRAINERS = {
    "word": train_word_tokenizer,
    "bpe": train_bpe_tokenizer,
    "chars": train_char_tokenizer,
}
"""What a recipe's ``tokenizer.kind`` may name."""


def _caption_normalizer() -> normalizers.Normalizer:
    """Lower case, letters, digits, apostrophes and hyphens inside words; ``man 's`` becomes ``man's``."""
    return normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace("\u2019", "'"),
            normalizers.Replace(Regex(r"[^\p{L}\p{N}'-]+"), " "),
            normalizers.Replace(Regex(r" +(?='(s|re|ll|ve|d|m)( |$))"), ""),
            normalizers.Replace(Regex(r"(^| )['-]+|['-]+(?= |$)"), " "),
            normalizers.Strip(),
        ]
    )


def _with_sentence_ends(tokenizer: Tokenizer) -> Tokenizer:
    """Adds ``<bos>`` and ``<eos>`` around each encoded sentence."""
    ends = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ends)
    return tokenizer
