"""A set of decoded updates to one state, bit for bit the same on every peer: numpy only."""
