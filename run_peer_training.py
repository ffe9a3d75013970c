#!/usr/bin/env python3
"""One peer of a peer-to-peer run: the same as ``semantic-net peer``, from a checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from semantic_net.cli import main

if __name__ == "__main__":
    sys.exit(main(["peer", *sys.argv[1:]]))
