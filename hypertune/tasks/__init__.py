"""How a trial trains: from a config and data to a model, epoch by epoch."""
