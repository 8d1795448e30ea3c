"""A scikit-learn estimator: do many small trees beat few large ones? Digits, boosted trees.

    python hypertune.py --space search_spaces/examples/boosting.py

Data: 1,797 images of 8 x 8 digits, 60 % / 20 % / 20 %, stratified. Baselines: the majority class
and logistic regression. No model has more than 2,000 leaves a class.
Budget: 12 trials of up to 9 epochs, each of them a ninth of the trees: about a minute.
"""

from functools import partial

from ray import tune
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier

from hypertune import Study, estimator

study = Study(
    question="Do many small trees beat few large ones?",
    factors=("max_iter", "max_leaf_nodes"),
    space={
        "max_iter": tune.lograndint(9, 200),
        "max_leaf_nodes": tune.lograndint(3, 64),
        "learning_rate": tune.loguniform(0.02, 0.5),
    },
    default={"max_iter": 60, "max_leaf_nodes": 31, "learning_rate": 0.1},
    constraints={"leaves": lambda config: config["max_iter"] * config["max_leaf_nodes"] <= 2000},
    trainable=estimator(
        HistGradientBoostingClassifier,
        partial(load_digits, return_X_y=True),
        kind="classification",
        scoring=("neg_log_loss", "accuracy"),
    ),
    metric="val_neg_log_loss",
    mode="max",
    max_epochs=9,
    n_trials=12,
)
