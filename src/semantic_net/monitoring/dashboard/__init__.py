"""The live page: what a peer knows of its run, in any browser, read-only."""
