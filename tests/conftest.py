"""What tests share: one local Ray for all of them, and the toy study."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune

from hypertune.study import Study, load_study

TOY = Path(__file__).parent / "studies" / "toy.py"


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Give the tests a Ray with two CPUs and, on paper, one GPU."""
    ray.init(
        num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture
def toy() -> Study:
    return load_study(str(TOY))


def doing(study: Study, *what: str, **fixed: Any) -> Study:
    """Return the toy study with trials that do all of these things."""
    return replace(
        study,
        space={"x": tune.uniform(0, 1), "do": tune.choice(list(what))},
        default={"x": 0.5, "do": what[0]},
        fixed={**study.fixed, **fixed},
    )
