"""Settings of all tests."""

from hypothesis import settings

# A busy machine is no failure; what must not hang has limits of its own.
settings.register_profile("default-here", deadline=None)
settings.load_profile("default-here")
