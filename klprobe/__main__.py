"""`python -m klprobe` is the same program as `klprobe`."""

import sys

from klprobe.cli import main

if __name__ == "__main__":
    sys.exit(main())
