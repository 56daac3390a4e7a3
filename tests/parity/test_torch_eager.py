"""The torch side of the speed benchmark really searches: a rival that does less work would be no rival."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from benchmarks.torch_eager import beam_search, greedy  # noqa: E402
from kiloword.runtime.manifest import GenerationSettings  # noqa: E402
from kiloword.train.captions import TokenIds  # noqa: E402
from kiloword.train.models.captioner import CaptionModel  # noqa: E402
from kiloword.train.models.show_attend_tell import ShowAttendTellConfig  # noqa: E402
from kiloword.train.models.show_tell import ShowTellConfig  # noqa: E402
from kiloword.train.models.transformer import TransformerConfig  # noqa: E402
from kiloword.train.models.vit import VitConfig  # noqa: E402

pytestmark = pytest.mark.parity

IDS = TokenIds(pad=0, bos=1, eos=2, unk=3)
VOCABULARY = 8
BATCH = 3


DECODERS = {
    "transformer": TransformerConfig(width=16, depth=2, heads=2, max_length=8),
    "show_attend_tell": ShowAttendTellConfig(width=16, word_width=16, attention_width=8),
    "show_tell": ShowTellConfig(width=16, word_width=16),
}


@pytest.fixture(scope="module", params=DECODERS.values(), ids=DECODERS.keys())
def model(request: pytest.FixtureRequest) -> CaptionModel:
    """A tiny captioner whose random weights are large, so that its probabilities differ."""
    torch.manual_seed(5)
    decoder = request.param
    made = CaptionModel(
        VitConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2), decoder, VOCABULARY
    ).eval()
    for parameter in made.decoder.parameters():
        parameter.data.mul_(8 if parameter.dim() > 1 else 1)
    return made


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """Three pictures of five tokens."""
    return torch.randn(BATCH, 5, 16, generator=torch.Generator().manual_seed(6))


def best_of_all(model: CaptionModel, features: torch.Tensor, length: int, penalty: float) -> tuple[int, ...]:
    """The best caption of one picture, found by scoring every one there is, each in one uncached pass."""
    words = [token for token in range(VOCABULARY) if token not in (IDS.pad, IDS.bos, IDS.unk, IDS.eos)]
    stems = [stem for size in range(length) for stem in itertools.product(words, repeat=size)]
    captions = [(*stem, IDS.eos) for stem in stems]
    captions += [(*stem, word) for stem in stems if len(stem) == length - 1 for word in words]
    context = model.decoder.image_context(features)

    def score(caption: tuple[int, ...]) -> float:
        hidden, _ = model.decoder(torch.tensor([[IDS.bos, *caption[:-1]]]), context)
        logprobs = model.decoder.logits(hidden).log_softmax(-1)[0]
        total = logprobs[torch.arange(len(caption)), torch.tensor(caption)].sum().item()
        return total / len(caption) ** penalty

    return max(captions, key=score)


@torch.inference_mode()
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_beam_that_holds_everything_finds_the_best(
    model: CaptionModel, features: torch.Tensor, penalty: float
) -> None:
    """With more beams than captions the search is exhaustive; the expected caption is found without it."""
    settings = GenerationSettings(num_beams=200, max_new_tokens=4, length_penalty=penalty)
    found = beam_search(model, features, IDS, settings)
    expected = [best_of_all(model, features[index : index + 1], 4, penalty) for index in range(BATCH)]
    assert found == expected


@torch.inference_mode()
def test_one_beam_is_greedy(model: CaptionModel, features: torch.Tensor) -> None:
    """The greedy search knows nothing of beams; its rows are cut at their first end of sequence."""
    found = beam_search(model, features, IDS, GenerationSettings(num_beams=1, max_new_tokens=6))
    rows = greedy(model, features, IDS, 6).tolist()
    assert found == [tuple(row[: row.index(IDS.eos) + 1] if IDS.eos in row else row) for row in rows]
