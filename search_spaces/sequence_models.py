"""Which architecture for short sequences, and how large? Speakers told apart by two vowels.

    pip install 'hypertune[datasets]'    # the data
    python hypertune.py --space sequence_models
    python hypertune.py --space sequence_models --data watch    # without them

Data: Japanese vowels, 640 utterances of nine speakers, 12 channels, 7 to 29 steps, padded; the
model sees the last true step. The test part is that of the authors (370); of the other 270, 30 %
are for validation. Baselines on the test part: majority .084; logistic regression on means,
deviations, extremes, changes and last values .986, which a recurrent network must first beat.
Budget: 36 trials of up to 27 epochs, about 140 in all instead of 972; then the best of each level
or range and the default on eight fresh seeds. About two minutes on two cores. By resampled curves
(benchmarks/power.py) 95 of 100 such studies decide something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import sequence_model

study = Study(
    question="Which architecture tells speakers apart best, and how large must it be?",
    factors=("architecture", "hidden_size"),
    space={
        "architecture": tune.choice(["rnn", "gru", "lstm", "conv", "gru_attention"]),
        "hidden_size": tune.lograndint(8, 129),
        "learning_rate": tune.loguniform(1e-3, 1e-1),
    },
    default={"architecture": "gru", "hidden_size": 64, "learning_rate": 3e-3},
    fixed={"n_layers": 1, "dropout": 0.1, "batch_size": 32, "clip_norm": 1.0},
    trainable=classification("japanese_vowels", model=sequence_model, val_share=0.3),
    metric="val_loss",
    mode="min",
    max_epochs=27,
    n_trials=36,
    n_repeats=8,
    goal="answer",
)
