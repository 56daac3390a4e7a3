"""Parts of recurrent decoders: an LSTM's step in the open, how its state begins, additive attention.

Shape legend:
    - B: pictures, R: rows (R / B of each picture stand together), N: cells of the grid, C: channels of a
      cell, W: width of the state, A: width of attention

States are (R, W), but products are taken of (R, 1, W): exported, they are then plain ``MatMul`` nodes with a
constant matrix, which int8 knows how to store.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kiloword.runtime.manifest import TensorSpec
from kiloword.train.models.decoder import ContextSpec, StateSpec, Tensors, spread


def lstm_step(sums: Tensor, cell: Tensor) -> Tensors:
    """One step of an LSTM.

    Args:
        sums: (..., 4 * W): what input gate, forget gate, candidate and output gate receive.
        cell: (..., W).

    Returns:
        The new hidden state and the new cell, each (..., W).

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers et al.
    """
    input_gate, forget_gate, candidate, output_gate = sums.chunk(4, dim=-1)
    cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
    return output_gate.sigmoid() * cell.tanh(), cell


def remember_at_first(sums: nn.Linear) -> None:
    """Sets the forget gate's bias to 1, so that a fresh LSTM keeps what it has seen.

    Source: Jozefowicz et al., "An Empirical Exploration of Recurrent Network Architectures", ICML 2015.
    """
    width = sums.out_features // 4
    with torch.no_grad():
        sums.bias[width : 2 * width] = 1.0


class StateFromImage(nn.Module):
    """Hidden state and cell of before the first word, by a multilayer perceptron each of the mean feature."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.hidden, self.cell = (
            nn.Sequential(nn.Linear(channels, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
            for _ in range(2)
        )

    def forward(self, cells: Tensor) -> Tensors:
        """(B, N, C) -> two of (B, W)."""
        mean = cells.mean(dim=1, keepdim=True)
        return self.hidden(mean).squeeze(1), self.cell(mean).squeeze(1)


class AdditiveAttention(nn.Module):
    """Scores of cells by a small network: v . tanh(W_k a_i + W_q h).

    What depends on the picture alone, W_k a_i, is computed once by `keys`.

    Source: Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate",
        arXiv 1409.0473, appendix A.1.2.
    """

    def __init__(self, channels: int, state_width: int, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(channels, width)
        self.query = nn.Linear(state_width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def keys(self, cells: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, A)."""
        return self.key(cells)  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor, keys: Tensor) -> Tensor:
        """How much each row looks at each cell of its picture.

        Args:
            hidden: (R, 1, W).
            keys: (B, N, A).

        Returns:
            (B, R / B, N), each row sums to 1.
        """
        pictures, _, width = keys.shape
        query = self.query(hidden).reshape(pictures, -1, 1, width)
        scores: Tensor = self.score((keys[:, None] + query).tanh())
        return scores.squeeze(-1).softmax(dim=-1)


def start_specs(width: int) -> tuple[ContextSpec, ...]:
    """The encoder's outputs that an LSTM's state begins with."""
    return tuple(
        ContextSpec(f"initial_state.{name}", (width,), starts=f"past_state.{name}")
        for name in ("hidden", "cell")
    )


def lstm_state_specs(width: int) -> tuple[StateSpec, ...]:
    """Hidden state and cell, replaced at each step."""
    specs = []
    for name in ("hidden", "cell"):
        past = TensorSpec(f"past_state.{name}", "recurrent", "float32", ("past_rows", width))
        present = TensorSpec(
            f"present_state.{name}", "recurrent", "float32", ("rows", width), feeds=past.name
        )
        specs.append(StateSpec(past, present))
    return tuple(specs)


def begin(context: Tensors, past: Tensors | None, rows: int) -> Tensors:
    """Hidden state and cell, each (R, 1, W): the past, or the two last tensors of a context of B pictures."""
    hidden, cell = past or (spread(start, rows) for start in context[-2:])
    return hidden[:, None], cell[:, None]
