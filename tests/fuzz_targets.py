"""What reads bytes from strangers, one function each: it may raise what it documents, nothing else.

`make fuzz` drives them with atheris, `tests/test_fuzz_targets.py` with hypothesis. None of them
needs torch.
"""

from __future__ import annotations

import contextlib
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from protocol_support import Book

from semantic_net.aggregation.fold import FoldConfig
from semantic_net.aggregation.state import start_state
from semantic_net.errors import RemoteProtocolError, StartError
from semantic_net.federated.packed_chunks import pack_part, unpack_part
from semantic_net.federated.snapshot import decode_base, encode_snapshot, read_start
from semantic_net.protocol.bases import Base
from semantic_net.protocol.frames import HEADER, Frame, FrameDecoder, Kind, encode_frame
from semantic_net.protocol.handshake import Handshake, HelloContent
from semantic_net.protocol.history import decode_history, encode_history, history_of_origin
from semantic_net.protocol.identity import Signer, consent, endorse
from semantic_net.protocol.membership import (
    Binding,
    Membership,
    Standing,
    Statement,
    StatementBody,
)
from semantic_net.protocol.messages import Absent, Have, HaveEntry, Message, Want, decode_message
from semantic_net.protocol.messages import encode_message as encode
from semantic_net.protocol.packing import Packer, Unpacker
from semantic_net.protocol.vitals import Vitals, VitalSigns, VitalsMessage
from semantic_net.semantic.decoder import parse_payload
from semantic_net.semantic.payloads import CODECS
from semantic_net.semantic.schema import ModelSchema, TensorSpec
from semantic_net.simulation.stubs import StubSigner, stub_signature_valid
from semantic_net.status import DeviceVitals, LastRound
from semantic_net.transport.certificate import key_of, make_certificate
from semantic_net.transport.invite import Invite, read_invite, seal_invite
from semantic_net.transport.trust import TrustFile, to_text

GOLDEN = Path(__file__).with_name("semantic") / "golden"

SCHEMA = ModelSchema(
    (
        TensorSpec("weight", (48, 64), "parameter"),
        TensorSpec("bias", (15360,), "parameter"),
        TensorSpec("running_mean", (13,), "buffer"),
    )
)
"""That of most golden payloads."""


@dataclass(frozen=True, slots=True)
class Target:
    """A reader, and examples of what it accepts."""

    read: Callable[[bytes], None]
    examples: Callable[[], list[bytes]]
    documented: tuple[type[Exception], ...] = (RemoteProtocolError,)

    def __call__(self, data: bytes) -> bool:
        """Tell whether some bytes are accepted; what is documented is a no."""
        try:
            self.read(data)
        except self.documented:
            return False
        return True


def _frames(data: bytes) -> None:
    FrameDecoder().feed(data)


def _messages(data: bytes) -> None:
    kinds = list(Kind)
    decode_message(Frame(kinds[data[0] % len(kinds)] if data else Kind.HAVE, data[1:]))


def _stream(data: bytes) -> None:
    """What a session reads: frames, unpacked, as messages."""
    unpacker = Unpacker()
    for frame in FrameDecoder().feed(data):
        for each in unpacker.unpack(frame):
            decode_message(each)


_OURS, _THEIRS = Signer(b"a" * 32), Signer(b"b" * 32)


def _handshake_of(signer: Signer, *, dialled: bool) -> Handshake:
    content = HelloContent({"run": "fuzz"}, 1, "fuzz")
    return Handshake(signer, content, signer.public_key, dialled=dialled, book=Book())


def _handshake(data: bytes) -> None:
    ours = _handshake_of(_OURS, dialled=False)
    for frame in FrameDecoder().feed(data):
        ours.receive(frame)


def _handshake_examples() -> list[bytes]:
    ours, theirs = _handshake_of(_OURS, dialled=False), _handshake_of(_THEIRS, dialled=True)
    [hello] = FrameDecoder().feed(ours.start())
    said = theirs.start()
    reply, _ = theirs.receive(hello)
    return [said, said + reply]


