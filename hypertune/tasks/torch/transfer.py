"""Transfer: classes of images told by a network that was trained on others.

Features of a frozen backbone do not change while its head is trained: they are computed once and
kept in a cache folder (``$XDG_CACHE_HOME/hypertune``, else ``~/.cache/hypertune``), under a name
made of the images, the weights and the size, so that other data never get them.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import nn

from hypertune.core.space import Config
from hypertune.data import DataSet
from hypertune.models import backbone
from hypertune.tasks.torch.loop import Inputs
from hypertune.tasks.torch.supervised import ScaledParts, Supervised, classification

_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Transfer(Supervised):
    """A classification of images by a backbone and a head. Made by `transfer`."""

    def load(self, *, test: bool) -> ScaledParts:
        backbone.backbone_file()  # what is missing is said before anything starts
        return super().load(test=test)

    def surroundings(self, config: Config, data: ScaledParts) -> dict[str, Any]:
        low, high = _range(data)
        return {**super().surroundings(config, data), "low": low, "high": high}

    def rebuilt(
        self, config: Config, around: Mapping[str, Any]
    ) -> tuple[nn.Module, Callable[[Any], Inputs], Callable[[torch.Tensor], NDArray[Any]]]:
        model, check, answer = super().rebuilt(config, around)

        def prepare(given: Any) -> Inputs:
            check(given)
            return _prepared(np.asarray(given), config, around["low"], around["high"])

        return model, prepare, answer

    def _inputs(self, config: Config, data: ScaledParts, part: str) -> Inputs:
        return _prepared(_pixels(data, part), config, *_range(data))


def _pixels(data: ScaledParts, part: str) -> NDArray[Any]:
    """Return images as they came."""
    return np.asarray(data.part(part).x * data.sd + data.mean)


def _range(data: ScaledParts) -> tuple[float, float]:
    """Return the least and the greatest value of the training images."""
    train = _pixels(data, "train")
    return float(train.min()), float(train.max())


def _prepared(pixels: NDArray[Any], config: Config, low: float, high: float) -> Inputs:
    """Return what the model is given of images: features where its backbone is frozen."""
    images = np.clip((pixels - low) / ((high - low) or 1.0), 0.0, 1.0).astype(np.float32)
    if config.get("weights", "frozen") != "frozen":
        return Inputs(torch.from_numpy(images))
    return Inputs(torch.from_numpy(features(images, config.get("image_size", 96))))


def transfer(
    data: str | DataSet,
    *,
    split: str | None = None,
    val_share: float = 0.15,
    test_share: float = 0.15,
    n_train: int | None = None,
) -> Transfer:
    """Return the task of telling classes of images by a network that was trained on others.

    The config's ``weights``, ``image_size``, ``n_head_layers``, ``n_head_units`` and ``dropout``
    are those of `hypertune.models.transfer_model`. It needs the extra ``transfer``.

    Example:
        >>> import hypertune
        >>> hypertune.transfer("digits").data
        'digits'

    Args:
        data: Name of a data set of images, or one of one's own.
        split: As for `classification`.
        val_share: As for `classification`.
        test_share: As for `classification`.
        n_train: As for `classification`.

    Raises:
        ValueError: A rule is broken.
    """
    task = classification(
        data,
        model=backbone.transfer_model,
        split=split,
        val_share=val_share,
        test_share=test_share,
        n_train=n_train,
    )
    return Transfer(**{f.name: getattr(task, f.name) for f in fields(task) if f.init})


def features(images: NDArray[np.float32], image_size: int) -> NDArray[np.float32]:
    """Return what the frozen backbone makes of images, from the cache if it has been asked before.

    Args:
        images: Shape (n, 1 or 3, height, width), values from 0 to 1.
        image_size: Side of the square that the backbone sees, in pixels.

    Returns:
        Features, shape (n, 1280).
    """
    key = hashlib.sha256(f"1 {image_size} {images.shape} ".encode())
    key.update(backbone.backbone_file().read_bytes())
    key.update(np.ascontiguousarray(images).tobytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = root / "hypertune" / "features" / f"{key.hexdigest()[:32]}.npy"
    with contextlib.ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(file.with_suffix(".lock")))  # two workers compute it once
        except OSError:  # nowhere to keep them: they are computed each time
            return _computed(images, image_size)
        if file.is_file():
            kept: NDArray[np.float32] = np.load(file)
            return kept
        found = _computed(images, image_size)
        with contextlib.suppress(OSError):
            aside = file.with_suffix(".part.npy")
            np.save(aside, found)
            aside.replace(file)
        return found


@torch.no_grad()
def _computed(images: NDArray[np.float32], image_size: int) -> NDArray[np.float32]:
    with torch.random.fork_rng(devices=[]):  # the trial's own numbers stay as they are
        net = backbone.Backbone(image_size, trained=True).eval()
    parts = [net(x) for x in torch.split(torch.from_numpy(images), _BATCH)]
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found
