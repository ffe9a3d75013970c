#!/usr/bin/env python3
"""The classic mode's client: the same as ``semantic-net client``, from a checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from semantic_net.cli import main

if __name__ == "__main__":
    sys.exit(main(["client", *sys.argv[1:]]))