def _packed_part(data: bytes) -> None:
    unpack_part(memoryview(data))


def _packed_part_examples() -> list[bytes]:
    part = pack_part(np.arange(4096, dtype=np.int32).data.cast("B"))
    assert part is not None
    return [part]


def _history(data: bytes) -> None:
    decode_history(memoryview(data))


FOLD = FoldConfig(num_parameters=7, num_buffers=3, beta=1 << 15, outer_lr=1 << 16)
_SNAPSHOT_DIGEST = b"s" * 32


def _snapshot(data: bytes) -> None:
    """As a base that a neighbour has offered, an origin or a later one, and as one on disk."""
    view = memoryview(data)
    history = history_of_origin(_SNAPSHOT_DIGEST)
    origin = Base.of(_SNAPSHOT_DIGEST, len(data), history, given=False)
    for base in (origin, replace(origin, frontier=1)):
        with contextlib.suppress(RemoteProtocolError):
            decode_base(view, base, FOLD)
    state = read_start(view, FOLD)
    assert state.parameters.size == FOLD.num_parameters


def _snapshot_examples() -> list[bytes]:
    state = start_state(np.linspace(-1, 1, 10, dtype=np.float32), 7, momentum=True)
    parts = encode_snapshot(history_of_origin(b"o" * 32), state)
    return [b"".join(map(bytes, parts)), np.linspace(-1, 1, 10, dtype="<f4").tobytes()]


