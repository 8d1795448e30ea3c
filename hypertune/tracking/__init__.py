"""Trackers: what shows a study elsewhere, brought up to date from its journal."""
