"""`python -m recfb`."""

import sys

from recfb.cli import main

if __name__ == "__main__":
    sys.exit(main())
