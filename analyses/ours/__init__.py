"""What no paper has: brackets, other people's encoders, and what the number of points decides."""
