"""The trust file: which devices this one lets in, readable and copied as it is to a whole fleet.

A line is a device: its certificate, the addresses where it can be dialled, and a name. Whatever
else a device is told of it, the certificate decides. A revoked device stays in the file, so that
who reads it, or knocks, is told why.

    # comment
    trusted  <certificate>  192.168.0.2:5000,192.168.0.3:5000  jetson-3
    revoked  <certificate>  -  jetson-4
    revoked@12  <certificate>  -  jetson-5

``@12``: what it has taught from round 12 on shall count no more.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from semantic_net.disk import sync_folder
from semantic_net.errors import ConfigError, StartError
from semantic_net.protocol.address import parse_address
from semantic_net.protocol.facts import printable
from semantic_net.protocol.identity import PEER_ID_CHARS, PeerId
from semantic_net.protocol.membership import Standing
from semantic_net.transport.certificate import device_of

MAX_NAME_CHARS = 64
MAX_ADDRESSES = 16
MAX_FILE_BYTES = 16 * 1024 * 1024

TRUSTED, REVOKED = "trusted", "revoked"
MAX_VOID_FROM = 10**9 - 1
_STANDING = re.compile(r"trusted|revoked(?:@([1-9]\d{0,8}))?")

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
    void_from: int | None = None
    """Of a revoked one: the first round of which nothing shall count; None: the next."""

    @property
    def standing(self) -> Standing:
        """What this device tells others of it."""
        return Standing(not self.is_revoked, self.void_from, self.name)

    @property
    def id(self) -> PeerId:
        """The hash of its key."""
        return device_of(self.certificate)

    @staticmethod
    def checked(certificate: bytes, addresses: Iterable[str], name: str) -> Device:
        """Return a device that others have described, its name without spaces.

        Raises:
            ValueError: The certificate is none, an address cannot be dialled, or the name could
                be taken for an id.
        """
        device_of(certificate)
        known = [parse_address(address) for address in addresses]
        for address in known:
            if address.is_wildcard or not address.port:
                raise ValueError(f"{str(address)!r} names no host and port that could be dialled")
        if len(known) > MAX_ADDRESSES:
            raise ValueError(f"more than {MAX_ADDRESSES} addresses")
        name = "-".join(printable(name, MAX_NAME_CHARS).split())
        if looks_like_id(name):
            raise ValueError(f"the name {name!r} could be taken for a device's id: give --name")
        return Device(certificate, tuple(dict.fromkeys(map(str, known))), name)


@dataclass(frozen=True, slots=True)
class Trust:
    """What a trust file says."""

    devices: Mapping[PeerId, Device]

    @property
    def trusted(self) -> dict[PeerId, Device]:
        """Those that are let in."""
        return {own: device for own, device in self.devices.items() if not device.is_revoked}

    def standing(self) -> dict[PeerId, Standing]:
        """Return what this device tells others of each."""
        return {own: device.standing for own, device in self.devices.items()}

    def is_revoked(self, device_id: PeerId) -> bool:
        """Tell whether a device was known and is kept out."""
        device = self.devices.get(device_id)
        return device is not None and device.is_revoked


class TrustFile:
    """A trust file: read whenever it has changed, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        """Take its path; there need be no file."""
        self.path = path

    def stamp(self) -> tuple[int, ...]:
        """Return what differs between two versions of the file.

        Raises:
            StartError: That cannot be told.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise StartError(f"the trust file {self.path} cannot be read: {exc.strerror}") from exc
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

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
        if not data.endswith(b"\n"):
            raise StartError(
                f"the trust file {self.path} is cut off: copy it under another name, and move it "
                "into its place"
            )
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

    def pair(self, device: Device, *, again: bool = False) -> None:
        """Let a device in, with what is newly known of it.

        Args:
            device: It.
            again: Even if it has been revoked.

        Raises:
            ConfigError: It has been revoked.
            StartError: The file cannot be read or written.
        """
        with self._changing() as devices:
            before = devices.get(device.id)
            if before is not None and before.is_revoked and not again:
                raise ConfigError(
                    f"{before.name or 'the device'} has been revoked: --again lets it in again"
                )
            devices[device.id] = device

    def revoke(self, device_id: PeerId, void_from: int | None = None) -> Device | None:
        """Keep a device out; return what it is known as now, or None where it is not known.

        Args:
            device_id: It.
            void_from: The first round of which nothing of it shall count any more; None: what it
                has taught so far stays.

        Raises:
            StartError: The file cannot be read or written.
        """
        with self._changing() as devices:
            device = devices.get(device_id)
            if device is None:
                return None
            rounds = [n for n in (device.void_from, void_from) if n is not None]
            device = replace(device, is_revoked=True, void_from=min(rounds, default=None))
            devices[device_id] = device
        return device

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[PeerId, Device]]:
        try:
            make_private_folder(self.path.parent)
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
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_HEADER + "".join(_line_of(device) for device in devices))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(self.path.parent)


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may look into; one that exists stays as it is.

    Raises:
        OSError: It cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def looks_like_id(text: str) -> bool:
    """Tell whether a text could be taken for a device's id, however it is written."""
    letters = re.sub(r"[\s-]", "", text).lower()
    return len(letters) >= PEER_ID_CHARS and re.fullmatch(r"[a-z2-7]+", letters) is not None


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
    if device.void_from is not None:
        standing += f"@{device.void_from}"
    addresses = ",".join(device.addresses) or "-"
    return f"{standing}  {to_text(device.certificate)}  {addresses}  {device.name}".rstrip() + "\n"


def _read_line(line: str) -> Device:
    words = line.split()
    standing = _STANDING.fullmatch(words[0])
    if len(words) not in (3, 4) or standing is None:
        raise ValueError("expected: trusted or revoked, a certificate, addresses or -, and a name")
    addresses = [] if words[2] == "-" else words[2].split(",")
    device = Device.checked(from_text(words[1]), addresses, words[3] if len(words) == 4 else "")
    void_from = None if standing[1] is None else int(standing[1])
    return replace(device, is_revoked=words[0] != TRUSTED, void_from=void_from)
