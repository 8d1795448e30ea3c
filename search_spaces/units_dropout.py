"""More units with more dropout? An MLP on MNIST digits.

    pip install 'hypertune[datasets]'    # the data
    python hypertune.py --space units_dropout
    python hypertune.py --space units_dropout --data fashion_mnist    # where it is installed

Data: 5,000 digits of 28 x 28 pixels, stratified (70 % / 15 % / 15 %).
Baselines on the test part: majority .100; logistic regression .899.
Budget: 30 trials of up to 27 epochs, about 130 in all instead of 810; then the best of each level
or range and the default on six fresh seeds. About two minutes on two cores. By resampled curves
(benchmarks/power.py) 98 of 100 such studies decide something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import MLP

study = Study(
    question="Does a larger layer pay once dropout keeps it from learning by heart?",
    factors=("n_units", "dropout"),
    space={
        "n_units": tune.lograndint(16, 513),
        "dropout": tune.uniform(0.0, 0.8),
        "learning_rate": tune.loguniform(3e-4, 1e-2),
    },
    default={"n_units": 128, "dropout": 0.2, "learning_rate": 1e-3},
    fixed={"n_layers": 2, "batch_size": 64},
    trainable=classification("mnist_5000", model=MLP),
    metric="val_accuracy",
    mode="max",
    max_epochs=27,
    n_trials=30,
    n_repeats=6,
    goal="answer",
)