def _payload_of(codec: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        delta = parse_payload(codec, data, SCHEMA)
        assert delta.size == SCHEMA.size
        fixed = delta.to_fixed()
        assert np.abs(fixed).max() <= delta.bound(0, SCHEMA.size)

    return read


def _payload_examples(codec: str) -> Callable[[], list[bytes]]:
    buffers = bytes(4 * 13)
    made = {
        "none": [bytes(4 * SCHEMA.size)],
        # one entry, no rice bits, 0.5, the buffers, its place
        "gradients_topk": [bytes.fromhex("01000000 00000000 0000003f") + buffers + b"\1"],
        # one bit, the buffers, two tensors, codes
        "weights_quantize": [
            bytes.fromhex("01000000")
            + buffers
            + 2 * bytes.fromhex("00002000 0200")
            + bytes(SCHEMA.num_parameters // 8)
        ],
        # one entry, gaps, no rice bits, two levels, the buffers, sign, level, place
        "topk_quantize": [bytes.fromhex("01000000 00 00 00008000 00008001") + buffers + b"\0\0\1"],
        "entropy_quantize": [
            (GOLDEN / f"{name}.bin").read_bytes() for name in ("entropy_plain", "entropy_contexts")
        ],
    }
    return lambda: made[codec]


def _certificate(data: bytes) -> None:
    key_of(data)


def _certificate_examples() -> list[bytes]:
    return [make_certificate(Ed25519PrivateKey.from_private_bytes(b"c" * 32))]


def _invite(data: bytes) -> None:
    """As it is typed, and with a check that fits: no mutation would find one."""
    with contextlib.suppress(ValueError):
        read_invite(data.decode("utf-8", "replace"))
    read_invite(seal_invite(data))


def _trust_file(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        TrustFile(Path(file.name)).read()


def _trust_file_example() -> bytes:
    certificate = to_text(_certificate_examples()[0])
    return f"# comment\ntrusted {certificate} 10.0.0.1:5000 name\n".encode()


def _message_examples() -> list[bytes]:
    messages: list[Message] = [
        Have((HaveEntry(1, _OURS.peer_id, b"i" * 32),), True),
        Want(b"i" * 32, 7),
        Absent(b"i" * 32),
    ]
    return [encode(message) for message in messages]


_DEVICE, _OTHER_DEVICE = StubSigner(b"device"), StubSigner(b"other device")


def _records(data: bytes) -> None:
    """Read a record of the membership, signed by a stub, so that its content gets further."""
    kind = Kind.BINDING if data[:1] < b"\x80" else Kind.STATEMENT
    membership = Membership(_DEVICE, _OURS, b"r" * 16, is_valid=stub_signature_valid)
    membership.trust({_OTHER_DEVICE.peer_id: Standing(lets_in=True)})
    record = decode_message(Frame(kind, data[1:]))
    assert isinstance(record, Binding | Statement)
    membership.take(_bound_to(_OTHER_DEVICE))
    membership.take(record)
    membership.settle()
    membership.speak(1)
    assert membership.is_in(_OURS.peer_id)
    assert len(membership.records()) <= 5


def _bound_to(device: Signer) -> Binding:
    peer = StubSigner(b"peer of " + device.public_key)
    words = endorse(device, peer.public_key), consent(peer, device.public_key)
    return Binding(peer.public_key, device.public_key, *words)


def _record_examples() -> list[bytes]:
    body = msgspec.msgpack.encode(StatementBody(b"r" * 16, _DEVICE.peer_id, 1, 5, True))
    signature = _OTHER_DEVICE.sign(b"statement 1", body)
    statement = Statement(body, _OTHER_DEVICE.public_key, signature)
    return [
        b"\0" + msgspec.msgpack.encode(_bound_to(_OTHER_DEVICE)),
        b"\0" + msgspec.msgpack.encode(_bound_to(StubSigner(b"stranger"))),
        b"\x80" + msgspec.msgpack.encode(statement),
    ]


_VITALS = Vitals(
    last=LastRound(round=3, loss=0.5, metric="miou", value=0.25, bytes_sent=9),
    device=DeviceVitals(temperature_c=51.0),
)


def _vitals(data: bytes) -> None:
    """Hear vitals whose signature is taken for good, so that their content gets further."""
    signs = VitalSigns(b"r" * 16, 1, lambda *_: True)
    message = decode_message(Frame(Kind.VITALS, data))
    assert isinstance(message, VitalsMessage)
    if signs.hear(message):
        [peer] = signs.peers
        msgspec.json.encode(signs.latest(peer))


def _vitals_examples() -> list[bytes]:
    signs = VitalSigns(b"r" * 16, 1, stub_signature_valid)
    return [msgspec.msgpack.encode(signs.sign(_VITALS, _OURS))]


def _as_kind_and_body(frame: bytes) -> bytes:
    kind = Kind(frame[5])
    return bytes([list(Kind).index(kind)]) + frame[HEADER.size :]


def _stream_examples() -> list[bytes]:
    frames = b"".join(_message_examples())
    return [frames, Packer().pack(frames), encode_frame(Kind.PACKED, zlib.compress(b"x"))]


TARGETS: dict[str, Target] = {
    "frames": Target(_frames, _stream_examples),
    "messages": Target(_messages, lambda: [*map(_as_kind_and_body, _message_examples())]),
    "stream": Target(_stream, _stream_examples),
    "handshake": Target(_handshake, _handshake_examples),
    "packed_part": Target(_packed_part, _packed_part_examples),
    "records": Target(_records, _record_examples),
    "vitals": Target(_vitals, _vitals_examples),
    "history": Target(_history, lambda: [encode_history(history_of_origin(b"o" * 32))]),
    "snapshot": Target(_snapshot, _snapshot_examples),
    **{
        f"payload_{codec}": Target(_payload_of(codec), _payload_examples(codec)) for codec in CODECS
    },
    "certificate": Target(_certificate, _certificate_examples, (ValueError,)),
    "invite": Target(
        _invite,
        lambda: [msgspec.msgpack.encode(Invite(b"c", ["a:1"], "run", "name"))],
        (ValueError,),
    ),
    "trust_file": Target(_trust_file, lambda: [_trust_file_example()], (StartError,)),
}
"""By the name that `make fuzz` takes."""
