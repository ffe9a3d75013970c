"""CPU time of codecs and fold, against the same arithmetic on whole arrays.

    python benchmarks/fold_speed.py [--parameters 6412500] [--peers 3] [--repeat 9]

One thread, CPU milliseconds (the median of the repeats), so that other work on the machine shows
little. The plain fold is what one would write first: int64 throughout, a whole array at a time.
Both folds must end with the same entries, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from semantic_net.aggregation.fold import FoldConfig, fold_round
from semantic_net.aggregation.rules import Contribution
from semantic_net.aggregation.state import FoldState, start_state, state_digest
from semantic_net.fixed_point import Float32Array, Int64Array, delta_to_fixed
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import ParsedDelta, parse_payload
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.schema import ModelSchema, TensorSpec

BETA = 1 << 15
TENSORS = 50
MODES = (
    Codec(mode="none"),
    Codec(mode="gradients_topk", topk=0.03),
    Codec(mode="weights_quantize", bit_width=4),
)


def cpu_ms(work: Callable[[], object], repeat: int) -> float:
    """Return the median CPU time of a call, after one to warm up."""
    work()
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def plain_fold(
    state: Int64Array, momentum: Int64Array, deltas: Sequence[Float32Array], weights: Sequence[int]
) -> tuple[Int64Array, Int64Array]:
    """Return state and momentum after a round with beta 1/2 and outer_lr 1."""
    total = sum(weights)
    sums = np.zeros_like(state)
    for delta, weight in zip(deltas, weights, strict=True):
        sums += weight * delta_to_fixed(delta)
    g = (2 * sums + total) // (2 * total)
    momentum = ((BETA * momentum + (1 << 15)) >> 16) + g
    return state + g + ((BETA * momentum + (1 << 15)) >> 16), momentum


def bench_codecs(
    schema: ModelSchema, totals: Sequence[Float32Array], repeat: int
) -> dict[str, list[ParsedDelta]]:
    """Print what encoding and decoding cost, and return the parsed deltas of each mode."""
    print(f"\n{'ms per million parameters':32}{'encode':>9}{'parse':>9}{'decode':>9}{'ratio':>9}")
    millions = schema.size / 1e6
    parsed: dict[str, list[ParsedDelta]] = {}
    for cfg in MODES:
        payloads = [encode(torch.from_numpy(t), schema, cfg).payload for t in totals]
        parsed[cfg.mode] = [parse_payload(cfg.mode, payload, schema) for payload in payloads]

        def encode_one(cfg: Codec = cfg) -> object:
            return encode(torch.from_numpy(totals[0]), schema, cfg)

        def parse_one(cfg: Codec = cfg, payload: bytes | memoryview = payloads[0]) -> object:
            return parse_payload(cfg.mode, payload, schema)

        def decode_one(delta: ParsedDelta = parsed[cfg.mode][0]) -> object:
            return delta.to_float32()

        costs = [cpu_ms(work, repeat) / millions for work in (encode_one, parse_one, decode_one)]
        ratio = schema.dense_bytes / len(payloads[0])
        print(f"{cfg.mode:32}" + "".join(f"{cost:9.2f}" for cost in (*costs, ratio)))
    return parsed


def bench_fold(
    schema: ModelSchema,
    start: Float32Array,
    deltas: Sequence[ParsedDelta],
    weights: Sequence[int],
    repeat: int,
) -> tuple[float, FoldState]:
    """Return the CPU time of a round in the peer's steady state, and the state after it."""
    cfg = FoldConfig(schema.num_parameters, schema.num_buffers, BETA, 1 << 16)
    state, spare = (start_state(start, schema.num_parameters, momentum=True) for _ in range(2))
    contributions = [Contribution(d, w) for d, w in zip(deltas, weights, strict=True)]
    after = fold_round(state, contributions, cfg)
    return cpu_ms(lambda: fold_round(state, contributions, cfg, out=spare), repeat), after


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parameters", type=int, default=6_412_500)
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)

    share = max(args.parameters // TENSORS, 1)
    schema = ModelSchema(
        tuple(TensorSpec(f"p{i}", (share,), "parameter") for i in range(args.parameters // share))
    )
    rng = np.random.default_rng(0)
    start = rng.standard_normal(schema.size, np.float32) * np.float32(0.05)
    totals = [
        rng.standard_normal(schema.size, np.float32) * np.float32(0.001) for _ in range(args.peers)
    ]
    equal = [96] * args.peers
    unequal = [96 + 7 * i * i for i in range(args.peers)]
    print(f"{schema.size:,} parameters, {args.peers} peers, CPU time of one thread")
    parsed = bench_codecs(schema, totals, args.repeat)

    before = start_state(start, schema.num_parameters, momentum=True)
    plain = [array.astype(np.int64) for array in (before.parameters, before.momentum)]
    plain_ms = cpu_ms(lambda: plain_fold(plain[0], plain[1], totals, unequal), 3)
    print(f"\n{'one round':32}{'ms':>9}{'plain/this':>12}")
    print(f"{'plain fold, whole arrays':32}{plain_ms:9.1f}{1:12.1f}")
    for name, mode, weights in (
        ("fold, none, equal weights", "none", equal),
        ("fold, none, unequal weights", "none", unequal),
        ("fold, gradients_topk", "gradients_topk", unequal),
        ("fold, weights_quantize", "weights_quantize", unequal),
    ):
        fold_ms, after = bench_fold(schema, start, parsed[mode], weights, args.repeat)
        print(f"{name:32}{fold_ms:9.1f}{plain_ms / fold_ms:12.1f}")
        if mode == "none":
            parameters, momentum = plain_fold(plain[0], plain[1], totals, weights)
            assert np.array_equal(after.parameters, parameters), name
            assert np.array_equal(after.momentum, momentum), name
    payloads = [encode(torch.from_numpy(t), schema, MODES[0]).payload for t in totals]
    parse_ms = cpu_ms(lambda: [parse_payload("none", p, schema) for p in payloads], args.repeat)
    digest_ms = cpu_ms(lambda: state_digest(after), args.repeat)
    view_ms = cpu_ms(after.to_float32, args.repeat)
    dense_ms = bench_fold(schema, start, parsed["none"], equal, args.repeat)[0]
    print(f"{'parse of all dense payloads':32}{parse_ms:9.1f}")
    print(f"{'state digest':32}{digest_ms:9.1f}")
    print(f"{'float32 view':32}{view_ms:9.1f}")
    print(f"{'parse + fold + digest, dense':32}{parse_ms + dense_ms + digest_ms:9.1f}")


if __name__ == "__main__":
    main()
