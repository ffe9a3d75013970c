"""The trust file: which devices this one lets in, readable and copied as it is to a whole fleet.

A line is a device: its certificate, the addresses where it can be dialled, and a name. Whatever
else a device is told of it, the certificate decides. A revoked device stays in the file, so that
who reads it, or knocks, is told why.

    # comment
    trusted  <certificate>  192.168.0.2:5000,192.168.0.3:5000  jetson-3
    revoked  <certificate>  -  jetson-4
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from semantic_net.disk import sync_folder
from semantic_net.errors import StartError
from semantic_net.protocol.handshake import printable
from semantic_net.protocol.identity import PeerId
from semantic_net.transport.address import parse_address
from semantic_net.transport.certificate import device_of

MAX_NAME_CHARS = 64
MAX_ADDRESSES = 16
MAX_FILE_BYTES = 16 * 1024 * 1024

TRUSTED, REVOKED = "trusted", "revoked"

_HEADER = """\
# The devices that this one lets in, one a line: trusted or revoked, certificate, addresses or -,
# and a name. `semantic-net pair`, `revoke` and `peers` keep it; it can be copied to other devices.
"""


@dataclass(frozen=True, slots=True)
class Device:
    """Another device, as this one knows it."""

    certificate: bytes
    """In DER."""
    addresses: tuple[str, ...] = ()
    name: str = ""
    is_revoked: bool = False

    @property
    def id(self) -> PeerId:
        """The hash of its key."""
        return device_of(self.certificate)

    @staticmethod
    def checked(certificate: bytes, addresses: Iterable[str], name: str) -> Device:
        """Return a device that others have described, its name without spaces.

        Raises:
            ValueError: The certificate or an address is none.
        """
        device_of(certificate)
        known = tuple(dict.fromkeys(str(parse_address(address)) for address in addresses))
        if len(known) > MAX_ADDRESSES:
            raise ValueError(f"more than {MAX_ADDRESSES} addresses")
        return Device(certificate, known, "-".join(printable(name, MAX_NAME_CHARS).split()))


@dataclass(frozen=True, slots=True)
class Trust:
    """What a trust file says."""

    devices: Mapping[PeerId, Device]

    @property
    def trusted(self) -> dict[PeerId, Device]:
        """Those that are let in."""
        return {own: device for own, device in self.devices.items() if not device.is_revoked}

    def is_revoked(self, device_id: PeerId) -> bool:
        """Tell whether a device was known and is kept out."""
        device = self.devices.get(device_id)
        return device is not None and device.is_revoked


class TrustFile:
    """A trust file: read whenever it has changed, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        """Take its path; there need be no file."""
        self.path = path

    def stamp(self) -> tuple[int, int, int]:
        """Return what differs between two versions of the file."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return 0, 0, 0
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def read(self) -> Trust:
        """Return what it says; nothing where there is none.

        Raises:
            StartError: It cannot be read, or a line of it makes no sense.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return Trust({})
        except OSError as exc:
            raise StartError(f"the trust file {self.path} cannot be read: {exc.strerror}") from exc
        if len(data) > MAX_FILE_BYTES:
            raise StartError(f"the trust file {self.path} is over {MAX_FILE_BYTES} bytes")
        devices: dict[PeerId, Device] = {}
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                device = _read_line(line)
                if device.id in devices:
                    raise ValueError("a second line of one device")
            except ValueError as exc:
                raise StartError(f"{self.path}:{number}: {exc}") from exc
            devices[device.id] = device
        return Trust(devices)

    def pair(self, device: Device) -> Device:
        """Let a device in, with what is newly known of it; return what it was known as, or itself.

        Raises:
            StartError: The file cannot be read or written.
        """
        with self._changing() as devices:
            before = devices.get(device.id, device)
            devices[device.id] = device
        return before

    def revoke(self, device_id: PeerId) -> Device | None:
        """Keep a device out; return what it was known as, or None where it was not known.

        Raises:
            StartError: The file cannot be read or written.
        """
        with self._changing() as devices:
            if (device := devices.get(device_id)) is not None:
                devices[device_id] = replace(device, is_revoked=True)
        return device

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[PeerId, Device]]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # released with the file
                devices = dict(self.read().devices)
                yield devices
                self._write(devices.values())
        except OSError as exc:
            raise StartError(
                f"the trust file {self.path} cannot be written: {exc.strerror}"
            ) from exc

    def _write(self, devices: Iterable[Device]) -> None:
        part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            with part.open("x", encoding="utf-8") as file:
                file.write(_HEADER + "".join(_line_of(device) for device in devices))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(self.path.parent)


def to_text(certificate: bytes) -> str:
    """Return a certificate as one word."""
    return base64.urlsafe_b64encode(certificate).rstrip(b"=").decode("ascii")


def from_text(word: str) -> bytes:
    """Return the bytes that a word stands for.

    Raises:
        ValueError: It is none of `to_text`.
    """
    try:
        return base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
    except binascii.Error as exc:
        raise ValueError(f"not base64: {exc}") from exc


def _line_of(device: Device) -> str:
    standing = REVOKED if device.is_revoked else TRUSTED
    addresses = ",".join(device.addresses) or "-"
    return f"{standing}  {to_text(device.certificate)}  {addresses}  {device.name}".rstrip() + "\n"


def _read_line(line: str) -> Device:
    words = line.split()
    if len(words) not in (3, 4) or words[0] not in (TRUSTED, REVOKED):
        raise ValueError("expected: trusted or revoked, a certificate, addresses or -, and a name")
    addresses = [] if words[2] == "-" else words[2].split(",")
    device = Device.checked(from_text(words[1]), addresses, words[3] if len(words) == 4 else "")
    return replace(device, is_revoked=words[0] == REVOKED)
