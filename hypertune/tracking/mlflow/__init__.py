"""MLflow as a tracker: runs, the registry, and a server of one's own."""
