"""What no paper has: brackets, other people's encoders, every system side by side, benchmarks, programs to copy from."""
