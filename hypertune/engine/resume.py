"""What an earlier session of a study left in its journal, and the search that goes on from it."""

import contextlib
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypertune.core.data_options import OtherData
from hypertune.core.errors import JournalError, SettingError
from hypertune.core.plugs import file_digest
from hypertune.core.space import Space, as_lists, like
from hypertune.engine.folder import check_study
from hypertune.engine.prepare import Prepared, prepare
from hypertune.engine.trust import is_trusted
from hypertune.journal.history import StudyHistory, TrialHistory
from hypertune.journal.store import FULL, Journal
from hypertune.search import Search
from hypertune.search.methods import find_method, make_search
from hypertune.settings import Settings
from hypertune.studies.other_data import with_data
from hypertune.studies.study import Study, comes_along, fair_factor, load_study, study_names

_NEEDED = ("source", "source_sha256", "start")


@dataclass(frozen=True, kw_only=True)
class RecordedStudy:
    """A study as its journal has it.

    Attributes:
        folder: The study's folder.
        history: What its journal holds.
    """

    folder: Path
    history: StudyHistory

    @classmethod
    def read(cls, folder: Path) -> "RecordedStudy":
        """Read the journal in a folder.

        Raises:
            JournalError: It cannot be read, or holds no study.
        """
        check_study(folder)
        return cls(folder=folder, history=StudyHistory.read(folder))

    @property
    def about(self) -> Mapping[str, Any]:
        """The journal's keys."""
        return self.history.study

    @staticmethod
    def storage(folder: Path, changes: Mapping[str, Any]) -> str | None:
        """Return where a study's checkpoints and copies of its journal lie, besides its folder.

        Raises:
            SettingError: What is changed breaks a rule.
        """
        with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
            before = journal.study().get("settings", {}).get("storage")
        return Settings(storage=changes.get("storage", before)).storage

    def trial(self, trial: int) -> TrialHistory:
        """Return a trial.

        Raises:
            SettingError: There is none of this id.
        """
        if trial not in self.history.trials:
            most = max(self.history.trials, default=-1)
            raise SettingError(
                f"'{self.folder.name}' has no trial {trial}: its trials are numbered 0 to {most}."
            )
        return self.history.trials[trial]

    def replay(
        self, space: str | Study | None, changes: Mapping[str, Any]
    ) -> tuple[Prepared, Settings]:
        """Return the study with its search as it was left, and its settings from now on.

        Args:
            space: The study, its name or its file, where that has moved.
            changes: Settings that differ from now on.

        Raises:
            HypertuneError: The study is not the same any more, or there is nothing left to do.
        """
        if self.about["method"] != self.about["settings"].get("method", self.about["method"]):
            raise SettingError(
                f"'{self.folder.name}' was searched by {self.about['method']}, which was given "
                "from Python and is not in the journal: it cannot be gone on with. Begin a new "
                f"study with --from {self.folder.name}."
            )
        study, settings = self.settled(space, changes)
        self._check_plugs(settings, named=changes)
        n_trials = len(self.history.searched)
        if settings.n_trials is not None and settings.n_trials < n_trials:
            raise SettingError(
                f"--n-trials is the new total and must be at least {n_trials}, which are there "
                f"already, but got {settings.n_trials}."
            )
        budget = self.about["settings"].get("time_budget_s")
        if settings.time_budget_s is None and budget is not None:
            left = budget - self.history.spent_s
            if left <= 0:
                raise SettingError(
                    f"The time budget of '{self.folder.name}' is spent ({budget:g} s): give more "
                    "with --time-budget."
                )
            settings = replace(settings, time_budget_s=left)
        prepared = self.prepared(study, settings)
        search = prepared.search
        end = self.history.last_end
        orderly = end is not None and end.data.get("stopped_by") is None
        if orderly and search.done and not changes.get("until_decided"):
            tried = len(search.trials)
            more = "For more of them give the new total with --n-trials."
            if prepared.study.search_space.n_configs == tried:
                more = "The space has no more configs."
            raise SettingError(f"Study '{self.folder.name}' is finished: {tried} trials. {more}")
        return prepared, settings

    def settled(
        self, space: str | Study | None, changes: Mapping[str, Any]
    ) -> tuple[Study, Settings]:
        """Return the study and its settings, changed as told, but for the time budget.

        Raises:
            HypertuneError: The study is not the same any more, or a setting breaks a rule.
        """
        if missing := [key for key in _NEEDED if key not in self.about]:
            raise JournalError(
                f"The journal of '{self.folder.name}' lacks {', '.join(missing)}, without which "
                "the study cannot be rebuilt."
            )
        changed = {"n_trials": self.about["n_trials"], "time_budget_s": None, **changes}
        settings = Settings.recorded(self.about["settings"], self.folder, **changed)
        study = with_data(self._study(space), settings.other_data)
        return study, replace(settings, other_data=OtherData())

    def prepared(self, study: Study, settings: Settings) -> Prepared:
        """Return the study with its search, rebuilt from its record."""
        prepared = prepare(study, settings, self.about["start"])
        self._restore(prepared.search, settings)
        return prepared

    def recorded_search(self) -> Search:
        """Return the search as it was left, from the journal alone: no study file is run.

        It may compare trials, but not propose any: what constraints hold, the journal cannot say.
        """
        about = self.about
        settings = Settings.recorded(about["settings"], self.folder, time_budget_s=None)
        self._check_plugs(settings, named=())
        space = Space.from_plain(about["parameters"])
        search = make_search(
            settings.method,
            space,
            mode=about["mode"],
            max_epochs=about["max_epochs"],
            n_trials=about["n_trials"],
            seed=settings.seed,
            scheduler=settings.scheduler,
            fair=fair_factor(space, about["factors"]) if settings.goal == "answer" else None,
        )
        self._restore(search, settings)
        return search

    def _restore(self, search: Search, settings: Settings) -> None:
        """Give a search the trials of the journal."""
        metric = self.about["metric"]
        # Ours may promote a trial that was stopped; Ray's has ended it for good.
        of_ray = find_method(settings.method).ray is not None
        final = {*FULL, "failed", "lost"} | ({"stopped"} if of_ray else set())
        for trial in self.history.searched:
            jobs = trial.events_of("job")
            search.restore(
                {name: trial.config[name] for name in search.space.spec},
                values={row.epoch: row.metrics[metric] for row in trial.results.values()},
                reason=trial.reason if trial.reason in final else None,  # type: ignore[arg-type]
                to_epoch=jobs[-1].data["to_epoch"] if jobs else None,
            )

    def _study(self, space: str | Study | None) -> Study:
        """Return the study, with the values that were fixed for it, if it still is the same."""
        source, name = self.about["source"], self.about["space"]
        if space is None and not Path(source).is_file() and name not in study_names():
            raise SettingError(
                f"The study file of '{self.folder.name}' is not at '{source}' any more: say where "
                "it is with --space."
            )
        if space is None and (file := self.untrusted_file) is not None:
            raise SettingError(
                f"Study '{self.folder.name}' would run '{file}', which its journal names, but the "
                "study was not begun here by you. Read the file, then allow it with --trust (in "
                "Python trust=True), or name it with --space."
            )
        if isinstance(space, Study):
            study = space
        else:
            study = load_study(space or (source if Path(source).is_file() else name))
        study = replace(study, name=name, fixed=like(self.about["fixed"], study.fixed))
        study = study.with_max_epochs(self.about["max_epochs"])
        now: dict[str, Any] = {
            "space": study.search_space.plain(),
            "default": study.default,
            "metric": study.metric,
            "mode": study.mode,
            "constraints": study.constraint_texts,
        }
        before = {"constraints": {}, **self.about, "space": self.about["parameters"]}
        changed = [key for key in now if json.loads(json.dumps(now[key])) != before[key]]
        if "space" in changed and as_lists(now["space"]) == as_lists(before["space"]):
            changed.remove("space")  # it began when no record told a tuple from a list
        if changed:
            raise SettingError(
                f"The study in '{study.source}' is not that of '{self.folder.name}' any more: "
                f"{', '.join(changed)} changed. Begin a new one, or undo the change."
            )
        return replace(study, factors=tuple(self.about["factors"]), goal="best")

    def _check_plugs(self, settings: Settings, *, named: Collection[str]) -> None:
        """Check that the files of a searcher and a scheduler of one's own can and may be run.

        Args:
            settings: They name the files.
            named: Settings that the user gave: what they name may be run.

        Raises:
            SettingError: They are not there, or only the journal names them.
        """
        untrusted = () if {"method", "scheduler"} & set(named) else self.untrusted_plugs
        for file in settings.plug_files:
            if not file.is_file():
                raise SettingError(
                    f"Study '{self.folder.name}' was searched by '{file}', which is not there any "
                    "more: put it back."
                )
            if file in untrusted:
                raise SettingError(
                    f"Study '{self.folder.name}' would run '{file}', which its journal names, but "
                    "the study was not begun here by you. Read the file, then allow it with "
                    "--trust (in Python trust=True)."
                )

    def plug_notes(self, settings: Settings) -> list[str]:
        """Say which files of a searcher and a scheduler of one's own have changed."""
        before = {Path(name).name: sha for name, sha in self.about.get("plug_files", {}).items()}
        return [
            f"'{file}' was changed since this study began: the search may go on in another way."
            for file in settings.plug_files
            if file_digest(file) != before.get(file.name)
        ]

    @property
    def untrusted_plugs(self) -> list[Path]:
        """The files of a searcher and a scheduler that nobody here has allowed to be run."""
        files, study_id = self.about.get("plug_files", {}), str(self.about.get("study_id"))
        return [Path(file) for file in files if not is_trusted(study_id, file)]

    @property
    def untrusted_file(self) -> Path | None:
        """The file that the journal would have run, if nobody here has allowed that."""
        source = Path(self.about["source"])
        if not source.is_file() or comes_along(source):
            return None
        if is_trusted(str(self.about["study_id"]), str(self.about["source"])):
            return None
        return source

    @property
    def source_changed(self) -> bool:
        """The study's file is not what it was when the study began."""
        path = Path(self.about["source"])
        return path.is_file() and source_hash(path) != self.about["source_sha256"]


