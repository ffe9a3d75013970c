"""Certificates, trust files, invites and ids: what is read is what was written, or an error."""

from __future__ import annotations

import datetime
import functools
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_net.errors import StartError
from semantic_net.protocol.identity import PEER_ID_CHARS, PeerId, Signer
from semantic_net.transport.certificate import CERTIFICATE_BYTES, device_of, make_certificate
from semantic_net.transport.invite import Invite, read_id, read_invite, write_id, write_invite
from semantic_net.transport.trust import MAX_ADDRESSES, Device, TrustFile, looks_like_id


@functools.cache
def certificate(number: int) -> bytes:
    return make_certificate(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


keys = st.integers(1, 5)
hosts = st.from_regex(r"\A[a-z][a-z0-9]{0,19}\Z") | st.just("[::1]")
names = st.text(max_size=80).filter(lambda name: not looks_like_id(name[:64]))
addresses = st.lists(
    st.tuples(hosts, st.integers(1, 65535)).map(lambda parts: f"{parts[0]}:{parts[1]}"),
    max_size=MAX_ADDRESSES,
    unique=True,
)
devices = st.builds(
    lambda number, known, name, revoked: Device(
        certificate(number),
        Device.checked(certificate(number), known, name).addresses,
        Device.checked(certificate(number), known, name).name,
        revoked,
    ),
    keys,
    addresses,
    names,
    st.booleans(),
)


def test_a_certificate_is_what_a_library_makes_of_the_same_fields() -> None:
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    made = make_certificate(key)
    assert device_of(made) == Signer(b"k" * 32).peer_id
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_of(made))])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(1950, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    assert made == builder.sign(key, algorithm=None).public_bytes(Encoding.DER)


def altered(made: bytes) -> list[bytes]:
    """Return certificates that are none of a device, one way or another."""
    parsed = x509.load_der_x509_certificate(made)
    other_key = generate_private_key(SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .serial_number(1)
        .not_valid_before(parsed.not_valid_before_utc)
        .not_valid_after(parsed.not_valid_after_utc)
    )
    named = builder.subject_name(parsed.subject).issuer_name(parsed.issuer)
    ecdsa = named.public_key(other_key.public_key()).sign(other_key, SHA256())
    key = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    of_another = named.public_key(key.public_key()).sign(key, None)
    not_its_own = named.public_key(parsed.public_key()).sign(key, None)
    made_up = [c.public_bytes(Encoding.DER) for c in (ecdsa, of_another, not_its_own)]
    return [*made_up, made[:-1] + bytes([made[-1] ^ 1]), made[:-1], b"", bytes(2000)]


@pytest.mark.parametrize("number", range(7))
def test_what_is_no_devices_certificate_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        device_of(altered(certificate(1))[number])


@pytest.mark.parametrize("place", range(CERTIFICATE_BYTES))
def test_no_byte_of_a_certificate_may_differ(place: int) -> None:
    """Not even signed anew with its key: another name, for one, would be another device's.

    A serial number of 0 made the parser of X.509 warn of whom it had let in.
    """
    key = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    made = bytearray(make_certificate(key))
    made[place] ^= 1
    signed_to = x509.load_der_x509_certificate(certificate(1)).tbs_certificate_bytes
    if place < CERTIFICATE_BYTES - 64:
        made[-64:] = key.sign(bytes(made[4 : 4 + len(signed_to)]))
    with pytest.raises(ValueError, match=r"the certificate is not"):
        device_of(bytes(made))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_certificate_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        device_of(data)


@settings(max_examples=25)  # each device is a file that reaches the disk
@given(st.lists(devices, max_size=5, unique_by=lambda device: device.certificate))
def test_a_trust_file_says_what_was_told_it(
    tmp_path_factory: pytest.TempPathFactory, known: list[Device]
) -> None:
    path = tmp_path_factory.mktemp("trust") / "trust.txt"
    file = TrustFile(path)
    for device in known:
        file.pair(device)
        if device.is_revoked:
            file.revoke(device.id)
    assert TrustFile(path).read().devices == {device.id: device for device in known}
    assert set(file.read().trusted) == {d.id for d in known if not d.is_revoked}


def test_a_trust_file_changes_its_stamp_with_its_content(tmp_path: Path) -> None:
    file = TrustFile(tmp_path / "deep" / "trust.txt")
    stamps = {file.stamp()}
    for number in (1, 2):
        file.pair(Device(certificate(number)))
        stamps.add(file.stamp())
    assert len(stamps) == 3


def test_devices_that_are_paired_at_once_are_all_there(tmp_path: Path) -> None:
    file = TrustFile(tmp_path / "trust.txt")
    threads = [
        threading.Thread(target=TrustFile(file.path).pair, args=(Device(certificate(number)),))
        for number in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file.read().devices) == 8


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("trusted", "expected: trusted or revoked"),
        ("maybe x - name", "expected: trusted or revoked"),
        ("trusted ??? - name", "not base64"),
        ("trusted AAAA - name", "."),
        (f"trusted {'A' * 4000} - name", "not as long as"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "trust.txt"
    path.write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(StartError, match=rf"trust.txt:3: .*{reason}"):
        TrustFile(path).read()


@pytest.mark.parametrize("left", [0, 40, -1])
def test_a_file_that_is_cut_off_lets_nobody_be_forgotten(tmp_path: Path, left: int) -> None:
    file = TrustFile(tmp_path / "trust.txt")
    file.pair(Device(certificate(1)))
    file.path.write_bytes(file.path.read_bytes()[:left])
    with pytest.raises(StartError, match="is cut off"):
        file.read()


def test_a_device_that_is_listed_twice_is_an_error(tmp_path: Path) -> None:
    file = TrustFile(tmp_path / "trust.txt")
    file.pair(Device(certificate(1)))
    text = file.path.read_text()
    file.path.write_text(text + text.splitlines()[-1].replace("trusted", "revoked") + "\n")
    with pytest.raises(StartError, match="a second line of one device"):
        file.read()


@given(addresses, st.text(max_size=64), st.text(max_size=64), st.integers(0, 200))
def test_an_invite_arrives_as_it_was_written_or_not_at_all(
    known: list[str], run: str, name: str, at: int
) -> None:
    invite = Invite(certificate(1), known, run, name)
    text = write_invite(invite)
    assert read_invite(text) == invite
    broken = "\n  ".join((text[:60], text[60:]))  # as a mail breaks it
    assert read_invite(broken) == invite
    with pytest.raises(ValueError, match="invite"):
        read_invite(text[: -1 - at % (len(text) - 1)])


@given(st.text(max_size=400))
def test_any_text_is_an_invite_or_a_value_error(text: str) -> None:
    for candidate in (text, f"semantic-net:{text}"):
        with pytest.raises(ValueError, match=r"."):
            read_invite(candidate)


ids = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=PEER_ID_CHARS, max_size=PEER_ID_CHARS)


@given(ids.map(PeerId), st.integers(0, PEER_ID_CHARS - 1), st.sampled_from("abcxyz234567"))
def test_an_id_that_is_misread_is_found_out(peer: PeerId, at: int, letter: str) -> None:
    text = write_id(peer)
    assert [len(group) for group in text.split("-")] == [4] * 9
    assert read_id(text) == read_id(text.upper().replace("-", " ")) == read_id(peer) == peer
    if peer[at] != letter:
        misread = PeerId(peer[:at] + letter + peer[at + 1 :])
        with pytest.raises(ValueError, match="was misread"):
            read_id(write_id(misread)[:-4] + text[-4:])
