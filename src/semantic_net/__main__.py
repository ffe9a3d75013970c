"""``python -m semantic_net``: the command line, where no script is on the path."""

import sys

from semantic_net.cli import main

if __name__ == "__main__":
    sys.exit(main())
