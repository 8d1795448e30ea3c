"""An unchanged script: do small batches bear a larger learning rate? Digits, softmax regression.

    python hypertune.py --space search_spaces/examples/script.py

Data: 1,797 images of 8 x 8 digits, of which 1,200 train and 300 validate; the rest is left alone.
Budget: 12 trials of up to 9 epochs, each job a process of about a second: about half a minute.
"""

import shlex
from pathlib import Path

from ray import tune

from hypertune import Study, command

SCRIPT = Path(__file__).parent / "train.py"

study = Study(
    question="Do small batches bear a larger learning rate?",
    factors=("batch_size", "learning_rate"),
    space={
        "batch_size": tune.choice([8, 32, 128]),
        "learning_rate": tune.loguniform(1e-2, 10.0),
    },
    default={"batch_size": 32, "learning_rate": 0.5},
    trainable=command(
        f"{{python}} {shlex.quote(str(SCRIPT))} --learning-rate {{learning_rate}} "
        "--batch-size {batch_size} --epochs {max_epochs} --seed {seed} "
        "--checkpoints {checkpoint_dir}"
    ),
    metric="val_accuracy",
    mode="max",
    max_epochs=9,
    n_trials=12,
)
