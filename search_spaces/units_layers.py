"""Broad or deep? An MLP on digits.

    python hypertune.py --space units_layers

Data: 1,797 digits of 8 x 8 pixels, stratified (50 % / 25 % / 25 %). Judged by the loss: on 449
samples the accuracy is too coarse. Baselines on the test part: majority .102; logistic regression
.971 (loss .146).
Budget: 36 trials of up to 27 epochs, about 140 in all instead of 972; then the best of each level
or range and the default on eight fresh seeds. About a minute on two cores. By resampled curves
(benchmarks/power.py) 89 of 100 such studies decide something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import MLP

study = Study(
    question="Does an MLP gain more from breadth or from depth?",
    factors=("n_units", "n_layers"),
    space={
        "n_units": tune.lograndint(4, 257),
        "n_layers": tune.choice([1, 2, 3, 4, 5]),
        "learning_rate": tune.loguniform(3e-4, 3e-2),
    },
    default={"n_units": 64, "n_layers": 2, "learning_rate": 1e-3},
    fixed={"dropout": 0.0, "batch_size": 64},
    trainable=classification("digits", model=MLP, val_share=0.25, test_share=0.25),
    metric="val_loss",
    mode="min",
    max_epochs=27,
    n_trials=36,
    n_repeats=8,
    goal="answer",
)
