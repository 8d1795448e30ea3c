"""Recurrent networks."""

import torch
from torch import nn

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM] | type[nn.RNN]] = {
    "gru": nn.GRU,
    "lstm": nn.LSTM,
    "rnn": nn.RNN,
}


class Recurrent(nn.Module):
    """A recurrent layer stack and a linear head on its last state.

    Args:
        n_features: Values per time step.
        n_outputs: Outputs per sequence.
        cell: ``gru``, ``lstm`` or ``rnn``.
        hidden_size: Units per layer.
        n_layers: Recurrent layers.
        dropout: Rate between the layers and before the head.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        cell: str = "gru",
        hidden_size: int = 32,
        n_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}, but got '{cell}'")
        between = dropout if n_layers > 1 else 0.0  # torch warns about dropout in a single layer
        self.rnn = CELLS[cell](
            n_features, hidden_size, num_layers=n_layers, batch_first=True, dropout=between
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.rnn(x)  # (batch, time, feature) -> (batch, time, hidden)
        last = self.dropout(states[:, -1])  # (batch, hidden)
        outputs: torch.Tensor = self.head(last)  # (batch, output)
        return outputs
