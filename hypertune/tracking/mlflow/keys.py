"""Under which keys MLflow holds a study's metrics and params: each name has one of its own.

========================  ==========================================================================
key                       what
========================  ==========================================================================
``hypertune/...``         what hypertune says itself (``hypertune/best``); no name of a study's is
                          kept there
a name as it is           of a metric or a param, if MLflow can hold it
``acc_1_.key-<digits>``   of one that it cannot: ``acc(1)``; the digits are those of a hash of the
                          name. So are names that look like this, or like the first kind
========================  ==========================================================================

Tag ``hypertune.name.<digits>`` of a trial's run holds, as JSON, the name of a metric whose key is
another one; ``params`` in ``hypertune.json`` those of params.

MLflow on MySQL or SQL Server takes keys that differ in case alone for one; so do names then.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping

OWN = "hypertune/"
NAME_TAG = "hypertune.name."
KEY_CHARS = 250  # MLflow's limit
_MARK = ".key-"
_DIGITS = 16
_MADE = re.compile(rf".*{re.escape(_MARK)}([0-9a-f]{{{_DIGITS}}})")


def own_key(*parts: str) -> str:
    """Return the key of something that hypertune says itself; the last part may be a name."""
    *before, name = parts
    prefix = "".join([OWN, *(f"{part}/" for part in before)])
    return prefix + name_key(name, room=KEY_CHARS - len(prefix))


def name_key(name: str, *, room: int = KEY_CHARS) -> str:
    """Return the key of a metric or param, which no other name has."""
    if _is_key(name) and len(name) <= room:
        return name
    digits = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    readable = re.sub(r"[^\w.\- ]", "_", name).strip(" .")
    return f"{readable[: room - len(_MARK) - _DIGITS]}{_MARK}{digits}"


def _is_key(name: str) -> bool:
    """Say whether MLflow can hold a name as it is, and it looks like no other key."""
    is_path = posixpath.normpath(name) == name and not name.startswith(("..", "/"))
    good = is_path and name != "." and name.strip() == name
    ours = name.casefold().startswith(OWN) or _MADE.fullmatch(name.casefold())
    return bool(good and re.fullmatch(r"[/\w.\- :]+", name) and not ours)


def name_tag(name: str) -> tuple[str, str] | None:
    """Return the tag that says a metric's name, if its key does not."""
    found = _MADE.fullmatch(name_key(name))
    return None if found is None else (f"{NAME_TAG}{found[1]}", json.dumps(name))


def key_name(key: str, tags: Mapping[str, str]) -> str | None:
    """Return the name of a metric, by its key and the tags of its run; None for a key of ours."""
    if key.startswith(OWN):
        return None
    found = _MADE.fullmatch(key)
    if found is None:
        return key
    said = tags.get(f"{NAME_TAG}{found[1]}")
    return key if said is None else str(json.loads(said))
