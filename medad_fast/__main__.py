"""``python -m medad_fast``: the command ``medad``."""

import sys

from medad_fast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
