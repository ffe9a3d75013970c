"""The protocol as pure state machines: bytes, events and ``now`` in; messages and actions out.

No torch, no event loop, no clock, no randomness. The real network and the simulator drive the
same code, so that every failure replays from its seed.
"""
