"""Everything that reproduces a number: analyses read klprobe, klprobe knows nothing of them."""
