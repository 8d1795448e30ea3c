"""Forecasting: the next ``horizon`` values of a series from the last ``window`` ones.

Errors are given as a ratio to the naive forecast (the last value, carried on) on the same targets:
below 1 is better than doing nothing (Hyndman and Koehler 2006, section 3).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hypertune.core.errors import choices
from hypertune.core.space import Config, Space
from hypertune.data import SERIES, Series, SeriesSplit
from hypertune.data.series import Floats
from hypertune.models import Recurrent
from hypertune.tasks.torch.loop import (
    Inputs,
    Predict,
    TensorLoop,
    Tensors,
    TestResult,
    build_model,
    config_problems,
    digest,
    model_problems,
    n_parameters,
)
from hypertune.tasks.torch.optim import Rule, is_whole

_RIDGE_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True, kw_only=True)
class Forecasting:
    """The task of forecasting one series. Made by `forecasting`."""

    data: str
    source: Series
    horizon: int
    max_window: int
    model: Callable[..., nn.Module]
    val_share: float
    test_share: float
    metrics: tuple[str, ...] = field(init=False)
    test_metrics: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        steps = dict.fromkeys((1, self.horizon))  # the first and the last
        names = ["mae", "rmse", "mase", "mae_ratio", *(f"mae_ratio_h{step}" for step in steps)]
        object.__setattr__(self, "metrics", ("train_loss", *(f"val_{n}" for n in names)))
        object.__setattr__(self, "test_metrics", {f"val_{n}": f"test_{n}" for n in names})

    def on(self, data: str | Series) -> "Forecasting":
        """Return the same task on another series.

        Raises:
            ValueError: A rule is broken.
        """
        name, source = _source(data)
        return replace(self, data=name, source=source)

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        window: Rule = (
            lambda v: is_whole(v) and 1 <= v <= self.max_window,
            f"an integer from 1 to max_window={self.max_window} of forecasting(...)",
        )
        problems = config_problems(
            space,
            fixed,
            self.model,
            given=("n_features", "n_outputs"),
            rules={"window": window},
            needed=("window",),
        )
        return problems or model_problems(self._model, space, fixed)

    def sizes(self, config: Config) -> dict[str, float]:
        """Return what is known of a config's model before it is trained."""
        return {"n_parameters": n_parameters(lambda: self._model(config))}

    def _model(self, config: Config) -> nn.Module:
        return build_model(self.model, {"n_features": 1, "n_outputs": self.horizon}, config)

    def load(self, *, test: bool) -> SeriesSplit:
        values = self.source.load()
        n = len(values)
        n_train, n_val = (
            int(n * (1 - self.val_share - self.test_share)),
            int(n * (1 - self.test_share)),
        )
        return SeriesSplit(
            values=values if test else values[:n_val],
            n_train=n_train,
            n_val=n_val,
            horizon=self.horizon,
            max_window=self.max_window,
        )

    def data_set(self, data: SeriesSplit) -> dict[str, Any]:
        """Return what identifies the data, as plain values: of all but the test part."""
        sizes = {"n_train": data.n_train, "n_val": data.n_val - data.n_train}
        sizes["n_test"] = len(self.source.load()) - data.n_val
        seen = data.values[: data.n_val]
        return {"digest": digest(seen), "source": str(self.source.find()), **sizes}

    def surroundings(self, config: Config, data: SeriesSplit) -> dict[str, Any]:
        """Return what a network of this task needs besides its weights, as plain values."""
        mean, sd = data.scale
        return {"mean": mean, "sd": sd, "inputs": [config["window"]]}

    def rebuilt(
        self, config: Config, around: Mapping[str, Any]
    ) -> tuple[nn.Module, Callable[[Any], Inputs], Callable[[torch.Tensor], NDArray[Any]]]:
        """Return a network without its weights, and what comes before and after it."""
        mean, sd, window = around["mean"], around["sd"], config["window"]

        def prepare(values: Any) -> Inputs:
            past = np.atleast_2d(np.asarray(values, dtype=np.float32))
            if past.ndim != 2 or past.shape[1] < window:
                raise ValueError(
                    f"the last {window} values are needed, shape (n, {window}), but the shape is "
                    f"{past.shape}"
                )
            return Inputs(torch.tensor((past[:, -window:] - mean) / sd)[..., None])

        return self._model(config), prepare, lambda outputs: outputs.numpy() * sd + mean

    def start(self, config: Config, data: SeriesSplit, *, metric: str, mode: str) -> TensorLoop:
        mean, sd = data.scale
        window = config["window"]

        def inputs(split: SeriesSplit, part: str) -> Inputs:
            x = (split.inputs(split.origins(part), window) - mean) / sd
            return Inputs(torch.from_numpy(x)[..., None])  # (origin, window, 1)

        def errors(split: SeriesSplit, part: str, outputs: torch.Tensor) -> dict[str, float]:
            return _errors(split, part, outputs.numpy() * sd + mean)

        def test(predict: Predict, split: SeriesSplit) -> TestResult:
            outputs, origins = predict(inputs(split, "test")).cpu(), split.origins("test")
            predictions = {
                "values": split.values[origins[0] :],
                "first": np.array(origins[0]),
                "origins": origins - origins[0],
                "predicted": (outputs.numpy() * sd + mean).astype(np.float32),
            }
            return TestResult(
                metrics=errors(split, "test", outputs), predictions={"test": predictions}
            )

        targets = (data.targets(data.origins("train")) - mean) / sd
        return TensorLoop(
            lambda: self._model(config),
            Tensors(
                train=inputs(data, "train"),
                train_y=torch.from_numpy(targets),  # (origin, horizon)
                val=inputs(data, "val"),
                validate=lambda outputs: errors(data, "val", outputs),
            ),
            loss=nn.functional.l1_loss,
            test=test,
            config=config,
            metric=metric,
            mode=mode,
        )

    def baselines(self, data: SeriesSplit, *, test: bool) -> dict[str, dict[str, float]]:
        """Naive, seasonal naive if there are seasons, ridge AR with order and penalty tuned."""
        part = "test" if test else "val"
        origins = data.origins(part)
        season = self.source.season
        forecasts = {"naive": np.repeat(data.inputs(origins, 1), self.horizon, axis=1)}
        if season > 1:
            back = np.arange(1, self.horizon + 1) - season * -(-self.horizon // season)
            forecasts["seasonal naive"] = data.values[origins[:, None] + back]
        order, penalty = min(
            (
                (order, penalty)
                for order in sorted({12, 24, 48, 96, self.max_window})
                if order <= self.max_window
                for penalty in _RIDGE_PENALTIES
            ),
            key=lambda choice: _errors(data, "val", _ridge(data, "val", *choice))["val_mae"],
        )
        forecasts[f"ridge AR({order})"] = _ridge(data, part, order, penalty)
        return {name: _errors(data, part, forecast) for name, forecast in forecasts.items()}


def forecasting(
    data: str | Series,
    *,
    horizon: int,
    max_window: int,
    model: Callable[..., nn.Module] = Recurrent,
    val_share: float = 0.15,
    test_share: float = 0.15,
) -> Forecasting:
    """Return the task of forecasting a series.

    Example:
        >>> import hypertune
        >>> from hypertune.models import Recurrent
        >>> hypertune.forecasting("sunspots", horizon=12, max_window=48, model=Recurrent).data
        'sunspots'

    Args:
        data: Name of the series, or one of one's own.
        horizon: Steps ahead; all of them are forecast at once.
        max_window: The longest window of the study. Targets start after it, for every window.
        model: Called with ``n_features``, ``n_outputs`` and those config values that its
            ``__init__`` names; maps (batch, time, feature) to (batch, output).
        val_share: Share of the series, before the test part, that the search is steered by.
        test_share: Share of the series, at its end, that is looked at once, when all is over.

    Raises:
        ValueError: A rule is broken.
    """
    name, source = _source(data)
    if horizon < 1 or max_window < 1:
        raise ValueError(
            f"horizon and max_window must be at least 1, but got {horizon} and {max_window}"
        )
    if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
        raise ValueError(
            "val_share and test_share must be above 0, and below 1 together, but got "
            f"{val_share} and {test_share}"
        )
    return Forecasting(
        data=name,
        source=source,
        horizon=horizon,
        max_window=max_window,
        model=model,
        val_share=val_share,
        test_share=test_share,
    )


def _source(data: str | Series) -> tuple[str, Series]:
    if isinstance(data, Series):
        return data.summary, data
    if data not in SERIES:
        raise ValueError(f"Unknown data set '{data}'.{choices(data, list(SERIES))}")
    return data, SERIES[data]


def _errors(data: SeriesSplit, part: str, forecast: NDArray[Any]) -> dict[str, float]:
    """Return the errors of a forecast, shape (origin, horizon), of a part's targets."""
    origins = data.origins(part)
    targets = data.targets(origins)
    naive = np.abs(targets - data.inputs(origins, 1)).mean(axis=0)  # (horizon,)
    error = np.abs(targets - forecast).mean(axis=0)  # (horizon,)
    return {
        f"{part}_mae": float(error.mean()),
        f"{part}_rmse": float(np.sqrt(((targets - forecast) ** 2).mean())),
        # eq. 3, Hyndman and Koehler 2006: by the naive error one step ahead in the training part
        f"{part}_mase": float(error.mean() / np.abs(np.diff(data.values[: data.n_train])).mean()),
        f"{part}_mae_ratio": float(error.mean() / naive.mean()),
        f"{part}_mae_ratio_h1": float(error[0] / naive[0]),
        f"{part}_mae_ratio_h{data.horizon}": float(error[-1] / naive[-1]),
    }


def _ridge(data: SeriesSplit, part: str, order: int, penalty: float) -> Floats:
    """Return the forecasts of a linear model of the last ``order`` values."""
    from sklearn.linear_model import Ridge  # the driver's business: it costs a worker a second

    mean, sd = data.scale

    def inputs(name: str) -> Floats:
        scaled: Floats = (data.inputs(data.origins(name), order) - mean) / sd
        return scaled

    targets = (data.targets(data.origins("train")) - mean) / sd
    model = Ridge(alpha=penalty).fit(inputs("train"), targets)
    forecast: Floats = model.predict(inputs(part)) * sd + mean
    return forecast
