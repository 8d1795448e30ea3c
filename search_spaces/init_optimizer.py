"""Can an adaptive optimizer mend bad initial weights? A tanh MLP on digits.

    python hypertune.py --space init_optimizer

Data: 1,797 digits of 8 x 8 pixels, stratified (50 % / 25 % / 25 %). Judged by the loss: on 449
samples the accuracy is too coarse. Baselines on the test part: majority .102; logistic regression
.971 (loss .146).
Zero weights are in it as the known failure: all units of a layer stay the same.
Budget: 48 trials of up to 27 epochs, as many epochs for each level of optimizer, about 370 in all
instead of 1296; then the best of each level or range and the default on eight fresh seeds. About
two minutes on two cores. By resampled curves (benchmarks/power.py) 100 of 100 such studies decide
something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import MLP

study = Study(
    question="Which initial weights does a tanh network need, and which can the optimizer mend?",
    factors=("init", "optimizer"),
    space={
        "init": tune.choice(["glorot", "he", "small", "large", "zero"]),
        "optimizer": tune.choice(["sgd", "nesterov", "adam", "rmsprop"]),
        "learning_rate": tune.loguniform(1e-4, 1.0),
    },
    default={"init": "glorot", "optimizer": "adam", "learning_rate": 1e-3},
    fixed={"activation": "tanh", "n_units": 64, "n_layers": 3, "batch_size": 64},
    trainable=classification("digits", model=MLP, val_share=0.25, test_share=0.25),
    metric="val_loss",
    mode="min",
    max_epochs=27,
    n_trials=48,
    n_repeats=8,
    goal="answer",
)
