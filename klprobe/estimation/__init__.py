"""Everything between a posterior with its prior and a finished Report."""
