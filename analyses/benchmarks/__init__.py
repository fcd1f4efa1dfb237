"""How fast, how exact and how efficient: measured in one process, against the ways people use."""
