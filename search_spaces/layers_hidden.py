"""More layers or more units? A GRU that tells speakers apart.

    pip install 'hypertune[datasets]'    # the data
    python hypertune.py --space layers_hidden
    python hypertune.py --space layers_hidden --data watch    # without them

Data: Japanese vowels, 640 utterances of nine speakers, 12 channels, 7 to 29 steps, padded; the
model sees the last true step. The test part is that of the authors (370); of the other 270, 30 %
are for validation. Baselines on the test part: majority .084; logistic regression on means,
deviations, extremes, changes and last values .986, which a recurrent network must first beat.
Budget: 48 trials of up to 27 epochs, about 170 in all instead of 1296; then the best of each level
or range and the default on twenty fresh seeds. About three minutes on two cores. By resampled
curves (benchmarks/power.py) 81 of 100 such studies decide something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import Recurrent

study = Study(
    question="Is a GRU made better by more layers, or by more hidden units?",
    factors=("n_layers", "hidden_size"),
    space={
        "n_layers": tune.choice([1, 2, 3]),
        "hidden_size": tune.lograndint(8, 129),
        "learning_rate": tune.loguniform(1e-3, 1e-1),
    },
    default={"n_layers": 1, "hidden_size": 64, "learning_rate": 3e-3},
    fixed={"cell": "gru", "dropout": 0.1, "batch_size": 32, "clip_norm": 1.0},
    trainable=classification("japanese_vowels", model=Recurrent, val_share=0.3),
    metric="val_loss",
    mode="min",
    max_epochs=27,
    n_trials=48,
    n_repeats=20,
    goal="answer",
)
