"""Which data a study runs on in place of its own: the definition of these settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypertune.core.errors import SettingError
from hypertune.core.options import File, Text, converted, setting

_DATA: dict[str, Any] = {"group": "Other data"}


@dataclass(frozen=True, kw_only=True)
class OtherData:
    """Data to run a study on, in place of its own.

    Example:
        >>> OtherData(csv="table.csv", target="y").record()["target"]
        'y'

    Raises:
        SettingError: A value is of the wrong type.
    """

    data: str | None = setting(
        Text("NAME"), None, help="Another data set: see `hypertune list`.", **_DATA
    )
    data_dir: Path | None = setting(
        File("PATH"),
        None,
        help="Folder or file of a data set that does not come with hypertune.",
        **_DATA,
    )
    csv: Path | None = setting(
        File("FILE"), None, help="A table or a series of your own, in place of --data.", **_DATA
    )
    target: str | None = setting(
        Text("COLUMN"), None, help="Column of --csv that is to be predicted.", **_DATA
    )
    group: str | None = setting(
        Text("COLUMN"),
        None,
        help="Column of --csv that says which rows belong together.",
        more="Rows of one group are never split between the training, validation and test parts.",
        **_DATA,
    )
    part: str | None = setting(
        Text("COLUMN"),
        None,
        help="Column of --csv that says which part a row is in: train, val, test, test:NAME, or "
        "empty.",
        **_DATA,
    )
    time: str | None = setting(
        Text("COLUMN"), None, help="Column of --csv that holds the time of a series.", **_DATA
    )
    npz: Path | None = setting(
        File("FILE"), None, help="Arrays of your own (x, y, ...), in place of --data.", **_DATA
    )

    def __post_init__(self) -> None:
        if problems := converted(self):
            raise SettingError("\n".join(problems.values()))

    def record(self) -> dict[str, str]:
        """Return what is given, as plain values that mean the same in any folder."""
        return {
            name: str(value.expanduser().resolve() if isinstance(value, Path) else value)
            for name, value in vars(self).items()
            if value is not None
        }

    @classmethod
    def recorded(cls, record: Mapping[str, str]) -> "OtherData":
        """Return what `record` gave."""
        return cls(**record)  # type: ignore[arg-type]  # paths may be text
