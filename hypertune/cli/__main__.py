"""``python -m hypertune.cli``."""

from hypertune.cli.app import main

main()
