"""Weight decay, dropout or just stopping early? A large MLP on 200 digits.

    pip install 'hypertune[datasets]'    # the data
    python hypertune.py --space regularization

Data: 200 of the digits of 8 x 8 pixels to train on, 449 to validate, 450 to test, stratified. A
second test set, 'mnist', is 1,000 digits of MNIST made as small: other writers and another scanner,
so that one sees whether what pays here pays elsewhere. Baselines on the test part: majority .100;
logistic regression .933 (loss .326), on 'mnist' .539 (1.42).
The model is made to overfit: 512 units and three layers for 200 samples. Every trial is judged at
its best epoch, so that no decay and no dropout is early stopping alone; decay spares the biases.
Budget: 36 trials of up to 54 epochs, about 220 in all instead of 1944; then the best of each level
or range and the default on ten fresh seeds. About two minutes on two cores. By resampled curves
(benchmarks/power.py) 88 of 100 such studies decide something.
"""

from ray import tune

from hypertune import Study, classification
from hypertune.models import MLP

study = Study(
    question="What do weight decay and dropout add to early stopping where samples are few?",
    factors=("weight_decay", "dropout"),
    space={
        "weight_decay": tune.choice([0.0, 0.01, 0.1, 1.0, 3.0]),
        "dropout": tune.choice([0.0, 0.2, 0.4, 0.6, 0.8]),
        "learning_rate": tune.loguniform(3e-4, 1e-2),
    },
    default={"weight_decay": 0.01, "dropout": 0.2, "learning_rate": 1e-3},
    fixed={"optimizer": "adamw", "n_units": 512, "n_layers": 3, "batch_size": 32},
    trainable=classification(
        "digits_and_mnist", model=MLP, val_share=0.25, test_share=0.25, n_train=200
    ),
    metric="val_loss",
    mode="min",
    max_epochs=54,
    n_trials=36,
    n_repeats=10,
    goal="answer",
)
