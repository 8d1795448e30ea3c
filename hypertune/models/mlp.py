"""Fully connected networks."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from hypertune.models.layers import ACTIVATIONS, initialise, known


class MLP(nn.Module):
    """Layers of equal width between a flat input and the outputs.

    Args:
        input_shape: Shape of a sample; it is flattened.
        n_outputs: Outputs of a sample.
        n_units: Units of each hidden layer.
        n_layers: Hidden layers; 0 is a linear model.
        dropout: Rate after each hidden layer.
        activation: A name in `ACTIVATIONS`.
        init: A name in `INITS`; None for PyTorch's own.
        norm: ``none``, or ``batch`` or ``layer`` before each activation.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_outputs: int,
        n_units: int = 64,
        n_layers: int = 2,
        dropout: float = 0.0,
        activation: str = "relu",
        init: str | None = None,
        norm: str = "none",
    ) -> None:
        super().__init__()
        norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        make_norm = norms[known(norm, norms, "norm")]
        make_activation = ACTIVATIONS[known(activation, ACTIVATIONS, "activation")]
        layers: list[nn.Module] = [nn.Flatten()]
        n_inputs = math.prod(input_shape)
        for _ in range(n_layers):
            layers += [nn.Linear(n_inputs, n_units), make_norm(n_units), make_activation()]
            layers += [nn.Dropout(dropout)] if dropout else []
            n_inputs = n_units
        layers.append(nn.Linear(n_inputs, n_outputs))
        # An identity is no work, but a call: leave it out.
        self.layers = nn.Sequential(*(m for m in layers if not isinstance(m, nn.Identity)))
        if init is not None:
            initialise(self, init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(x)  # (batch, ...) -> (batch, output)
        return outputs
