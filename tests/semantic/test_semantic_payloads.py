"""Payloads from outside: refused or decoded as agreed, in bounded memory, without a copy."""

from __future__ import annotations

import hashlib
import mmap
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from semantic_support import MODES, configs, payload_of, peak_bytes, schema_of, schemas, totals

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import BLOCK, MAX_DELTA, SCALE
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import (
    Buffer,
    ParsedDelta,
    max_payload_bytes,
    parse_payload,
)
from semantic_net.semantic.payloads import CODECS
from semantic_net.semantic.schema import ModelSchema, TensorSpec
from semantic_net.semantic.varints import pack_varints

SCHEMA = schema_of(3, 2, buffers=1)


def check(delta: ParsedDelta, schema: ModelSchema) -> None:
    """A delta of the agreed schema: every range of it agrees with the whole and with its bound."""
    assert delta.size == schema.size
    fixed = delta.to_fixed()
    assert np.abs(fixed).max(initial=0) <= delta.bound(0, schema.size) <= MAX_DELTA
    for start, stop in ((0, schema.num_parameters), (schema.num_parameters, schema.size)):
        assert np.abs(fixed[start:stop]).max(initial=0) <= delta.bound(start, stop)


# golden payloads


@pytest.mark.parametrize(
    ("codec", "payload", "fixed"),
    [
        (
            "none",
            "0000003f 000080be 00000000 0000c03f 000000c0 00004040",
            [0.5, -0.25, 0.0, 1.5, -2.0, 3.0],
        ),
        # two values, no rice bits, 1.5 and -2.0, the buffer, entries 3 and 4
        (
            "gradients_topk",
            "02000000 00000000 0000c03f 000000c0 00004040 18",
            [0.0, 0.0, 0.0, 1.5, -2.0, 3.0],
        ),
        # one value, three rice bits, entry 15 of 40: gap 8 + 7
        (
            "gradients_topk40",
            "01000000 03000000 0000003f 01 01 01 02",
            [*[0.0] * 15, 0.5, *[0.0] * 24],
        ),
        # two bits, the buffer, half steps of 1/8 and 1/4, zeros at codes 1 and 3
        (
            "weights_quantize",
            "02000000 00004040 00002000 0200 00004000 0600 0a 1b",
            [0.25, 0.5, -0.25, 0.0, -0.5, 3.0],
        ),
        # two values, gaps, no rice bits, levels 0.5 and 1.5, the buffer, signs, levels, entries
        (
            "topk_quantize",
            "02000000 00 00 00008000 00008001 00004040 02 01 18",
            [0.0, 0.0, 0.0, 1.5, -0.5, 3.0],
        ),
        # the same entries as the bitmap in a zstd frame of one raw block
        (
            "topk_quantize",
            "02000000 01 00 00008000 00008001 00004040 02 01 28b52ffd 20 01 090000 18",
            [0.0, 0.0, 0.0, 1.5, -0.5, 3.0],
        ),
        # two values, base 0.5, step 1.0, one at step 1 and none above, the buffer, contexts 0 and
        # 31, none kept in the one and two in the other, no escapes, and a state that begins with
        # the signs and holds all runs and steps
        (
            "entropy_quantize",
            "02 80808004 80808008 01 00 00004040 00 1f 00 02 00 67340200",
            [0.0, 0.0, 0.0, 1.5, -0.5, 3.0],
        ),
    ],
)
def test_golden_payloads_are_read_alike_forever(
    codec: str, payload: str, fixed: list[float]
) -> None:
    schema = schema_of(40) if codec.endswith("40") else SCHEMA
    delta = parse_payload(codec.removesuffix("40"), bytes.fromhex(payload), schema)
    assert (delta.to_fixed() / SCALE).tolist() == fixed
    assert delta.to_float32().tolist() == fixed


GOLDEN_SCHEMA = schema_of(120, 67, buffers=13)


def with_matrix(num_rows: int, num_columns: int) -> ModelSchema:
    """A matrix of which rows and columns differ, and a vector with room for a long run."""
    return ModelSchema(
        (
            TensorSpec("weight", (num_rows, num_columns), "parameter"),
            TensorSpec("bias", (15360,), "parameter"),
            TensorSpec("running_mean", (13,), "buffer"),
        )
    )


