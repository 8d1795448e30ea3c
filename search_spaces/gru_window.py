"""GRU or LSTM, and how much of the past? Monthly sunspots, 12 months ahead.

    python hypertune.py --space gru_window
    python hypertune.py --space gru_window --data electricity

Data: monthly mean sunspot numbers 1749-1983, split by time (70 % / 15 % / 15 %). All windows are
trained and judged on the same targets; errors are relative to carrying the last value on.
Baselines on the test part, of which ridge regression is hard to beat: naive 1, seasonal naive
(eleven years) 1.44, ridge AR of order 96 .759. On half-hourly electricity, where long windows pay:
naive 1, seasonal naive (a week) .137, ridge AR of order 132 .209.
Budget: 32 trials of up to 27 epochs, as many epochs for each level of cell, about 200 in all
instead of 864; then the best of each level or range and the default on twenty fresh seeds. About
six minutes on two cores. By resampled curves (benchmarks/power.py) 100 of 100 such studies decide
something. Where the cells are not told apart: --until-decided --time-budget 15m.
"""

from ray import tune

from hypertune import Study, forecasting

study = Study(
    question="Does a longer window pay, and does the LSTM make more of it than the GRU?",
    factors=("cell", "window"),
    space={
        "cell": tune.choice(["gru", "lstm"]),
        "window": tune.choice([6, 12, 24, 48, 96, 132]),
        "hidden_size": tune.lograndint(8, 65),
        "learning_rate": tune.loguniform(3e-4, 3e-2),
    },
    default={"cell": "gru", "window": 24, "hidden_size": 32, "learning_rate": 3e-3},
    fixed={"n_layers": 1, "dropout": 0.0, "batch_size": 128, "clip_norm": 1.0, "patience": 6},
    trainable=forecasting("sunspots", horizon=12, max_window=132),
    metric="val_mae_ratio",
    mode="min",
    max_epochs=27,
    n_trials=32,
    n_repeats=20,
    goal="answer",
    margin=0.02,
)
