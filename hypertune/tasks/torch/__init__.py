"""Training with PyTorch: the loop, optimizers, and the tasks on data that fit into memory."""
