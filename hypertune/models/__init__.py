"""Models: plain `nn.Module` classes. They import nothing else of ours."""

from hypertune.models.recurrent import Recurrent

__all__ = ["Recurrent"]
