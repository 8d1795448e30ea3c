"""Which learning-rate schedule, from which base rate? A CNN on digits.

    python hypertune.py --space lr_schedule

Data: 1,797 digits of 8 x 8 pixels, stratified (50 % / 25 % / 25 %). Judged by the loss: on 449
samples the accuracy is too coarse. Baselines on the test part: majority .102; logistic regression
.971 (loss .146).
A space with branches: each schedule has its own settings. All are planned for the whole training,
so a trial that is stopped early was judged before its rate came down.
Budget: 36 trials of up to 18 epochs, as many epochs for each level of schedule, about 240 in all
instead of 648; then the best of each level or range and the default on eight fresh seeds. About a
minute on two cores. By resampled curves (benchmarks/power.py) 99 of 100 such studies decide
something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import CNN

study = Study(
    question="Does a schedule beat a constant rate, and which one forgives a wrong base rate?",
    factors=("schedule", "learning_rate"),
    space={
        "schedule": tune.choice(
            [
                {"kind": "constant"},
                {
                    "kind": "plateau",
                    "factor": tune.uniform(0.1, 0.7),
                    "patience": tune.randint(0, 5),
                },
                {"kind": "cosine", "warmup_epochs": tune.randint(0, 6)},
                {"kind": "one_cycle", "rise_share": tune.uniform(0.1, 0.5)},
            ]
        ),
        "learning_rate": tune.loguniform(1e-3, 1.0),
    },
    default={"schedule": {"kind": "constant"}, "learning_rate": 0.05},
    fixed={"optimizer": "nesterov", "n_filters": 8, "n_blocks": 2, "batch_size": 64},
    trainable=classification("digits", model=CNN, val_share=0.25, test_share=0.25),
    metric="val_loss",
    mode="min",
    max_epochs=18,
    n_trials=36,
    n_repeats=8,
    goal="answer",
)