GOLDEN_SCHEMAS = {
    "topk_quantize_gaps": with_matrix(64, 48),
    "topk_quantize_bitmap": with_matrix(64, 48),
    "entropy_plain": with_matrix(48, 64),
    "entropy_contexts": with_matrix(48, 64),
    "entropy_lanes": with_matrix(500, 64),
}
"""By the file's name, where it is not `GOLDEN_SCHEMA`."""


@pytest.mark.parametrize(
    ("codec", "name", "digest"),
    [
        ("none", "none", "49fe7b9dfe8af3a649773203cf440969"),
        ("gradients_topk", "topk_3_percent", "0d0605d8a5f88fee49adc1f8ba782b08"),
        ("gradients_topk", "topk_40_percent", "4cb28f3916b55fcba41d4884e263ff4a"),
        ("weights_quantize", "quantize_1_bits", "5a4aa75183338c5591596482eae837ea"),
        ("weights_quantize", "quantize_4_bits", "a013de7f1245f029578bfc19a5780206"),
        ("weights_quantize", "quantize_7_bits", "e9f2c0af95f20e8d34cf854fb94d2847"),
        ("topk_quantize", "topk_quantize_gaps", "ef2c60f751042cd757d30de31fa1fcca"),
        ("topk_quantize", "topk_quantize_bitmap", "52d6a2a2f0d2711173ebca0dc828b816"),
        ("entropy_quantize", "entropy_plain", "e40e1aa97b81b4651925843fceb0c4ab"),
        # contexts of rows and columns, and a run with an escape
        ("entropy_quantize", "entropy_contexts", "695088480b2c044a0379801782b02374"),
        # several lanes, of contexts as well as of runs
        ("entropy_quantize", "entropy_lanes", "939ac266ae7adb367b863e58978cfeb6"),
    ],
)
def test_golden_files_decode_to_golden_digests(codec: str, name: str, digest: str) -> None:
    payload = Path(__file__).with_name("golden").joinpath(f"{name}.bin").read_bytes()
    schema = GOLDEN_SCHEMAS.get(name, GOLDEN_SCHEMA)
    fixed = parse_payload(codec, payload, schema).to_fixed()
    assert hashlib.sha256(fixed.astype("<i8").tobytes()).hexdigest()[:32] == digest


# what is read


@given(st.data(), schemas(), configs)
def test_every_range_adds_up_to_the_whole(
    data: st.DataObject, schema: ModelSchema, cfg: Codec
) -> None:
    payload = payload_of(data.draw(totals(schema)), schema, cfg)
    delta = parse_payload(cfg.mode, payload, schema)
    check(delta, schema)
    fixed = delta.to_fixed()
    start = data.draw(st.integers(0, schema.size))
    stop = data.draw(st.integers(start, schema.size))
    factor = data.draw(st.integers(1, 1 << 20))
    for width in (np.int64, np.float64):
        out = np.full(stop - start, 7, width)
        delta.accumulate(out, start, factor)
        assert out.tolist() == (7 + factor * fixed[start:stop]).tolist()
    narrow = np.full(stop - start, 7, np.int32)
    delta.accumulate(narrow, start, 1)
    assert narrow.tolist() == (7 + fixed[start:stop]).tolist()


@pytest.mark.parametrize("cfg", MODES, ids=lambda c: f"{c.mode}-{c.topk}-{c.bit_width}")
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_blocks_of_a_large_model_add_up(cfg: Codec, scale: float) -> None:
    schema = schema_of(BLOCK + 5, 3, 0, 2 * BLOCK, buffers=BLOCK + 1)
    rng = np.random.default_rng(0)
    total = (rng.standard_normal(schema.size) * scale).astype(np.float32)
    delta = parse_payload(cfg.mode, payload_of(total, schema, cfg), schema)
    fixed = delta.to_fixed()
    for start in range(0, schema.size, BLOCK):
        out = np.zeros(min(BLOCK, schema.size - start), np.int32)
        delta.accumulate(out, start, 2)
        assert (out == 2 * fixed[start : start + out.size]).all()


