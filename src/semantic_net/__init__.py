"""Peer-to-peer federated learning for edge devices."""

__version__ = "0.1.0"
