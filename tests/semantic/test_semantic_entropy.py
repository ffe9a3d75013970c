"""Mode entropy_quantize: its stated error and size, and payloads that nobody would write."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semantic_support import payload_of, peak_bytes, schema_of, schemas, totals

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import MAX_DELTA, SCALE, Float32Array, Int64Array
from semantic_net.semantic import entropy
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.contexts import TensorContexts, pack_contexts
from semantic_net.semantic.decoder import max_payload_bytes, parse_payload
from semantic_net.semantic.entropy import Steps
from semantic_net.semantic.rans import num_lanes
from semantic_net.semantic.reader import PayloadReader
from semantic_net.semantic.runs import Group, pack_runs
from semantic_net.semantic.schema import ModelSchema, TensorSpec
from semantic_net.semantic.varints import pack_varints, take_varint

MODE = "entropy_quantize"
THIRD = 357913920  # of `MAX_DELTA`, nearly: one that float32 can hold


def matrix(num_rows: int, num_columns: int) -> ModelSchema:
    return ModelSchema((TensorSpec("weight", (num_rows, num_columns), "parameter"),))


def in_units(values: Float32Array) -> Int64Array:
    exact = np.rint(values.astype(np.float64) * SCALE)
    return np.clip(exact, -MAX_DELTA, MAX_DELTA).astype(np.int64)


# the stated error


@given(st.data(), schemas(), st.sampled_from((0.1, 0.4, 1.0)))
def test_an_entry_is_off_by_at_most_a_step_and_the_mean_magnitude_stays(
    data: st.DataObject, schema: ModelSchema, share: float
) -> None:
    total = data.draw(totals(schema))
    payload = payload_of(total, schema, Codec(MODE, topk=share))
    reader = PayloadReader(MODE, payload)
    count, base, step = (take_varint(reader, 1 << 32) for _ in range(3))
    here = slice(0, schema.num_parameters)
    decoded = parse_payload(MODE, payload, schema).to_fixed()[here]
    exact = in_units(total[here])
    kept = np.flatnonzero(decoded)
    assert kept.size == count
    if not count:
        return
    assert (np.sign(decoded[kept]) == np.sign(exact[kept])).all()
    magnitudes, sent = np.abs(exact[kept]), np.abs(decoded[kept])
    assert step == 2 * magnitudes.min()
    assert set(((sent - base) % step).tolist()) == {0}
    assert (np.abs(sent - magnitudes) < step).all()
    dropped = np.abs(np.delete(exact, kept))
    assert dropped.max(initial=0) <= step // 2
    if magnitudes.max() < MAX_DELTA - step:  # where the largest entry must not saturate it is less
        assert abs(sent.mean() - magnitudes.mean()) <= 0.5


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1e-42, -1e-42, 2.0**-25], [0, 0, 0]),  # all of it rounds to zero
        ([2.0**-24, -(2.0**-24), 0], [1, -1, 0]),
        ([3 * 2.0**-25, 0, 1e-44], [2, 0, 0]),
        # steps of 2 from 1 on; the base is the mean of 1 and what is left of 4, 2
        ([2.0**-24, 2.0**-22], [2, 4]),
        # far below most of them
        ([3e38, 2.0**-24, -3e38], [MAX_DELTA, 0, -MAX_DELTA]),
        ([3e38, 3e38], [MAX_DELTA, MAX_DELTA]),
        # an eighth of the median is kept, and less is not
        ([4, 4, 4, 0.5, 0.499], [*[31 * SCALE // 8] * 3, 7 * SCALE // 8, 0]),
        # a mean of what is left would take the largest one beyond the end
        ([THIRD / SCALE, 60, 3e38], [MAX_DELTA - 2 * THIRD, MAX_DELTA - 2 * THIRD, MAX_DELTA]),
        ([0.5, -0.5, 0.5], [SCALE // 2, -SCALE // 2, SCALE // 2]),
        # steps of 2 from 1 on; 3 is halfway, and goes with 5 as the dead zone's end goes with 1
        ([1, 2, 3], [4 * SCALE // 3, 4 * SCALE // 3, 10 * SCALE // 3]),
    ],
)
def test_odd_values(values: list[float], kept: list[int]) -> None:
    schema = schema_of(len(values))
    payload = payload_of(np.array(values, np.float32), schema, Codec(MODE, topk=1.0))
    assert parse_payload(MODE, payload, schema).to_fixed().tolist() == kept


# the size


def test_random_positions_take_about_their_entropy() -> None:
    size, share = 200_000, 0.01
    rng = np.random.default_rng(0)
    total = np.zeros(size, np.float32)
    positions = rng.choice(size, round(share * size), replace=False)
    total[positions] = rng.choice([-0.25, 0.25], positions.size)
    num_bytes = len(payload_of(total, schema_of(size), Codec(MODE, topk=share)))
    entropy_bits = -size * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    bound = (entropy_bits + positions.size) / 8  # and a sign each
    assert bound < num_bytes < 1.03 * bound


def test_magnitudes_take_about_the_entropy_of_their_steps() -> None:
    total = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    cfg = Codec(MODE, topk=1.0)
    payload = payload_of(total, schema_of(total.size), cfg)
    decoded = parse_payload(MODE, payload, schema_of(total.size)).to_fixed()
    counts = np.unique(decoded, return_counts=True)[1]
    bound = -float((counts * np.log2(counts / total.size)).sum()) / 8
    assert bound < len(payload) < 1.06 * bound


@pytest.mark.parametrize("is_by_column", [False, True])
def test_rows_that_change_more_than_others_make_a_payload_shorter(is_by_column: bool) -> None:
    """Against the same entries in a vector, of which nothing can be told."""
    rng = np.random.default_rng(0)
    scales = np.where(rng.random((256, 1)) < 0.1, 8, 1)
    entries = (rng.standard_normal((256, 256)) * scales).astype(np.float32) * 1e-3
    total = (entries.T if is_by_column else entries).ravel()
    cfg = Codec(MODE, topk=0.03)
    told, untold = (len(payload_of(total, s, cfg)) for s in (matrix(256, 256), schema_of(1 << 16)))
    assert told < 0.8 * untold


def test_a_model_of_empty_tensors_stays_below_the_bound_for_admission() -> None:
    schema = schema_of(*[0] * 20_000)
    payload = payload_of(np.empty(0, np.float32), schema, Codec(MODE))
    assert 20_000 < len(payload) <= max_payload_bytes(MODE, schema)


# memory


@pytest.mark.parametrize("mode", ["topk_quantize", MODE])
@pytest.mark.parametrize("share", [0.012, 0.03])
def test_both_ways_take_less_than_three_models(
    mode: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mapped buffers are not traced; these are.
    monkeypatch.setattr("semantic_net.semantic.sparsify.new_array", np.empty)
    schema = matrix(1 << 10, 1 << 10)
    rng = np.random.default_rng(0)
    scales = np.exp(rng.standard_normal((1 << 10, 1)))
    total = (rng.standard_normal((1 << 10, 1 << 10)) * scales).astype(np.float32).ravel()
    cfg = Codec(mode, topk=share)
    payload = payload_of(total, schema, cfg)  # also warms up what stays
    assert peak_bytes(lambda: payload_of(total, schema, cfg)) < 3 * schema.dense_bytes
    assert peak_bytes(lambda: parse_payload(mode, payload, schema)) < schema.dense_bytes


def test_even_all_entries_are_parsed_in_bounded_memory() -> None:
    """Half of them with 27 low bits each: what a byte and more for every bit would be."""
    size = 1 << 18
    rng = np.random.default_rng(0)
    total = np.where(rng.random(size) < 0.51, 2.0**-24, rng.uniform(32, 64, size))
    payload = payload_of(total.astype(np.float32), schema_of(size), Codec(MODE, topk=1.0))
    assert len(payload) > 1.5 * size
    assert peak_bytes(lambda: parse_payload(MODE, payload, schema_of(size))) < 72 * size


def test_nor_do_contexts_and_steps_of_all_entries_take_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many segments as there can be, every entry kept, and every one above step 0."""
    size = 1 << 18
    schema = ModelSchema((TensorSpec("weight", (size // 64, 64), "parameter"),))
    octaves = np.resize(np.arange(-7, 8), 64).astype(np.int8)
    monkeypatch.setattr(
        entropy, "choose_contexts", lambda positions, schema: [TensorContexts(16, None, octaves)]
    )
    steps = Steps(np.zeros(size, np.bool_), np.ones(size, np.int32), 1, 1)
    nothing = np.empty(0, np.float32)
    payload = entropy.write_entropy_quantized(np.arange(size), steps, nothing, schema)
    assert peak_bytes(lambda: parse_payload(MODE, payload, schema)) < 60 * size


# payloads by hand


def forged(
    *,
    count: int = 2,
    base: int = 3,
    step: int = 4,
    num_above: int = 1,
    sum_above: int = 1,
    buffer: float = 1.5,
    head: int = 29,
    kept: int = 2,
    escapes: tuple[int, ...] = (0,),
    runs: tuple[int, ...] = (1, 3),
    step_run: int = 1,
    above_one: int = 1,
    signs: int = 0b10,
    end: bytes = b"",
) -> bytes:
    """Return a payload of two of eight parameters and a buffer, changed as asked."""
    parts = [np.array(numbers, np.int64) for numbers in (runs, [step_run], [above_one])]
    groups = [Group.of(2, 6), Group.of(1, 1), Group.of(1, sum_above)]
    return b"".join(
        (
            pack_varints((count, base, step, num_above, sum_above)),
            struct.pack("<f", buffer),
            bytes([head]),
            pack_varints((kept, *escapes)),
            pack_runs(parts, groups, bytes([signs])),
            end,
        )
    )


SMALL = schema_of(8, buffers=1)


def test_the_payload_by_hand_is_one() -> None:
    expected = [0, 3, 0, 0, 0, -11, 0, 0, 1.5 * SCALE]
    assert parse_payload(MODE, forged(), SMALL).to_fixed().tolist() == expected


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "ends 1 bytes early"),
        (forged(count=9), "the number 9, where 8 is the most"),
        (forged(base=MAX_DELTA + 1), "where 1073741824 is the most"),
        (forged(step=2 * MAX_DELTA + 1), "where 2147483648 is the most"),
        (forged(base=0), "a magnitude of zero"),
        (forged(step=0), "a magnitude of zero"),
        (forged(num_above=3), "the number 3, where 2 is the most"),
        (forged(sum_above=MAX_DELTA + 1), "where 1073741824 is the most"),
        (forged(buffer=float("nan")), "a value is not finite"),
        (forged(head=128), "a tensor's context is out of range"),
        (forged(kept=9), "the number 9, where 8 is the most"),
        (forged(kept=1), "contexts keep more or fewer entries than there are"),
        (forged(escapes=(1,)), "the number 1, where 0 is the most"),
        (forged(step_run=2), "steps of more entries than there are"),
        (forged(above_one=2), "steps with another sum than announced"),
        (forged(step=MAX_DELTA // 2), "a step is out of range"),
        (forged(base=MAX_DELTA), "a step is out of range"),
        (forged(runs=(4, 3)), "positions are out of range"),
        (forged(signs=0b100), "padding bits are not zero"),
        (forged()[:-1], "ends 1 bytes early"),
        (forged(end=b"\0"), "1 bytes too long"),
    ],
)
def test_what_no_encoder_writes_is_refused(payload: bytes, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=rf"^payload.*: .*{problem}"):
        parse_payload(MODE, payload, SMALL)


def test_escapes_add_up_to_what_is_announced() -> None:
    """Nine of 80: their runs have room for one."""
    payload = pack_varints((9, 1, 2, 0, 0)) + bytes([28]) + pack_varints((9, 1, 0))
    with pytest.raises(RemoteProtocolError, match="groups with other escapes than announced"):
        parse_payload(MODE, payload, schema_of(80))


def test_more_entries_than_bytes_are_refused_before_they_are_made_room_for() -> None:
    size = 1 << 30
    payload = pack_varints((size, 1, 2, size, 0)) + bytes([31]) + pack_varints((size, 0))

    def parse() -> None:
        with pytest.raises(RemoteProtocolError, match="ends within its cargo"):
            parse_payload(MODE, payload + bytes(1000), schema_of(size))

    assert peak_bytes(parse) < 100_000


SIZE = 1 << 20
TALL = matrix(SIZE // 64, 64)


def states(num_symbols: int) -> bytes:
    return struct.pack("<I", 1 << 16) * num_lanes(num_symbols, cargo=True)


def many_segments() -> bytes:
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(-7, 8, size).astype(np.int8) for size in (SIZE // 64, 64))
    return pack_contexts([TensorContexts(16, rows, columns)])


@pytest.mark.parametrize(
    ("payload", "most_bytes"),
    [
        # nothing at all
        (pack_varints((0,) * 5) + bytes([0, 0, 0]) + states(0), 1),
        # all entries, and no symbols
        (
            pack_varints((SIZE, 1, 2, SIZE, 0, 31, SIZE, 0)) + states(3 * SIZE) + bytes(SIZE // 8),
            24,
        ),
        # a context for each row, and no symbols
        (pack_varints((0, 0, 0, 0, 0, 32)) + bytes([0]) + states(SIZE // 64), 1),
        # as many segments as there can be
        (pack_varints((0,) * 5) + many_segments() + bytes(30) + states(0), 16),
    ],
    ids=["nothing", "everything", "rows", "segments"],
)
def test_a_short_payload_takes_a_few_bytes_a_parameter(payload: bytes, most_bytes: float) -> None:
    """A stranger chooses the payload, but not that a model's size is exceeded many times."""

    def parse() -> None:
        with contextlib.suppress(RemoteProtocolError):
            parse_payload(MODE, payload, TALL)

    assert peak_bytes(parse) < most_bytes * SIZE
