"""From a posterior and a prior to a Report."""
