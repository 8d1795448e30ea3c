"""How much motion must one see? GRU and LSTM on exercises of subjects never seen before.

    pip install 'hypertune[datasets]'    # the data
    python hypertune.py --space watch_window

Data: seven shoulder exercises of ten subjects with a watch, six channels at 25 Hz. Split by
subject: six train, two validate, two test; random samples of the same recordings would leak.
Baselines on the test part: majority .171; logistic regression on means, deviations, extremes,
changes and last values of the whole sample .755.
A window of 8 to 128 steps is 0.3 to 5.1 seconds; all windows end at the same moments.
Budget: 24 trials of up to 18 epochs, as many epochs for each level of cell, about 130 in all
instead of 432; then the best of each level or range and the default on eight fresh seeds. About two
minutes on two cores. By resampled curves (benchmarks/power.py) 86 of 100 such studies decide
something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import Recurrent

study = Study(
    question="How long a window tells exercises apart, and does the LSTM need a longer one?",
    factors=("cell", "window"),
    space={
        "cell": tune.choice(["gru", "lstm"]),
        "window": tune.choice([8, 16, 32, 64, 128]),
        "hidden_size": tune.lograndint(16, 65),
        "learning_rate": tune.loguniform(1e-3, 1e-1),
    },
    default={"cell": "gru", "window": 32, "hidden_size": 32, "learning_rate": 3e-3},
    fixed={"n_layers": 1, "dropout": 0.2, "batch_size": 64, "clip_norm": 1.0},
    trainable=classification("watch", model=Recurrent),
    metric="val_accuracy",
    mode="max",
    max_epochs=18,
    n_trials=24,
    n_repeats=8,
    goal="answer",
)
