"""The jobs that are under way, and which of their workers have fallen silent."""

from collections.abc import Callable
from dataclasses import dataclass

from hypertune.engine.phases import Running
from hypertune.engine.ray.worker import WorkerJob

_LATE_S = 5.0  # turns of Ray's loop are a tenth of a second apart
_SILENT_S = 15.0  # for the way of a report to the driver
_START_S = 300.0  # for a new worker: its process, its imports, the data


@dataclass(kw_only=True)
class RunningJob:
    """A job that was sent.

    Attributes:
        job: What its worker was told.
        number: The trial's in the search; None for a trial that is not of the search.
        from_epoch: The epoch of the checkpoint that it begins with; 0 for none.
        heard: When something was heard of it last, by the driver's clock.
        test: The label under which its model is judged on the test part; None for training.
        cut: It is to end after its present epoch.
        given: A worker was asked for it and its resources are there.
        ready: Its worker is ready.
        begun: Its worker has begun it.
        placed: Where it runs was recorded.
        paused: A scheduler of Ray's has taken its worker away.
        stopped: A scheduler of Ray's has it stopped after the epoch that was just reported.
        finishing: All its epochs are there; the user's code does what it does after them.
    """

    job: WorkerJob
    number: int | None
    from_epoch: int
    heard: float
    test: str | None = None
    cut: bool = False
    given: bool = False
    ready: bool = False
    begun: bool = False
    placed: bool = False
    paused: bool = False
    stopped: bool = False
    finishing: bool = False


class RunningJobs(dict[str, RunningJob]):
    """The jobs that are under way, by the id of their Ray trial.

    Args:
        clock: Seconds, from whenever on.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._awake = clock()

    @property
    def trials(self) -> Running:
        """The trials that have a job now."""
        testing = {one.job.trial for one in self.values() if one.test is not None}
        training = {one.job.trial for one in self.values() if one.test is None}
        return Running(training=training, testing=testing)

    @property
    def any_training(self) -> bool:
        """Some of them train."""
        return any(one.test is None for one in self.values())

    @property
    def any_searched(self) -> bool:
        """Some of them are trials of the search."""
        return any(one.number is not None for one in self.values())

    def notice_sleep(self) -> None:
        """Hold no silence against workers while this process itself stood still.

        The machine may have been suspended, and its workers with it.
        """
        now = self._clock()
        if (slept := now - self._awake) > _LATE_S:
            for running in self.values():
                running.heard = min(now, running.heard + slept)
        self._awake = now

    def is_silent(self, key: str) -> bool:
        """Say whether the worker that has a job is to be ended, since nothing is heard of it.

        A worker ends itself where an epoch takes too long, and where the end of the code behind the
        last epoch does: each may take the timeout. It cannot where all of it stands still (its
        process was stopped, it waits for a dead disk).
        """
        self.notice_sleep()
        if (running := self.get(key)) is None:
            return False
        if not running.given:  # it has waited for its resources until now
            running.given, running.heard = True, self._clock()
        most = 2 * running.job.timeout_s + (_SILENT_S if running.ready else _START_S)
        return self._clock() - running.heard > most
