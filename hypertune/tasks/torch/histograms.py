"""Histograms of weights, gradients and activations for TensorBoard, epoch by epoch."""

import math
from pathlib import Path

from hypertune.tasks.torch.diagnose import look_inside
from hypertune.tasks.torch.loop import TensorLoop


class Histograms:
    """Writes a trial's histograms.

    Args:
        loop: The trial.
        folder: For its files; what they hold beyond the trial's present epoch is void.
        suffix: Ends their names.
    """

    def __init__(self, loop: TensorLoop, folder: Path, suffix: str) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second that few need

        self._loop = loop
        self._writer = SummaryWriter(
            str(folder), purge_step=loop.epoch + 1 if loop.epoch else None, filename_suffix=suffix
        )

    def write(self) -> None:
        """Write those of the epoch that has just been trained, of a batch of training samples."""
        seen, model = look_inside(self._loop), self._loop.model
        groups = {
            "weights": {name: p.detach() for name, p in model.named_parameters()},
            "gradients": seen.gradients,
            "activations": seen.outputs,
        }
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                values = tensor.float().cpu()
                if values.numel() and math.isfinite(float(values.abs().sum())):
                    self._writer.add_histogram(f"{group}/{name}", values, self._loop.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
