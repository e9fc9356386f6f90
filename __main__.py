"""python -m liveditor_isa: the command line, as `liveditor` after installation."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
