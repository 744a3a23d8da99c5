"""``python -m graphprune``: the command line."""

import sys

from graphprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
