"""The command line."""

from hypertune.cli.app import main

__all__ = ["main"]
