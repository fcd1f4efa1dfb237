"""What a mini-batch is, networks, losses, players, the one loop, and what it leaves behind."""
