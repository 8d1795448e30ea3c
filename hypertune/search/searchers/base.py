"""The contract of a searcher."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from hypertune.search.history import Trial
from hypertune.space import Flat, Space


class Searcher(ABC):
    """Proposes flat configs.

    Args:
        space: The space to propose from.
        max_epochs: The epoch at which trials are to be good.
    """

    def __init__(self, space: Space, max_epochs: int) -> None:
        self.space = space
        self.max_epochs = max_epochs

    @abstractmethod
    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Flat:
        """Propose a flat config of the space.

        The answer follows from the arguments alone, so that a search that is rebuilt from its
        history goes on in the same way; what is kept between calls is a cache of that history.

        Args:
            trials: All trials so far by number: running, waiting and ended ones.
            rng: The only source of chance.
        """
