"""Would a run work on this device: small checks, each of which says what it found and what to do.

What a check knows of the machine comes in, or is read below a root, so that another machine can be
made up. Nothing is left behind: no folder is made and no key.
"""
