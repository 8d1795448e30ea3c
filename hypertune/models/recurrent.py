"""Recurrent networks."""

import torch
from torch import nn

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM] | type[nn.RNN]] = {
    "gru": nn.GRU,
    "lstm": nn.LSTM,
    "rnn": nn.RNN,
}


class Recurrent(nn.Module):
    """A recurrent layer stack and a linear head on its last state, or on a weighted mean of all.

    Args:
        n_features: Values per time step.
        n_outputs: Outputs per sequence.
        cell: ``gru``, ``lstm`` or ``rnn``.
        hidden_size: Units per layer.
        n_layers: Recurrent layers.
        dropout: Rate between the layers and before the head.
        pooling: ``last`` for the last state, or ``attention`` for a mean of all states with
            learnt weights (Bahdanau et al. 2015, with a query of its own instead of a decoder).
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        cell: str = "gru",
        hidden_size: int = 32,
        n_layers: int = 1,
        dropout: float = 0.0,
        pooling: str = "last",
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}, but got '{cell}'")
        if pooling not in ("last", "attention"):
            raise ValueError(f"pooling must be last or attention, but got '{pooling}'")
        between = dropout if n_layers > 1 else 0.0  # torch warns about dropout in a single layer
        self.rnn = CELLS[cell](
            n_features, hidden_size, num_layers=n_layers, batch_first=True, dropout=between
        )
        self.attention = None
        if pooling == "attention":
            self.attention = nn.Sequential(
                nn.Linear(hidden_size, hidden_size),
                nn.Tanh(),
                nn.Linear(hidden_size, 1, bias=False),
            )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, n_outputs)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return the outputs, shape (batch, output).

        Args:
            x: Sequences, shape (batch, time, feature).
            lengths: How many steps of each are true ones, shape (batch,); None if all are. What
                comes after them changes nothing.
        """
        states, _ = self.rnn(x)  # (batch, time, feature) -> (batch, time, hidden)
        if self.attention is not None:
            scores = self.attention(states)  # (batch, time, 1)
            if lengths is not None:
                scores = scores.masked_fill(~true_steps(x, lengths), -torch.inf)
            pooled = (scores.softmax(dim=1) * states).sum(dim=1)  # (batch, hidden)
        elif lengths is not None:
            pooled = states[torch.arange(len(x), device=x.device), lengths - 1]
        else:
            pooled = states[:, -1]
        outputs: torch.Tensor = self.head(self.dropout(pooled))  # (batch, output)
        return outputs


def true_steps(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return which steps of padded sequences are true ones, shape (batch, time, 1)."""
    return (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
