"""Sequences in, outputs out: convolution over time, and one name for every architecture."""

import itertools

import torch
from torch import nn

from hypertune.models.recurrent import CELLS, Recurrent, true_steps


class TemporalCNN(nn.Module):
    """Convolutions over time, the mean over the true steps, and a linear head.

    Args:
        n_features: Values per time step.
        n_outputs: Outputs per sequence.
        hidden_size: Filters of each layer.
        n_layers: Convolution layers.
        dropout: Rate before the head.
        kernel_size: Steps that a filter sees; odd.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        hidden_size: int = 32,
        n_layers: int = 2,
        dropout: float = 0.0,
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        sizes = [n_features] + [hidden_size] * n_layers
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, kernel_size, padding=kernel_size // 2)
            for a, b in itertools.pairwise(sizes)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(sizes[-1], n_outputs)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return the outputs, shape (batch, output).

        Args:
            x: Sequences, shape (batch, time, feature), with zeros after their ends.
            lengths: How many steps of each are true ones, shape (batch,); None if all are. How
                many zeros come after them changes nothing.
        """
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1], device=x.device)
        true = true_steps(x, lengths).transpose(1, 2)  # (batch, 1, time)
        states = x.transpose(1, 2)  # (batch, feature, time)
        for conv in self.convs:
            # What a bias adds after the end must not reach back into the sequence.
            states = torch.relu(conv(states)) * true  # (batch, hidden, time)
        pooled = states.sum(dim=2) / lengths[:, None]  # (batch, hidden)
        outputs: torch.Tensor = self.head(self.dropout(pooled))  # (batch, output)
        return outputs


def sequence_model(
    n_features: int,
    n_outputs: int,
    architecture: str = "gru",
    hidden_size: int = 32,
    n_layers: int = 1,
    dropout: float = 0.0,
) -> nn.Module:
    """Return a model of sequences.

    Args:
        n_features: Values per time step.
        n_outputs: Outputs per sequence.
        architecture: ``rnn``, ``gru``, ``lstm``, ``gru_attention`` or ``conv``.
        hidden_size: Units, or filters, per layer.
        n_layers: Layers.
        dropout: Rate before the head, and between recurrent layers.
    """
    if architecture == "conv":
        return TemporalCNN(n_features, n_outputs, hidden_size, n_layers, dropout)
    cell, _, pooling = architecture.partition("_")
    if cell not in CELLS or pooling not in ("", "attention"):
        raise ValueError(
            "architecture must be rnn, gru, lstm, one of them with _attention, or conv, but got "
            f"'{architecture}'"
        )
    return Recurrent(n_features, n_outputs, cell, hidden_size, n_layers, dropout, pooling or "last")
