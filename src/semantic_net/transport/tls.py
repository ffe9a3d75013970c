"""Mutual TLS 1.3 between devices that know each other's certificates, without I/O.

Nobody vouches for anybody: each end has the certificates of those that it lets in, and takes only
these very certificates. Whoever else knocks gets an alert, and no byte of what it says
is read as a frame. That it was refused a dialling end sees only after its own handshake is over
(TLS 1.3 has the client finish first), so a session begins with the hello that follows.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from semantic_net.errors import StartError
from semantic_net.protocol.frames import MAGIC, UNLIKE_MODES
from semantic_net.protocol.handshake import (
    PROTOCOL,
    REVOKED,
    SECURITY,
    UNKNOWN_DEVICE,
    Refusal,
    encode_refusal,
)
from semantic_net.protocol.identity import PeerId
from semantic_net.transport.base import Buffer
from semantic_net.transport.certificate import key_of
from semantic_net.transport.connection import CLOSED
from semantic_net.transport.trust import Trust, TrustFile

log = logging.getLogger(__name__)

_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME: a device may wake without a clock."""


MAX_PENDING = 32 * 1024
"""Bytes that may wait for TLS to take them in: it takes a record, of 16 KiB, as it comes."""


class TlsError(Exception):
    """TLS came to its end: with a refusal, theirs or ours."""

    def __init__(self, refusal: Refusal, device_key: bytes | None = None) -> None:
        """Take the refusal, and the key that the device at the other end has proven, if it has."""
        super().__init__(refusal.reason)
        self.refusal = refusal
        self.device_key = device_key


Admit = Callable[[bytes], Refusal | None]
"""Tells why the device that has proven to hold this certificate (in DER) is not let in."""


class TlsChannel:
    """One connection's TLS: what the network brings in and what goes out, plain and sealed."""

    def __init__(self, context: ssl.SSLContext, admit: Admit, *, dialled: bool) -> None:
        """Prepare the handshake, which `read_into` brings forward.

        Args:
            context: Which certificates to accept, and our own.
            admit: Has the last word.
            dialled: Whether this end opened the connection.
        """
        self._from_network = ssl.MemoryBIO()
        self._to_network = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._from_network, self._to_network, server_side=not dialled)
        self._admit = admit
        self._early: list[bytes] = []
        self._first = b""
        self._end: TlsError | None = None
        self.device_key: bytes | None = None
        """Of the device at the other end, once it is let in."""

    def received(self, data: Buffer) -> None:
        """Take bytes from the network."""
        self._first += bytes(data[: len(MAGIC) - len(self._first)])
        self._from_network.write(data)

    def to_send(self) -> bytes:
        """Return the bytes that go to the network, once."""
        return self._to_network.read()

    def read_into(self, buffer: memoryview) -> int:
        """Put plain bytes into a buffer; return how many, 0 where more must come first.

        Raises:
            TlsError: The other end is nobody that we let in, does not let us in, or is through.
        """
        filled = 0
        try:
            if self._end is None and self.device_key is None:
                self._tls.do_handshake()
                self._begin()
            while self._end is None and filled < len(buffer):  # a record at a time
                num_bytes: object = self._tls.read(len(buffer) - filled, buffer[filled:])
                assert isinstance(num_bytes, int), "with a buffer it returns how much is in it"
                if not num_bytes:
                    raise ssl.SSLZeroReturnError
                filled += num_bytes
        except ssl.SSLWantReadError:
            # It takes in all that there is, unless it has come to an end that we do not see.
            if self._from_network.pending > MAX_PENDING:
                self._end = TlsError(Refusal(PROTOCOL, "TLS takes nothing more in"))
        except ssl.SSLZeroReturnError:
            self._end = TlsError(Refusal(CLOSED, "the peer ended TLS", by_us=False))
        except ssl.SSLError as exc:
            self._end = TlsError(self._refusal_of(exc))
        except TlsError as exc:
            self._end = exc
        if self._end is not None and not filled:  # what came before it counts
            raise self._end
        return filled

    def write(self, data: Buffer) -> None:
        """Take plain bytes; what comes before the end of the handshake waits for it.

        Raises:
            TlsError: It cannot be sealed.
        """
        if self.device_key is None:
            self._early.append(bytes(data))
            return
        view = memoryview(data).cast("B")
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError as exc:
            raise TlsError(self._refusal_of(exc)) from exc

    def _begin(self) -> None:
        certificate = self._tls.getpeercert(binary_form=True)
        assert certificate is not None, "the context asks for one"
        if (refusal := self._admit(certificate)) is not None:
            self._tls.write(encode_refusal(refusal))  # and nothing of what we had to say
            raise TlsError(refusal, key_of(certificate))
        self.device_key = key_of(certificate)
        early, self._early = self._early, []
        for data in early:
            self.write(data)

    def _refusal_of(self, exc: ssl.SSLError) -> Refusal:
        reason = exc.reason or str(exc)
        if isinstance(exc, ssl.SSLCertVerificationError):
            return Refusal(
                UNKNOWN_DEVICE,
                "its certificate is not in the trust file here: run `semantic-net pair` with its "
                "invite",
            )
        if "ALERT" in reason and ("UNKNOWN_CA" in reason or "CERTIFICATE" in reason):
            return Refusal(
                UNKNOWN_DEVICE,
                "it does not know this device: run `semantic-net pair` there with the invite that "
                "`semantic-net id` shows here",
                by_us=False,
            )
        if self._first == MAGIC:
            return Refusal(SECURITY, UNLIKE_MODES)
        return Refusal(PROTOCOL, f"TLS failed: {reason.lower().replace('_', ' ')}")


