"""The one place that knows Ray: its trials, its nodes, its own searchers and schedulers."""
