"""Which activation survives depth? MLPs of up to ten layers on digits.

    python hypertune.py --space activation_depth

Data: 1,797 digits of 8 x 8 pixels, stratified (50 % / 25 % / 25 %). Judged by the loss: on 449
samples the accuracy is too coarse. Baselines on the test part: majority .102; logistic regression
.971 (loss .146).
Initial weights are He's for all, without norms: it is the activation that has to carry the signal.
Budget: 48 trials of up to 27 epochs, about 170 in all instead of 1296; then the best of each level
or range and the default on eight fresh seeds. About a minute on two cores. By resampled curves
(benchmarks/power.py) 100 of 100 such studies decide something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import MLP

study = Study(
    question="Which activations still train when the network gets deep?",
    factors=("activation", "n_layers"),
    space={
        "activation": tune.choice(["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"]),
        "n_layers": tune.choice([1, 2, 4, 6, 8, 10]),
        "learning_rate": tune.loguniform(1e-4, 3e-2),
    },
    default={"activation": "relu", "n_layers": 2, "learning_rate": 1e-3},
    fixed={"init": "he", "n_units": 64, "batch_size": 64},
    trainable=classification("digits", model=MLP, val_share=0.25, test_share=0.25),
    metric="val_loss",
    mode="min",
    max_epochs=27,
    n_trials=48,
    n_repeats=8,
    goal="answer",
)
