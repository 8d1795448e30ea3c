"""An unchanged script as a task: a command line that prints its epochs as lines of JSON."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hypertune.core.errors import choices, nearest, shown
from hypertune.core.space import Config, Space
from hypertune.core.task import TrialEnded
from hypertune.tasks import guard
from hypertune.tasks.user_code import OwnConfig, OwnLoop, OwnTask, as_metrics, state_folder

_SETTLE_S = 0.5
_POLL_S = 0.02
_KILLED_S = 1.0
_N_LINES = 40  # that are kept of what a command said
_N_SAMPLES = 100  # configs that placeholders are tried on
_WHOLE = ("config_json", "config_file")
_FOLDERS = ("checkpoint_dir", "work_dir")
_OTHERS = (*_WHOLE, *_FOLDERS, "python")
_TAIL_BYTES = 20_000


@dataclass(frozen=True, kw_only=True)
class Command(OwnTask):
    """The task of a command line. Made by `command`."""

    line: tuple[str, ...]
    report: str
    cwd: str
    taken = ("epoch",)

    @property
    def data(self) -> str:
        return f"loaded by {shlex.join(self.line)}"

    @property
    def saves(self) -> bool:  # type: ignore[override]
        """Whether the command is given a folder for its state."""
        return "checkpoint_dir" in _names(self.line)

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        problems = []
        program = self.line[0]
        if "/" not in program and "{" not in program and shutil.which(program) is None:
            problems.append(f"command: there is no program '{program}' here")
        used = _names((*self.line, self.report, self.cwd))
        rng = np.random.default_rng(0)
        samples = [
            {**fixed, **space.nest(space.sample(rng)), "max_epochs": 1, "seed": 0, "device": "cpu"}
            for _ in range(_N_SAMPLES)
        ]
        names = sorted({name for sample in samples for name in _flat(sample)})
        known = [*names, *_OTHERS]
        for name in dict.fromkeys(used):
            if name not in known:
                problems.append(f"command: unknown placeholder {{{name}}}.{choices(name, known)}")
            elif name in names and not all(name in _flat(sample) for sample in samples):
                problems.append(
                    f"command: {{{name}}} is not in every config; pass {{config_json}} instead"
                )
        parts = (*self.line, self.report, self.cwd)
        problems += _misfits(parts, [_flat(sample) for sample in samples])
        if not set(used) & set(_WHOLE):
            problems += [
                f"'{name}' is not passed to the command: put {{{name}}} or {{config_json}} into it"
                for name in (*space.names, *fixed)
                if not any(_within(name, other) or _within(other, name) for other in used)
            ]
        if self.report != "stdout" and not set(_names((self.report, self.cwd))) & set(_FOLDERS):
            problems.append(
                "command: report must be 'stdout', or a file in {work_dir} or {checkpoint_dir}, "
                f"since several trials run at a time, but got '{self.report}'"
            )
        return problems

    def start(self, config: Config, data: Any, *, metric: str, mode: str) -> "CommandLoop":
        return CommandLoop(self, config, metric)


def command(
    line: str | Sequence[str], *, report: str = "stdout", cwd: str | None = None
) -> Command:
    """Return the task of training by a command, which is run without a shell.

    A line of its output that is a JSON object with the study's metric is the report of an epoch;
    its other numbers are metrics too. Where such a line has an ``epoch``, it must count by one,
    from 0 or 1. The last of all other lines are told where the command fails. The command, and
    every process that it begins, gets SIGTERM where the job ends, and SIGKILL 5 s later.

    Placeholders, for all arguments: a name of the config, dotted within a branch
    (``{schedule.warmup}``), with a format if need be (``{rate:.3g}``), among them ``{max_epochs}``,
    ``{seed}`` and ``{device}``; ``{config_json}`` for all of it, as text, and ``{config_file}``, as
    a file; ``{work_dir}`` for an empty folder; ``{checkpoint_dir}`` for the folder of its state:
    empty at first, and as it was left where a trial goes on. A command that uses it must write its
    state before it reports the epoch, and rename it into place, since it may be ended at any time.
    ``{python}`` is the Python that the workers run in; ``{{`` is a brace. Without a format a list,
    a tuple or a dict is written as JSON (``[3, 3]``), and any other value as Python's ``str``
    writes it (``adam``, ``0.001``, ``None``, ``True``).

    Example:
        >>> import hypertune
        >>> task = hypertune.command("python train.py --rate {rate:.3g} --seed {seed}")
        >>> task.data
        "loaded by python train.py --rate '{rate:.3g}' --seed '{seed}'"

    Args:
        line: The command, as for a shell; or its arguments.
        report: ``stdout``, or the path of a file that it writes its lines to.
        cwd: The folder to run in; None for the one that the study is loaded in.

    Raises:
        ValueError: A rule is broken.
    """
    arguments = tuple(shlex.split(line) if isinstance(line, str) else map(str, line))
    if not arguments:
        raise ValueError("command(...) must be given a program, but got none")
    task = Command(line=arguments, report=report, cwd=cwd or str(Path.cwd()))
    _names((*task.line, task.report, task.cwd))
    return task


class CommandLoop(OwnLoop):
    """A command at work. It is not held up between epochs: what it reports early is kept."""

    def __init__(self, task: Command, config: Config, metric: str) -> None:
        self._task, self._config, self._metric = task, config, metric
        self.saves = "at the end" if task.saves else "never"
        self._work = Path(tempfile.mkdtemp(prefix="hypertune-command-"))
        self._state = self._work / "checkpoint"
        self._state.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._mark = ""
        self._reports: _Added | None = None
        self._ahead: deque[dict[str, Any]] = deque()  # reports that were not asked for yet
        self._goes_on = False  # from a state, and has reported nothing since
        self._first: int | None = None  # what the command calls its first epoch
        self._said: deque[str] = deque(maxlen=_N_LINES)
        self._keys: dict[str, None] = {}  # of reports that lacked the metric

    def step(self) -> Mapping[str, float]:
        if self._process is None and not self._ahead:
            self._begin()
        while not self._ahead:
            assert self._process is not None
            status = self._process.poll()  # asked first: no line is missed then
            self._read(to_the_end=status is not None)
            if not self._ahead:
                if status is not None:
                    self._over(status)
                time.sleep(_POLL_S)
        return self._metrics(self._ahead.popleft())

    def save(self, folder: Path) -> None:
        """End the command, and keep its state and what it had reported early."""
        super().save(folder)
        self._settle()
        self._end()
        self._read(to_the_end=True)
        early = {"first": self._first, "reports": list(self._ahead)}
        (folder / "early.json").write_text(json.dumps(early))
        shutil.copytree(self._state, state_folder(folder), dirs_exist_ok=True)

    def _settle(self) -> None:
        """Let the report come of an epoch whose state the command has just saved."""
        until = time.monotonic() + _SETTLE_S
        while self._process is not None and self._process.poll() is None:
            assert self._reports is not None
            saved = (path.stat().st_mtime_ns for path in self._state.rglob("*") if path.is_file())
            with contextlib.suppress(FileNotFoundError):  # a file that is being written anew
                # Times of files are exact to some milliseconds only: equal ones tell nothing.
                if self._reports.changed_ns > max(saved, default=0):
                    return
            if time.monotonic() > until:
                return
            time.sleep(_POLL_S)

    def load(self, folder: Path) -> None:
        super().load(folder)
        early = json.loads((folder / "early.json").read_text())
        self._first, self._ahead = early["first"], deque(early["reports"])
        shutil.copytree(state_folder(folder), self._state, dirs_exist_ok=True)

    def close(self) -> None:
        self._end()
        shutil.rmtree(self._work, ignore_errors=True)

    # ---- the process ----

    def _begin(self) -> None:
        self._goes_on = self.epoch > 0
        scratch = self._work / "scratch"
        scratch.mkdir()
        whole = json.dumps(self._config)
        (self._work / "config.json").write_text(whole)
        values = OwnConfig(_flat(self._config))
        values |= {
            "config_json": whole,
            "config_file": str(self._work / "config.json"),
            "checkpoint_dir": str(self._state),
            "work_dir": str(scratch),
            "python": sys.executable,
        }
        line = [_filled(part, values) for part in self._task.line]
        cwd = Path(_filled(self._task.cwd, values))
        stdout = self._work / "stdout"
        report = stdout
        if self._task.report != "stdout":
            report = cwd / _filled(self._task.report, values)
        self._mark = uuid.uuid4().hex
        with stdout.open("wb") as out, (self._work / "stderr").open("wb") as errors:
            self._reports = _Added(report)
            self._process = subprocess.Popen(
                line,
                cwd=cwd,
                # A Python that writes into a file would keep its lines until the buffer is full.
                env={**os.environ, guard.MARK: self._mark, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                start_new_session=True,
            )
        self._guard = guard.start_guard(self._process.pid, self._mark, self._work)

    def _end(self) -> None:
        """End the command with all its processes."""
        process, watcher, self._guard = self._process, self._guard, None
        if watcher is not None:
            watcher.communicate()
        elif process is None or process.returncode is not None:
            return
        assert process is not None
        if watcher is None or watcher.returncode != 0:  # it could not be started, or has died
            group = process.pid if process.poll() is None else 0  # else others may have the id
            guard.end_processes(group, self._mark, grace_s=0.0)
        with contextlib.suppress(subprocess.TimeoutExpired):  # SIGKILL does not end all that waits
            process.wait(_KILLED_S)

    def _over(self, status: int) -> None:
        """Say what the end of the command means.

        Raises:
            TrialEnded: It is done.
            RuntimeError: It failed.
        """
        if status == 0 and self.epoch:
            raise TrialEnded
        said = self._log()
        after = f" after epoch {self.epoch}" if self.epoch else " before its first report"
        how = f"ended with status {status}"
        if status < 0:
            how = f"was ended by {_signal_name(-status)}"
        if status == 0:
            after = f" without a report of '{self._metric}'"
            if self._keys:
                known = list(self._keys)
                after += f", but of {', '.join(known)}.{nearest(self._metric, known)}"
        last = f": {said[-1]}" if said and status else ""
        raise RuntimeError("\n".join([f"the command {how}{after}{last}", *said]))

    # ---- what it says ----

    def _read(self, *, to_the_end: bool) -> None:
        """Take in what was reported since; epochs that are known are passed over."""
        for line in self._reports.lines(to_the_end=to_the_end) if self._reports else ():
            report = _object(line)
            if report is None or self._metric not in report:
                self._keys |= dict.fromkeys(report or {})
                self._said.append(line)
            elif self._number(report) > self.epoch + len(self._ahead):
                self._ahead.append(report)

    def _number(self, report: Mapping[str, Any]) -> int:
        """Return the epoch that a report is of, counted from 1."""
        number = report.get("epoch")
        if number is None:
            return self.epoch + len(self._ahead) + 1
        if self._first is None:
            if number not in (0, 1):
                raise ValueError(f"epochs must be counted from 0 or 1, but the first is {number!r}")
            self._first = int(number)
        if not _is_number(number) or number != int(number):
            raise ValueError(f"epoch must be an integer, but got {number!r}")
        return int(number) + 1 - self._first

    def _metrics(self, report: Mapping[str, Any]) -> dict[str, float]:
        """Take the report that is next, and return its metrics."""
        due = self.epoch + 1
        self.epoch = self._number(report) if "epoch" in report else due
        # It may have been ended between the saving of a state and the line that is about it.
        if self.epoch != due and not (self._goes_on and self.epoch > due):
            raise ValueError(
                f"epochs must be reported one by one: {due - 1 + (self._first or 0)} is next, but "
                f"got {report['epoch']}"
            )
        self._goes_on = False
        value = report[self._metric]
        if isinstance(value, str):
            raise TypeError(
                f"{self._metric} must be a number, but got the text {shown(value)}: print it "
                "without quotes"
            )
        others = {k: v for k, v in report.items() if isinstance(v, int | float) and k != "epoch"}
        return as_metrics({**others, self._metric: value})

    def _log(self) -> list[str]:
        """Return the last lines that were no reports, those of the standard error last."""
        lines = list(self._said)
        if self._task.report != "stdout":
            lines += _tail(self._work / "stdout")
        return (lines + _tail(self._work / "stderr"))[-_N_LINES:]


class _Added:
    """Reads what is added to a file from now on; the file may come later, or be written anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = path.stat().st_size if path.exists() else 0

    @property
    def changed_ns(self) -> int:
        """When the file was changed last."""
        return self._path.stat().st_mtime_ns

    def lines(self, *, to_the_end: bool) -> list[str]:
        """Return the lines since the last call; one without an end only where none will come."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._place:
                    self._place = 0
                file.seek(self._place)
                added = file.read()
        except FileNotFoundError:
            return []
        end = len(added) if to_the_end else added.rfind(b"\n") + 1
        self._place += end
        return added[:end].decode(errors="replace").splitlines()


def _tail(path: Path) -> list[str]:
    """Return the last lines of a file."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-_N_LINES:]


def _object(line: str) -> dict[str, Any] | None:
    """Return the JSON object that a line is; None if it is none."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config's values by dotted names, those of whole branches among them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat[prefix + key] = value
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
    return flat


def _within(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def _parsed(part: str) -> list[tuple[str, str | None, str]]:
    """Return the pieces of a template: a text, then a placeholder's name and format, if any."""
    try:
        pieces = list(string.Formatter().parse(part))
    except ValueError as error:
        raise ValueError(f"command: '{part}' cannot be read: {error}; {{{{ is a brace") from error
    return [(text, name, form or "") for text, name, form, _ in pieces]


def _names(parts: Sequence[str]) -> list[str]:
    """Return the placeholders of templates."""
    return [name for part in parts for _, name, _ in _parsed(part) if name is not None]


def _filled(part: str, values: Mapping[str, Any]) -> str:
    """Return a template with its placeholders filled in."""
    return "".join(
        text + ("" if name is None else _shown(values[name], form))
        for text, name, form in _parsed(part)
    )


def _shown(value: Any, form: str) -> str:
    if isinstance(value, dict | list | tuple) and not form:
        return json.dumps(value)
    return format(value, form)


def _misfits(parts: Sequence[str], samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which placeholders ask for a format that a value of theirs cannot be written in."""
    found: dict[tuple[str, str], str] = {}
    for _, name, form in (piece for part in parts for piece in _parsed(part)):
        if name is None:
            continue
        for value in (values[name] for values in samples if name in values):
            try:
                _shown(value, form or "")
            except (TypeError, ValueError, OverflowError):
                text = f"command: {{{name}:{form}}} cannot write {value!r}"
                found.setdefault((name, form or ""), text)
    return list(found.values())
