"""Caption scores: BLEU, ROUGE-L and CIDEr-D, and the tokenizers they are counted with; without torch."""

from __future__ import annotations

from kiloword.train.metrics.bleu import corpus_bleu
from kiloword.train.metrics.cider import CiderScorer, corpus_cider
from kiloword.train.metrics.rouge import corpus_rouge_l
from kiloword.train.metrics.scores import Scores, score, score_tokens, tokenize_captions

__all__ = [
    "CiderScorer",
    "Scores",
    "corpus_bleu",
    "corpus_cider",
    "corpus_rouge_l",
    "score",
    "score_tokens",
    "tokenize_captions",
]
