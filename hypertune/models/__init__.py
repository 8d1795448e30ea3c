"""Models: plain `nn.Module` classes. They import nothing else of ours."""

from hypertune.models.backbone import transfer_model
from hypertune.models.cnn import CNN
from hypertune.models.mlp import MLP
from hypertune.models.recurrent import Recurrent
from hypertune.models.sequence import TemporalCNN, sequence_model

__all__ = ["CNN", "MLP", "Recurrent", "TemporalCNN", "sequence_model", "transfer_model"]
