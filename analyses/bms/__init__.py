"""Best-of-Many-Samples Distribution Matching (2020): its tables and figures."""
