"""Mini-batches, networks, losses, players, the one loop, its checkpoints and logs, and trained systems."""
