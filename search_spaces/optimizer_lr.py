"""Which optimizer, at which learning rate? An MLP on digits.

    python hypertune.py --space optimizer_lr

Data: 1,797 digits of 8 x 8 pixels, stratified (50 % / 25 % / 25 %). Judged by the loss: on 449
samples the accuracy is too coarse. Baselines on the test part: majority .102; logistic regression
.971 (loss .146).
A trial that diverges ends as failed; that too is an answer.
Budget: 40 trials of up to 27 epochs, about 150 in all instead of 1080; then the best of each level
or range and the default on eight fresh seeds. About a minute on two cores. By resampled curves
(benchmarks/power.py) 94 of 100 such studies decide something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import MLP

study = Study(
    question="Which optimizer is best at its best learning rate, and which forgives a wrong one?",
    factors=("optimizer", "learning_rate"),
    space={
        "optimizer": tune.choice(["sgd", "nesterov", "adam", "adamw", "rmsprop"]),
        "learning_rate": tune.loguniform(1e-4, 1.0),
    },
    default={"optimizer": "adam", "learning_rate": 1e-3},
    fixed={"n_units": 64, "n_layers": 2, "batch_size": 64, "weight_decay": 1e-4},
    trainable=classification("digits", model=MLP, val_share=0.25, test_share=0.25),
    metric="val_loss",
    mode="min",
    max_epochs=27,
    n_trials=40,
    n_repeats=8,
    goal="answer",
)
