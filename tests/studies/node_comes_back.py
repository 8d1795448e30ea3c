"""A program: a study on two nodes, one of which leaves while it trains, and comes back.

python node_comes_back.py FOLDER
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster

from hypertune.engine import run
from hypertune.engine.progress import Progress
from hypertune.engine.ray.token import secure_token
from hypertune.journal.store import Journal
from hypertune.settings import Settings
from hypertune.studies.study import load_study


def main(folder: Path) -> None:
    secure_token()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    steps: list[Callable[[], object]] = [
        partial(cluster.remove_node, node),
        partial(cluster.add_node, num_cpus=1),
    ]

    def observe(progress: Progress) -> None:
        """Let the node leave after some epochs, and another one come after some more."""
        if steps and progress.n_epochs >= 30 * (3 - len(steps)):
            steps.pop(0)()

    toy = load_study(str(Path(__file__).with_name("toy.py")))
    study = replace(toy, fixed={**toy.fixed, "sleep_s": 0.2})
    (folder / "common").mkdir()
    settings = Settings(
        studies_dir=folder / "studies",
        storage=str(folder / "common"),
        address=cluster.address,
        method="random",
        n_trials=20,
        n_repeats=0,
        sync_timeout_s=0.0,
    )
    outcome = run(study, settings, observe)
    cluster.shutdown()
    with contextlib.closing(Journal(outcome.folder / "journal.db", read_only=True)) as journal:
        said = {
            "error": outcome.error,
            "steps": len(steps),
            "reasons": [trial.reason for trial in journal.trials() if trial.role == "search"],
            "lost": len(journal.events(kind="lost")),
            "capacity": [e.data["n_concurrent"] for e in journal.events(kind="capacity")],
        }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
