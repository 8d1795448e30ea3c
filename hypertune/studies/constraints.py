"""What must hold of a config before it is trained: asked of the config alone, without training."""

import operator
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from torch import nn

from hypertune.core.errors import HypertuneError, choices, describe, user_code
from hypertune.core.space import Config
from hypertune.studies.study import CONSTRAINT, Study
from hypertune.tasks.user_code import OwnLoop

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


class Constraints:
    """The constraints of a study.

    A size is told by the task: by its ``sizes(config)``, if it has one (a user's class may); else
    ``n_parameters`` is counted in the model that the task makes of the config.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._rules: Mapping[str, str | Callable[[Config], bool]] = study.constraints

    def hold(self, searched: Mapping[str, Any]) -> bool:
        """Say whether a nested config of the space may be tried."""
        return not self.broken(searched)

    def broken(self, searched: Mapping[str, Any]) -> list[str]:
        """Return which constraints a nested config of the space breaks.

        Raises:
            HypertuneError: A constraint cannot be checked.
        """
        if not self._rules:
            return []
        config = self._study.config(searched, seed=0)
        try:
            with user_code():
                return [f"{problem}, for {dict(searched)}" for problem in self._broken(config)]
        except HypertuneError:
            raise
        except Exception as error:
            raise HypertuneError(
                f"The constraints cannot be checked for {config}: {describe(error)}"
            ) from error

    def _broken(self, config: Config) -> list[str]:
        broken = []
        sizes = self._sizes(config) if any(isinstance(r, str) for r in self._rules.values()) else {}
        for name, rule in self._rules.items():
            if not isinstance(rule, str):
                broken += [] if rule(config) else [f"{name} must hold, but does not"]
                continue
            if name not in sizes:
                known = choices(name, list(sizes)) if sizes else " It knows no sizes."
                raise HypertuneError(
                    f"constraints: the task cannot tell '{name}' before training.{known} "
                    "A function of the config will do too."
                )
            match = re.fullmatch(CONSTRAINT, rule)
            assert match is not None
            if not _HOLDS[match[1]](sizes[name], float(match[2])):
                broken.append(f"{name} must be {rule}, but is {sizes[name]:,}")
        return broken

    @cached_property
    def _data(self) -> Any:
        return self._study.trainable.load(test=False)

    def _sizes(self, config: Config) -> Mapping[str, float]:
        study = self._study
        sizes = getattr(study.trainable, "sizes", None)
        if sizes is not None:
            told: Mapping[str, float] = sizes(config)
            return told
        config = {**config, "device": "cpu"}
        loop = study.trainable.start(config, self._data, metric=study.metric, mode=study.mode)
        if isinstance(loop, OwnLoop):
            loop.close()
            return {}
        model = getattr(loop, "model", None)
        if not isinstance(model, nn.Module):
            return {}
        return {"n_parameters": sum(p.numel() for p in model.parameters())}
