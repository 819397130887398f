"""``python -m medad_fast``: the command ``medad``."""

from medad_fast.cli.main import main

if __name__ == "__main__":
    main()