class Pins:
    """Whom a transport lets in, as the trust file says at each moment."""

    def __init__(self, key: Path, certificate: Path, trust: TrustFile) -> None:
        """Read all three.

        Args:
            key: Our private key, in PEM.
            certificate: Its certificate, in PEM.
            trust: Whom to let in.

        Raises:
            StartError: One of them cannot be read.
        """
        self.key = key
        self._certificate, self._file = certificate, trust
        self._stamp = trust.stamp()
        self._told = ""
        self.trust = trust.read()
        self._contexts = self._make_contexts(self.trust)

    def refresh(self) -> bool:
        """Read the trust file again if it has changed; tell whether it says something else.

        One that cannot be read, or makes no sense, changes nothing, and is read again next time.
        """
        try:
            stamp = self._file.stamp()
            if stamp == self._stamp:
                return False
            trust = self._file.read()
            contexts = self._make_contexts(trust)
        except StartError as exc:
            if self._told != str(exc):
                log.warning("%s; what it said before still holds", exc)
            self._told = str(exc)
            return False
        self._stamp, self._told = stamp, ""
        self.trust, self._contexts = trust, contexts
        log.info("the trust file has changed: %d devices are let in", len(trust.trusted))
        return True

    def channel(self, *, dialled: bool) -> TlsChannel:
        """Return the TLS of a new connection."""
        return TlsChannel(self._contexts[dialled], self._admit, dialled=dialled)

    def objection(self, device: PeerId) -> Refusal | None:
        """Tell why a device that has proven its key is not let in."""
        if self.trust.is_revoked(device):
            return Refusal(REVOKED, "the device is revoked")
        if device not in self.trust.devices:
            return Refusal(UNKNOWN_DEVICE, "the device is not in the trust file any more")
        return None

    def _admit(self, certificate: bytes) -> Refusal | None:
        for device, known in self.trust.devices.items():
            if known.certificate == certificate:
                return self.objection(device)
        # Signed by one that we know, or known when the connection began.
        return Refusal(UNKNOWN_DEVICE, "its certificate is not in the trust file")

    def _make_contexts(self, trust: Trust) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Return what to accept connections with, and what to dial with."""
        # Revoked ones are let through TLS: then they can be told why they are refused.
        certificates = [device.certificate for device in trust.devices.values()]
        sides = (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
        accepting, dialling = (self._context(side, certificates) for side in sides)
        return accepting, dialling

    def _context(self, side: ssl._SSLMethod, certificates: list[bytes]) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # a device has no fixed name; its certificate is the check
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= _NO_CHECK_TIME
        if side is ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # a resumed session would outlive a revocation
        try:
            context.load_cert_chain(self._certificate, self.key)
        except OSError as exc:  # ssl's own among them
            reason = "OpenSSL cannot read them" if isinstance(exc, ssl.SSLError) else exc.strerror
            raise StartError(
                f"cannot use {self._certificate} with {self.key} for TLS: {reason}; both are "
                "PEM files that `semantic-net id` makes"
            ) from exc
        try:
            if certificates:
                context.load_verify_locations(cadata=b"".join(certificates))
        except ssl.SSLError as exc:
            raise StartError(
                f"{self._file.path}: OpenSSL cannot use its certificates: {exc.reason}"
            ) from exc
        return context
