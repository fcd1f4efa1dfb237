"""klprobe: does the aggregate posterior q(z) match the prior p(z), by how many nats, and can I trust that number?"""

__version__ = "0.1.0"
