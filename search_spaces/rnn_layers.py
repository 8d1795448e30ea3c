"""GRU or LSTM, and how deep? Speakers told apart by two vowels.

    pip install 'hypertune[datasets]'    # the data
    python hypertune.py --space rnn_layers
    python hypertune.py --space rnn_layers --data watch    # without them

Data: Japanese vowels, 640 utterances of nine speakers, 12 channels, 7 to 29 steps, padded; the
model sees the last true step. The test part is that of the authors (370); of the other 270, 30 %
are for validation. Baselines on the test part: majority .084; logistic regression on means,
deviations, extremes, changes and last values .986, which a recurrent network must first beat.
Budget: 30 trials of up to 27 epochs, as many epochs for each level of cell, about 190 in all
instead of 810; then the best of each level or range and the default on 24 fresh seeds. About two
minutes on two cores. By resampled curves (benchmarks/power.py) 92 of 100 such studies decide
something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import Recurrent

study = Study(
    question="Does the LSTM or the GRU gain more from further layers?",
    factors=("cell", "n_layers"),
    space={
        "cell": tune.choice(["gru", "lstm"]),
        "n_layers": tune.choice([1, 2, 3, 4]),
        "hidden_size": tune.lograndint(16, 129),
        "learning_rate": tune.loguniform(1e-3, 1e-1),
    },
    default={"cell": "gru", "n_layers": 1, "hidden_size": 64, "learning_rate": 3e-3},
    fixed={"dropout": 0.1, "batch_size": 32, "clip_norm": 1.0},
    trainable=classification("japanese_vowels", model=Recurrent, val_share=0.3),
    metric="val_loss",
    mode="min",
    max_epochs=27,
    n_trials=30,
    n_repeats=24,
    goal="answer",
)
