"""The command line: one program made of the groups of commands."""

import io
import os
import sys

import typer

from hypertune.cli import cluster, records, results, run, studies
from hypertune.core.deadlines import leave
from hypertune.core.errors import HypertuneError
from hypertune.core.text import printable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hyperparameter studies on Ray Tune that end with an answer. "
    "`hypertune --space NAME` is short for `hypertune run --space NAME`.",
)
for group in (run, studies, results, cluster, records):
    app.add_typer(group.commands)


def main() -> None:
    """Run the command line; errors that a user can act on are one message and exit status 2."""
    # Before anything computes: what the search models must not take the cores of what trains.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may know less than UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith("-") and arguments[0] != "--help":
        arguments.insert(0, "run")
    try:
        app(args=arguments)
    except HypertuneError as error:
        print(printable(f"Error: {error}"), file=sys.stderr)
        leave(2)
        sys.exit(2)
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


if __name__ == "__main__":
    main()
