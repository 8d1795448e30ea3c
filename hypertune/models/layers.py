"""What several models are built of: activations, norms and initial weights, by name."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

INITS: dict[str, Callable[[torch.Tensor], object]] = {
    "glorot": nn.init.xavier_uniform_,  # Glorot and Bengio 2010
    "he": lambda weights: nn.init.kaiming_normal_(weights, nonlinearity="relu"),  # He et al. 2015
    "small": lambda weights: nn.init.normal_(weights, std=0.01),
    "large": lambda weights: nn.init.normal_(weights, std=1.0),
    "zero": nn.init.zeros_,
}
"""Initial weights; biases begin at zero with all of them."""


def initialise(model: nn.Module, init: str) -> None:
    """Set the weights of all linear and convolution layers, and their biases to zero.

    Those on PyTorch's meta device, which hold no numbers, stay: to draw there costs a second.
    """
    set_weights = INITS[known(init, INITS, "init")]
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and not layer.weight.is_meta:
            set_weights(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def known(name: str, table: Mapping[str, object], what: str) -> str:
    """Return ``name`` if it is in the table.

    Raises:
        ValueError: It is not.
    """
    if name not in table:
        raise ValueError(f"{what} must be one of {', '.join(table)}, but got '{name}'")
    return name
