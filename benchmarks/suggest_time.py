"""How long does a suggestion take, once a search has many trials?

    python benchmarks/suggest_time.py                         # 1,000 trials of 8 parameters
    python benchmarks/suggest_time.py --methods tpe --n-trials 300

Each method is given a study of ``--n-trials`` random configs, as a resumed search is: those of a
method without epochs with a value, those of one with epochs with curves that end where its
scheduler would have ended them, four at a time. Then it proposes ``--n-suggestions`` configs more,
one after another, each of which is told before the next. What is printed is CPU time in this one
process, on one thread: the first suggestion, which makes of the history what the later ones build
on, the median, and the longest of the others.
"""

import argparse
import os
import statistics
import time

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np
import torch
from ray import tune

from hypertune.core.space import Config, Space
from hypertune.search import Assignment, Search
from hypertune.search.methods import METHODS, make_search
from hypertune.search.searchers.random import Random

SPACE = {
    "learning_rate": tune.loguniform(1e-5, 1e-1),
    "weight_decay": tune.loguniform(1e-6, 1e-2),
    "dropout": tune.uniform(0, 0.7),
    "momentum": tune.quniform(0, 0.99, 0.01),
    "units": tune.lograndint(8, 513),
    "n_layers": tune.randint(1, 6),
    "optimizer": tune.choice(["sgd", "adam", "rmsprop"]),
    "norm": tune.choice([True, False]),
}
AIMS_MS = {"tpe": 25, "auto": 100, "bayes": 500}
MAX_EPOCHS = 27


def loss(config: Config, epoch: int) -> float:
    """Return the loss of a config: a bowl in what matters, some waves, and a learning curve."""
    rate, units = np.log10(config["learning_rate"]) + 3, np.log2(config["units"]) - 7
    bowl = rate**2 / 4 + units**2 / 9 + (config["dropout"] - 0.2) ** 2 + 0.1 * config["norm"]
    waves = 0.1 * np.sin(9 * config["momentum"]) + 0.05 * (config["optimizer"] == "sgd")
    return float(bowl + waves + np.exp(-epoch / (4 + config["n_layers"])))


def tell(search: Search, job: Assignment) -> None:
    """Report all epochs of a job."""
    for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
        search.tell(job.trial, epoch, loss(job.config, epoch))


def history(search: Search, n_trials: int, max_epochs: int) -> Search:
    """Return what a search of random configs would have left."""
    played = search.like(Random(search.space, max_epochs, 1), n_trials)
    out: list[Assignment] = []
    while True:
        while len(out) < 4 and (job := played.ask()) is not None:
            out.append(job)
        if not out:
            return played
        tell(played, out.pop(0))


def suggestions_ms(method: str, n_trials: int, n_suggestions: int) -> list[float]:
    """Return the CPU milliseconds of each suggestion."""
    max_epochs = MAX_EPOCHS if method == "auto" else 1

    def made() -> Search:
        return make_search(
            method, Space(SPACE), mode="min", max_epochs=max_epochs, n_trials=None, seed=0
        )

    search = made()
    for trial in history(made(), n_trials, max_epochs).trials:
        search.restore(
            search.space.nest(trial.flat),
            values=trial.losses,
            reason=trial.reason,
            to_epoch=trial.to_epoch,
        )
    took: list[float] = []
    while len(took) < n_suggestions:
        n_before, began = len(search.trials), time.process_time()
        job = search.ask()
        seconds = time.process_time() - began
        assert job is not None
        if len(search.trials) > n_before:  # else a trial goes on, which takes no suggestion
            took.append(1000 * seconds)
        tell(search, job)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    default = ["tpe", "auto", "bayes", "hyperopt"]
    parser.add_argument("--methods", nargs="+", default=default, choices=METHODS)
    parser.add_argument("--n-trials", type=int, default=1000, help="before the first one [1000]")
    parser.add_argument("--n-suggestions", type=int, default=10, help="timed [10]")
    options = parser.parse_args()
    if options.n_trials < 1 or options.n_suggestions < 2:
        parser.error("--n-trials must be at least 1, and --n-suggestions at least 2")
    torch.set_num_threads(1)
    print(f"CPU ms a suggestion after {options.n_trials} trials of {len(SPACE)} parameters")
    print(f"{'method':10}{'first':>9}{'median':>9}{'longest':>9}{'aim':>6}")
    for method in options.methods:
        first, *rest = suggestions_ms(method, options.n_trials, options.n_suggestions)
        middle = statistics.median(rest)
        aim = AIMS_MS.get(method, "")
        print(f"{method:10}{first:9.1f}{middle:9.1f}{max(rest):9.1f}{aim:>6}", flush=True)


if __name__ == "__main__":
    main()