@given(st.data(), schemas(), configs)
def test_sizes_stay_below_the_bound_for_admission(
    data: st.DataObject, schema: ModelSchema, cfg: Codec
) -> None:
    payload = payload_of(data.draw(totals(schema)), schema, cfg)
    assert len(payload) <= max_payload_bytes(cfg.mode, schema)


# what is refused


@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=80), schemas())
def test_noise_gives_a_delta_of_the_schema_or_the_documented_error(
    codec: str, noise: bytes, schema: ModelSchema
) -> None:
    try:
        delta = parse_payload(codec, noise, schema)
    except RemoteProtocolError:
        return
    check(delta, schema)
    assert len(noise) <= max_payload_bytes(codec, schema)


@given(st.data(), schemas(), configs)
def test_a_mutated_payload_gives_a_delta_of_the_schema_or_the_documented_error(
    data: st.DataObject, schema: ModelSchema, cfg: Codec
) -> None:
    payload = bytearray(payload_of(data.draw(totals(schema)), schema, cfg))
    for _ in range(data.draw(st.integers(1, 4))):
        if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        delta = parse_payload(cfg.mode, payload, schema)
    except RemoteProtocolError:
        return
    check(delta, schema)


@given(st.data(), schemas(), configs)
def test_a_payload_of_another_length_is_refused(
    data: st.DataObject, schema: ModelSchema, cfg: Codec
) -> None:
    payload = payload_of(data.draw(totals(schema)), schema, cfg)
    with pytest.raises(RemoteProtocolError):
        parse_payload(cfg.mode, payload + data.draw(st.binary(min_size=1, max_size=9)), schema)
    if payload:
        with pytest.raises(RemoteProtocolError):
            parse_payload(cfg.mode, payload[: data.draw(st.integers(0, len(payload) - 1))], schema)


