"""Subcommands of ``semantic-net`` that need no torch; `semantic_net.cli` puts them together."""
