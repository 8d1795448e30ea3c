"""Is anything lost? Drivers, workers and MLflow servers are killed at random; then all is compared.

    python benchmarks/chaos.py                          # three hours on two cores
    python benchmarks/chaos.py --n 2                    # two faults of each kind
    python benchmarks/chaos.py --only frozen copied     # two kinds alone

After each study, row by row:

- *lost*: a result that was in the journal at a kill and is not there, or not the same, in the end;
  a gap in the epochs of a trial; a result or a trial of the journal that MLflow does not have;
- *duplicated*: a trial with two runs in MLflow, a step with two values;
- *wrong*: a value that is not what the sequence has at this epoch; a value in MLflow that is not
  the journal's; a trial or a command that ended in a way that it should not have;
- *hung*: a command that did not end.

Ends with status 1 if there is any of them. Linux only; disks are disturbed only as root, who may
mount them.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import chaos_files as files
import chaos_processes as processes
import chaos_servers as servers
from chaos_study import STUDY, Outcome

METHODS = ("random", "tpe", "hyperband", "bohb", "auto")
COLUMNS = ("lost", "duplicated", "wrong", "hung")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault.

    Attributes:
        text: What happens.
        run: Makes so many of them in a folder, and returns how many there were and what was found.
        n: So many of them by default.
        as_root: Only root can make them.
    """

    text: str
    run: Callable[[Path, int, random.Random], Outcome]
    n: int = 20
    as_root: bool = False


FAULTS = {
    **{
        f"driver-{method}": Fault(
            text=f"driver killed up to four times and resumed, {method}",
            run=partial(processes.killed_drivers, method=method),
        )
        for method in METHODS
    },
    "birth": Fault(
        text="driver killed while its journal was being made", run=processes.kills_at_birth
    ),
    "worker": Fault(text="process that trains killed", run=processes.killed_workers, n=40),
    "frozen": Fault(text="process that trains frozen", run=processes.frozen_workers),
    "suspended": Fault(text="all processes suspended for 5 to 60 s", run=processes.suspended_trees),
    "clock": Fault(text="clock set back by up to an hour", run=processes.clocks_set_back, n=15),
    "torn": Fault(
        text="end of the journal's write-ahead log torn off, as by a loss of power",
        run=files.torn_tails,
        n=10,
    ),
    "checkpoint": Fault(text="newest checkpoint damaged", run=files.damaged_checkpoints),
    "copied": Fault(text="study copied, and both go on with one MLflow", run=files.copied_studies),
    "full": Fault(text="disk full", run=files.full_disks, n=5, as_root=True),
    "read-only": Fault(text="disk read-only", run=files.read_only_disks, n=5, as_root=True),
    "server": Fault(
        text="MLflow server killed for 5 to 90 s; answers 500, 401, 403 or never; loses answers",
        run=servers.server_faults,
        n=60,
    ),
    "silent": Fault(
        text="MLflow's or the cluster's server accepts and never answers",
        run=servers.silent_servers,
    ),
    "uploader": Fault(text="one of two uploaders killed", run=servers.two_uploaders, n=15),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="KIND", help=", ".join(FAULTS))
    parser.add_argument("--n", type=int, help="faults of each kind; by default 5 to 60, by kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for all files")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rng = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        if options.keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        else:
            folder = options.keep.resolve()
            folder.mkdir(parents=True)
        (folder / "chaos_study.py").write_text(STUDY)
        table: dict[str, Outcome] = {}
        for name in options.only or FAULTS:
            fault = FAULTS[name]
            if fault.as_root and os.geteuid() != 0:
                continue
            try:
                n, found = fault.run(folder, options.n or fault.n, rng)
            except Exception:  # what it left behind cannot even be compared
                traceback.print_exc()
                n, found = options.n or fault.n, Counter(wrong=1)
            table[fault.text] = n, found
            print(f"{fault.text}: {n} faults, {json.dumps(+found)}", flush=True)

    print(f"\n| fault | faults | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}")
    for text, (n, found) in table.items():
        print(f"| {text} | {n} | {' | '.join(str(found[c]) for c in COLUMNS)} |")
    total = sum((found for _, found in table.values()), Counter[str]())
    n_faults = sum(n for n, _ in table.values())
    print(f"| in all | {n_faults} | {' | '.join(str(total[c]) for c in COLUMNS)} |")
    sys.exit(1 if total.total() else 0)


if __name__ == "__main__":
    main()
