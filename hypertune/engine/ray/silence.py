"""Ends workers that stand still, which they cannot do themselves."""

import math
import time
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from hypertune.engine.driver import Driver

_LOOK_EVERY_S = 1.0


class Silence:
    """Watches for workers from which nothing comes any more.

    Args:
        driver: Says which ones these are.
    """

    def __init__(self, driver: "Driver") -> None:
        self._driver, self._looked = driver, -math.inf

    def end_silent_workers(self, tune_controller: Any) -> None:
        """Kill them. Ray Tune then tells the driver of each that it has died.

        Args:
            tune_controller: Ray Tune's, in the wrapper that it shows its schedulers.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        controller = tune_controller._tune_controller
        # An actor is among these once there are resources for it, before it has been set up.
        actors = controller._actor_manager._live_actors_to_ray_actors_resources
        for trial, tracked in list(controller._trial_to_actor.items()):
            if tracked in actors and self._driver.running.is_silent(trial.trial_id):
                ray.kill(actors[tracked][0])
