"""Batch size and learning rate: does one make up for the other? An MLP on digits.

    python hypertune.py --space batch_lr

Data: 1,797 digits of 8 x 8 pixels, stratified (50 % / 25 % / 25 %). Judged by the loss: on 449
samples the accuracy is too coarse. Baselines on the test part: majority .102; logistic regression
.971 (loss .146).
The epochs are equal, so small batches take more steps and more time.
Budget: 40 trials of up to 27 epochs, about 150 in all instead of 1080; then the best of each level
or range and the default on twelve fresh seeds. About a minute on two cores. By resampled curves
(benchmarks/power.py) 99 of 100 such studies decide something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import MLP

study = Study(
    question="Does the best learning rate grow with the batch size, and do large batches lose?",
    factors=("batch_size", "learning_rate"),
    space={
        "batch_size": tune.choice([8, 16, 32, 64, 128, 256, 512]),
        "learning_rate": tune.loguniform(1e-3, 1.0),
    },
    default={"batch_size": 64, "learning_rate": 0.03},
    fixed={"optimizer": "nesterov", "n_units": 64, "n_layers": 2},
    trainable=classification("digits", model=MLP, val_share=0.25, test_share=0.25),
    metric="val_loss",
    mode="min",
    max_epochs=27,
    n_trials=40,
    n_repeats=12,
    goal="answer",
)