def untrusted_files(folder: Path, *, moved: bool = False) -> list[Path]:
    """Return the files that a study's journal would have run and that nobody here has allowed.

    Args:
        folder: The study's folder.
        moved: The study's own file was named anew.

    Raises:
        HypertuneError: There is no journal of a study.
    """
    recorded = RecordedStudy.read(folder)
    source = None if moved else recorded.untrusted_file
    return [*([] if source is None else [source]), *recorded.untrusted_plugs]


def refuse_other(folder: Path, study: Study, settings: Settings, asked: Collection[str]) -> None:
    """Refuse to go on with a study that is not the one that is asked for.

    Args:
        folder: The study's folder.
        study: The study that is asked for.
        settings: Its settings.
        asked: Names of the flags that were given.

    Raises:
        JournalError: There is no readable journal.
        SettingError: It is another study, or began in another way.
    """
    about, name = check_study(folder), folder.name
    if about["space"] != study.name:
        raise SettingError(
            f"Study '{name}' is one of '{about['space']}', not of '{study.name}': choose another "
            "--name."
        )
    differing = settings.resolved_for(study).differing(about["settings"], asked)
    differing += [
        f"--set {key}={about['fixed'].get(key)}, not {value}"
        for key, value in (study.fixed.items() if "set" in asked else ())
        if json.loads(json.dumps(value)) != about["fixed"].get(key)
    ]
    if "max_epochs" in asked and settings.max_epochs != about["max_epochs"]:
        differing.append(f"--max-epochs {about['max_epochs']}, not {settings.max_epochs}")
    if differing:
        raise SettingError(
            f"Study '{name}' began with {'; '.join(differing)}: leave that out to go on with it, "
            "or choose another --name."
        )


def source_hash(path: Path) -> str:
    """Return the SHA-256 of a study's file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
