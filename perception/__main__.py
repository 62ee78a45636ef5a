"""``python -m perception`` is the same as the ``perception`` command."""

import sys

from perception.cli import main

if __name__ == "__main__":
    sys.exit(main())
