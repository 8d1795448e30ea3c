"""Filters, depth, dropout, norm: what makes a small CNN good? MNIST digits.

    pip install 'hypertune[datasets]'    # the data
    python hypertune.py --space cnn
    python hypertune.py --space cnn --data fashion_mnist    # where it is installed

Data: 5,000 digits of 28 x 28 pixels, stratified (70 % / 15 % / 15 %).
Baselines on the test part: majority .100; logistic regression .899.
Budget: 27 trials of up to 9 epochs, as many epochs for each level of norm, about 100 in all instead
of 243; then the best of each level or range and the default on four fresh seeds. About four minutes
on two cores. By resampled curves (benchmarks/power.py) 100 of 100 such studies decide something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import CNN

study = Study(
    question="What makes a small CNN good: more filters, more blocks, dropout or a norm?",
    factors=("n_filters", "n_blocks", "dropout", "norm"),
    space={
        "n_filters": tune.choice([4, 8, 16]),
        "n_blocks": tune.choice([1, 2, 3, 4]),
        "dropout": tune.uniform(0.0, 0.6),
        "norm": tune.choice(["none", "batch", "group"]),
        "learning_rate": tune.loguniform(1e-3, 3e-2),
    },
    default={"n_filters": 8, "n_blocks": 3, "dropout": 0.2, "norm": "batch", "learning_rate": 3e-3},
    fixed={"batch_size": 64, "schedule": "cosine"},
    trainable=classification("mnist_5000", model=CNN),
    metric="val_accuracy",
    mode="max",
    max_epochs=9,
    n_trials=27,
    n_repeats=4,
    goal="answer",
)
