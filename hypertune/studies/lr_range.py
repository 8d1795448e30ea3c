"""The learning-rate range test: train while the rate rises, and see where the loss falls and rises.

After Smith 2017 (Cyclical Learning Rates for Training Neural Networks, section 3.3), with the rate
rising exponentially and the loss smoothed, as fastai and torch-lr-finder do it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import nn

from hypertune.core.errors import SettingError, choices, describe, user_code
from hypertune.core.space import Config
from hypertune.studies.study import Study
from hypertune.tasks.torch.loop import TensorLoop, use_threads
from hypertune.tasks.user_code import OwnLoop

Floats = NDArray[np.float64]

_SMOOTHING = 0.02  # standard deviation of the smoothing, in shares of all batches
_PAST = 0.9  # share of the past in the running loss, by which divergence is seen
_DIVERGED = 4.0  # times the lowest smoothed loss
_N_SETTLING = 10  # batches before which nothing is concluded
_FALLEN = 0.1  # share of the whole fall at which the range begins
_LEAST_FALL = 0.02  # of the first loss; less is no learning


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """What a range test found.

    Attributes:
        config: The config that was trained.
        rates: Learning rate of each batch, shape (batch,); up to where the loss diverged.
        losses: Training loss of each batch, shape (batch,).
        smoothed: The same, smoothed.
        diverged: The rate at which the loss had risen to four times its lowest value, or was not
            finite; None if that did not happen.
        steepest: The rate at which the loss fell fastest: the one to begin with. None if the loss
            did not fall.
        low: The rate at which a tenth of the fall was done.
        high: The rate at which it was lowest, shortly before it rises.
    """

    config: Config
    rates: Floats
    losses: Floats
    smoothed: Floats
    diverged: float | None
    steepest: float | None
    low: float | None
    high: float | None

    @property
    def line(self) -> str | None:
        """The range as a line of a space; None if there is none."""
        if self.low is None or self.high is None:
            return None
        return f'"learning_rate": tune.loguniform({self.low:.1e}, {self.high:.1e}),'


def lr_range(
    study: Study,
    given: Mapping[str, Any],
    *,
    low: float = 1e-6,
    high: float = 10.0,
    n_batches: int = 300,
    seed: int = 0,
) -> LearningRates:
    """Train the study's default while the learning rate rises from ``low`` to ``high``.

    Args:
        study: Its task must train by the loop that comes with hypertune.
        given: Values of the space in place of those of the default.
        low: The first rate.
        high: The last one.
        n_batches: How many batches the rise takes; as many epochs as that needs are begun.
        seed: Of the weights and of the order of the batches.

    Raises:
        SettingError: A value is not in the space, or the task cannot be tested in this way.
    """
    problems = [
        f"'{name}' is neither in the space nor a fixed value of this study."
        f"{choices(name, list(study.space))}"
        for name in given
        if name not in study.space
    ]
    searched = {**study.default, **given}
    problems += [] if problems else study.search_space.problems(searched)
    if not 0 < low < high:
        problems.append(f"0 < --low < --high must hold, but got {low:g} and {high:g}.")
    if n_batches < 2 * _N_SETTLING:
        problems.append(f"--n-batches must be at least {2 * _N_SETTLING}, but got {n_batches}.")
    if problems:
        raise SettingError("\n".join(problems))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = {**study.config(searched, seed=seed), "device": device}
    loop = _loop(study, config)
    rates, losses = np.geomspace(low, high, n_batches), list[float]()
    average, lowest = 0.0, math.inf
    for rate, rows in zip(rates, _batches(loop), strict=False):
        loss = _train_batch(loop, rows, float(rate))
        if not math.isfinite(loss):
            break
        losses.append(loss)
        average = _PAST * average + (1 - _PAST) * loss
        recent = average / (1 - _PAST ** len(losses))
        lowest = min(lowest, recent) if len(losses) >= _N_SETTLING else math.inf
        if recent > _DIVERGED * lowest:
            break
    else:
        rate = None
    diverged = None if rate is None else float(rate)
    return _concluded(config, rates[: len(losses)], np.array(losses), n_batches, diverged)


def _loop(study: Study, config: Config) -> TensorLoop:
    use_threads(1)
    try:
        with user_code():
            data = study.trainable.load(test=False)
            loop = study.trainable.start(config, data, metric=study.metric, mode=study.mode)
    except Exception as error:
        raise SettingError(f"The model cannot be made: {describe(error)}") from error
    if isinstance(loop, OwnLoop):
        loop.close()
    if not isinstance(loop, TensorLoop):
        raise SettingError(
            "lr-range needs a task that trains by hypertune's loop (forecasting, classification, "
            "regression), but this one trains by itself."
        )
    return loop


def _batches(loop: TensorLoop) -> Iterator[torch.Tensor]:
    while True:
        order = torch.randperm(len(loop.train), generator=loop.order).to(loop.device)
        yield from torch.tensor_split(order, loop.n_batches)


def _train_batch(loop: TensorLoop, rows: torch.Tensor, rate: float) -> float:
    for group in loop.optimizer.param_groups:
        group["lr"] = rate
    loop.model.train()
    # In full precision, whatever the config says: the rates are the same.
    loss = loop.loss(loop.model(*loop.train[rows]), loop.y[rows])
    loop.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    if loop.clip_norm is not None:
        nn.utils.clip_grad_norm_(loop.model.parameters(), loop.clip_norm)
    loop.optimizer.step()
    return float(loss.detach())


def _concluded(
    config: Config, rates: Floats, losses: Floats, n_batches: int, diverged: float | None
) -> LearningRates:
    """Return what a rise of the rate says."""
    low = high = steepest = None
    start = float(np.mean(losses[:_N_SETTLING])) if len(losses) else math.nan
    # To both sides: an average of the past would show everything at too high a rate.
    capped = np.minimum(losses, _DIVERGED * abs(start))
    curve = gaussian_filter1d(capped, _SMOOTHING * n_batches, mode="nearest")
    last = int(curve.argmin()) if len(curve) else 0
    fall = start - float(curve[last]) if last > 1 else 0.0
    if fall > _LEAST_FALL * abs(start):
        # From behind: at first the loss goes up and down.
        above = np.flatnonzero(curve[:last] >= start - _FALLEN * fall)
        first = int(above[-1]) if len(above) else 0
        slope = np.diff(curve[first : last + 1])
        low, high = float(rates[first]), float(rates[last])
        steepest = float(rates[first + int(slope.argmin())])
    return LearningRates(
        config=config,
        rates=rates,
        losses=losses,
        smoothed=curve,
        diverged=diverged,
        steepest=steepest,
        low=low,
        high=high,
    )


def figure(found: LearningRates, title: str) -> Any:
    """Return the losses over the rate, with the suggested range, as a plotly figure."""
    import plotly.graph_objects as go

    grey, blue, green = "#767676", "#0072B2", "#009E73"
    drawn = go.Figure(
        [
            go.Scatter(
                x=found.rates, y=found.losses, name="batch", line={"color": grey, "width": 1}
            ),
            go.Scatter(x=found.rates, y=found.smoothed, name="smoothed", line={"color": blue}),
        ]
    )
    drawn.update_layout(template="simple_white", title=title)
    drawn.update_xaxes(type="log", title="learning rate", exponentformat="power")
    if len(found.losses):
        # Where it diverges the loss would press the rest into a line.
        low, start = float(found.smoothed.min()), float(np.mean(found.losses[:_N_SETTLING]))
        room = max(start - low, 0.1 * abs(start))
        drawn.update_yaxes(range=[low - 0.3 * room, start + room])
    drawn.update_yaxes(title="training loss")
    if found.low is not None and found.high is not None and found.steepest is not None:
        drawn.add_vrect(x0=found.low, x1=found.high, fillcolor=green, opacity=0.15, line_width=0)
        at = float(found.smoothed[np.searchsorted(found.rates, found.steepest)])
        drawn.add_scatter(
            x=[found.steepest],
            y=[at],
            name=f"fastest fall: {found.steepest:.1e}",
            mode="markers",
            marker={"color": green, "size": 12},
        )
    return drawn