def floats(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def topk_quantize(
    *,
    count: int = 2,
    coding: int = 0,
    rice: int = 0,
    levels: tuple[int, int] = (1, 2),
    buffer: float = 0,
    codes: bytes = b"\0\0",
) -> bytes:
    head = struct.pack("<IBBII", count, coding, rice, *levels)
    return head + floats(buffer) + codes + b"\x18"


@pytest.mark.parametrize(
    ("codec", "payload", "problem"),
    [
        ("zip", b"", "payload zip: unknown codec; known: none, gradients_topk"),
        ("none", floats(0, 0, 0, 0, 0), "expected 24 bytes, got 20"),
        ("none", floats(0, 0, 0, 0, 0, float("nan")), "a value is not finite"),
        ("none", floats(0, float("inf"), 0, 0, 0, 0), "a value is not finite"),
        ("gradients_topk", b"\1\0\0", "ends 5 bytes early"),
        ("gradients_topk", struct.pack("<II", 6, 0) + bytes(40), "6 entries of 5"),
        ("gradients_topk", struct.pack("<II", 1, 0) + floats(float("nan"), 0), "not finite"),
        ("gradients_topk", struct.pack("<II", 0, 1 << 31) + floats(0), "more bytes than a bitmap"),
        ("weights_quantize", struct.pack("<I", 9) + bytes(99), "9 bits an entry"),
        ("weights_quantize", struct.pack("<I", 0) + bytes(99), "0 bits an entry"),
        (
            "weights_quantize",
            struct.pack("<If", 2, 0) + struct.pack("<IHIH", 1, 7, 1, 0) + bytes(2),
            "zero is out of range",
        ),
        (
            "weights_quantize",
            struct.pack("<If", 2, 0) + struct.pack("<IHIH", 1, 0, (1 << 30) // 6 + 1, 0) + bytes(2),
            "step is out of range",
        ),
        (
            "weights_quantize",
            struct.pack("<If", 2, 0) + struct.pack("<IHIH", 1, 0, 1, 0) + b"\x20\x00",
            "padding bits are not zero",
        ),
        ("topk_quantize", topk_quantize(count=6), "6 entries of 5"),
        ("topk_quantize", topk_quantize(levels=(0, 1)), "a level is out of range"),
        ("topk_quantize", topk_quantize(levels=(1, MAX_DELTA + 1)), "a level is out of range"),
        ("topk_quantize", topk_quantize(buffer=float("inf")), "a value is not finite"),
        ("topk_quantize", topk_quantize(codes=b"\x00\x04"), "padding bits are not zero"),
        ("topk_quantize", topk_quantize(coding=2), "positions in coding 2, 0"),
        ("topk_quantize", topk_quantize(coding=1, rice=1), "positions in coding 1, 1"),
        ("topk_quantize", topk_quantize(rice=255), "ends 31 bytes early"),
        ("topk_quantize", topk_quantize(count=1), "more positions than entries"),
        ("topk_quantize", topk_quantize(coding=1), "zstd: .*"),
    ],
)
def test_errors_say_what_is_wrong(codec: str, payload: bytes, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=problem):
        parse_payload(codec, payload, SCHEMA)


def test_the_bound_of_an_unknown_codec_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="unknown codec 'zip'"):
        max_payload_bytes("zip", SCHEMA)


# memory


def test_a_dense_payload_is_not_copied() -> None:
    schema = schema_of(1 << 20)
    payload = bytes(4 << 20)
    assert peak_bytes(lambda: parse_payload("none", payload, schema)) < 100_000
    delta = parse_payload("none", payload, schema)
    out = np.zeros(BLOCK, np.int32)
    delta.accumulate(out, 0, 1)
    assert peak_bytes(lambda: delta.accumulate(out, 0, 1)) < 100_000


@pytest.mark.parametrize("share", [0.001, 0.03, 1.0])
def test_positions_are_decoded_in_bounded_memory(share: float) -> None:
    schema = schema_of(1 << 20)
    rng = np.random.default_rng(0)
    total = rng.standard_normal(1 << 20).astype(np.float32)
    cfg = Codec(mode="gradients_topk", topk=share)
    payload = payload_of(total, schema, cfg)
    positions_bytes = 4 * round(share * (1 << 20))
    peak = peak_bytes(lambda: parse_payload(cfg.mode, payload, schema))
    assert peak < positions_bytes + (8 << 20)


def test_declared_sizes_allocate_nothing() -> None:
    """A few bytes that claim a whole large model."""
    schema = schema_of(1 << 30)
    zeros_in_a_frame = zstandard.ZstdCompressor().compress(bytes((1 << 27) + 1))
    for codec, head in (
        ("none", b""),
        ("gradients_topk", struct.pack("<II", 1 << 30, 31)),
        ("gradients_topk", struct.pack("<II", 0, 31) + b"\x01"),
        ("weights_quantize", struct.pack("<I", 8)),
        ("topk_quantize", struct.pack("<IBBII", 1 << 30, 0, 0, 1, 1)),
        ("topk_quantize", struct.pack("<IBBII", 1, 1, 0, 1, 1) + bytes(2) + zeros_in_a_frame),
        ("entropy_quantize", pack_varints((1 << 30, 1, 2, 0, 0, 31, 1 << 30, 0)) + bytes(1000)),
    ):

        def parse(codec: str = codec, head: bytes = head) -> None:
            with pytest.raises(RemoteProtocolError):
                parse_payload(codec, head, schema)

        assert peak_bytes(parse) < 100_000


@pytest.mark.parametrize("cfg", MODES, ids=lambda c: f"{c.mode}-{c.topk}-{c.bit_width}")
def test_any_contiguous_bytes_will_do(cfg: Codec, tmp_path: Path) -> None:
    schema = schema_of(1000, buffers=3)
    total = np.random.default_rng(0).standard_normal(1003).astype(np.float32)
    payload = payload_of(total, schema, cfg)
    expected = parse_payload(cfg.mode, payload, schema).to_fixed().tolist()

    def decode(data: Buffer) -> list[int]:
        numbers: list[int] = parse_payload(cfg.mode, data, schema).to_fixed().tolist()
        return numbers

    unaligned = memoryview(b"?" + payload)[1:]
    for data in (bytearray(payload), memoryview(payload), unaligned):
        assert decode(data) == expected
    path = tmp_path / "payload"
    path.write_bytes(payload)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert decode(mapped) == expected


def test_decoding_needs_no_torch() -> None:
    code = (
        "import sys; import semantic_net.semantic.decoder, semantic_net.semantic.schema; "
        "import semantic_net.aggregation.folder; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
