"""A model's changes to bytes and back: pure, and without torch where decoding is enough."""
