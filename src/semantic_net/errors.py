"""Every error that semantic-net raises on purpose, and whose fault each one is.

SemanticNetError
    ConfigError             a flag, a YAML key or a value is wrong; the message names the key
    StartError              the configuration is sound, but this peer cannot start here
        DataError               data is missing or broken; the message names the file
        CheckpointError         a checkpoint or a weights file cannot be used
    ProtocolError           bytes break the wire protocol
        LocalProtocolError      we tried to send something illegal (our bug)
        RemoteProtocolError     a peer sent something illegal (drop that peer)
    TransportError          the network failed (the round goes on without that peer)
    TrainingError           local training gave no update (the round goes on without it)
    OutputError             the run is over, and what it gave could not be written

Each message is one line: what is wrong, where, and what to do.
"""

from __future__ import annotations


class SemanticNetError(Exception):
    """Base of every error that semantic-net raises on purpose."""


class ConfigError(SemanticNetError, ValueError):
    """A flag, a YAML key or a value is wrong; the message names the key."""


class StartError(SemanticNetError):
    """The configuration is sound, but this peer cannot start here."""


class DataError(StartError):
    """Data is missing or broken; the message names the file or the folder."""


class CheckpointError(StartError):
    """A checkpoint or a weights file cannot be used."""


class ProtocolError(SemanticNetError):
    """Bytes break the wire protocol."""


class LocalProtocolError(ProtocolError):
    """We tried to send something illegal: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """A peer sent something illegal; its connection is dropped, the round goes on."""


class TransportError(SemanticNetError):
    """The network failed; the round goes on without that peer."""


class TrainingError(SemanticNetError):
    """Local training could not produce an update; the round goes on without it."""


class OutputError(SemanticNetError):
    """The run is over, and what it gave could not be written."""
