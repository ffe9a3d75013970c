from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_net.config import CsvConfig, PartitionConfig
from semantic_net.errors import ConfigError, DataError
from semantic_net.task.netqos.traces import Trace, WindowData, hold_out, shard_traces
from semantic_net.task.netqos.units import Inputs

INPUTS = Inputs(("load",), "load")


def trace(name: str, times: list[float], *, group: str = "", first: float = 0.0) -> Trace:
    """A trace whose values count up from ``first``, so that each names its sample."""
    values = first + np.arange(len(times), dtype=np.float64)
    return Trace(name, group, np.array(times, dtype=np.float64), values[:, None], values)


def windows_of(
    traces: list[Trace], window: int = 3, horizon: int = 2
) -> list[tuple[list[float], float]]:
    data = WindowData(traces, INPUTS, window=window, horizon=horizon, max_gap_s=1.0)
    return [(x[:, 0].tolist(), float(y)) for x, y in (data[i] for i in range(len(data)))]


def test_windows_and_their_targets() -> None:
    assert windows_of([trace("a", [0, 1, 2, 3, 4, 5])]) == [([0, 1, 2], 4), ([1, 2, 3], 5)]


def test_no_window_spans_a_gap_or_two_traces() -> None:
    gap = trace("a", [0, 1, 2, 3, 4, 6, 7, 8, 9, 10])  # between the samples 4 and 5
    other = trace("b", [0, 1, 2, 3, 4], first=100)
    assert windows_of([gap, other]) == [([0, 1, 2], 4), ([5, 6, 7], 9), ([100, 101, 102], 104)]


def test_a_step_of_exactly_the_gap_is_none() -> None:
    times = np.cumsum([0.0] + [0.1] * 4).tolist()
    data = WindowData([trace("a", times)], INPUTS, window=3, horizon=2, max_gap_s=0.1)
    assert len(data) == 1


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.sampled_from([0.2, 1.0, 1.5]), max_size=20), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_every_window_that_may_be_is_there_once(
    steps: list[list[float]], window: int, horizon: int
) -> None:
    traces = [
        trace(str(i), np.cumsum([0.0, *s]).tolist(), first=1000.0 * i) for i, s in enumerate(steps)
    ]
    expected = [
        ([1000.0 * i + j for j in range(start, start + window)], 1000.0 * i + end)
        for i, s in enumerate(steps)
        for start in range(len(s) + 1)
        if (end := start + window - 1 + horizon) <= len(s) and all(x <= 1 for x in s[start:end])
    ]
    assert windows_of(traces, window, horizon) == expected


def test_many_examples_at_once_are_the_same_examples() -> None:
    traces = [trace("a", [0, 1, 2, 3, 4, 5]), trace("b", [0, 1, 2, 3, 4], first=100)]
    data = WindowData(traces, INPUTS, window=3, horizon=2, max_gap_s=1.0)
    windows, targets = data.batch(np.array([2, 0]))
    for row, index in enumerate((2, 0)):
        assert windows[row].equal(data[index][0])
        assert targets[row].equal(data[index][1])
    assert data.trace_index.tolist() == [0, 0, 1]


def names(traces: list[Trace]) -> list[str]:
    return [trace.name for trace in traces]


def grouped(sizes: dict[str, int]) -> list[Trace]:
    return [trace(f"{g}{i}", [0.0], group=g) for g, n in sizes.items() for i in range(n)]


def test_every_fifth_trace_of_each_group_is_held_out() -> None:
    train, held = hold_out(grouped({"a": 7, "b": 2, "c": 1}), every=5)
    assert names(held) == ["a0", "a5", "b0"]
    assert names(train) == ["a1", "a2", "a3", "a4", "a6", "b1", "c0"]


def test_offsets_hold_each_trace_out_once() -> None:
    traces = grouped({"a": 7, "b": 2})
    held = [name for offset in range(5) for name in names(hold_out(traces, 5, offset)[1])]
    assert sorted(held) == names(traces)


GROUPED = CsvConfig(group=("net",))


def test_a_natural_shard_is_judged_on_its_own_groups() -> None:
    traces = grouped({"a": 6, "b": 3, "c": 1})
    parts = [
        shard_traces(traces, GROUPED, PartitionConfig(num_shards=3, shard=shard))
        for shard in range(3)
    ]
    assert [names(train) for train, _ in parts] == [["a1", "a2", "a3", "a4"], ["b1", "b2"], ["c0"]]
    assert [names(held) for _, held in parts[:2]] == [["a0", "a5"], ["b0"]]
    assert names(parts[2][1]) == ["a0", "a5", "b0"]  # nothing of its own is held out


def test_without_a_shard_all_is_there() -> None:
    train, held = shard_traces(grouped({"a": 6, "b": 3}), GROUPED, PartitionConfig(num_shards=2))
    assert len(train) == 6
    assert names(held) == ["a0", "a5", "b0"]


@pytest.mark.parametrize("by", ["natural", "iid", "quantity"])
def test_without_groups_the_traces_themselves_are_dealt(by: str) -> None:
    traces = [trace(f"t{i}", [0.0]) for i in range(10)]
    parts = [
        shard_traces(traces, CsvConfig(), PartitionConfig(by=by, num_shards=4, shard=shard))  # type: ignore[arg-type]  # any of the four
        for shard in range(4)
    ]
    assert sorted(n for train, _ in parts for n in names(train)) == sorted(
        f"t{i}" for i in range(10) if i % 5
    )
    assert all(names(held) == ["t0", "t5"] for _, held in parts)


def test_a_dirichlet_split_skews_the_groups() -> None:
    traces = grouped({"a": 20, "b": 20})
    shares = []
    for seed in range(8):
        cfg = PartitionConfig(by="dirichlet", num_shards=2, shard=0, alpha=0.05, seed=seed)
        train, held = shard_traces(traces, GROUPED, cfg)
        shares.append(sum(t.group == "a" for t in train) / len(train))
        assert len(held) == 8
    assert min(shares) < 0.1
    assert max(shares) > 0.9
    with pytest.raises(ConfigError, match="no labels to skew"):
        shard_traces([trace(f"t{i}", [0.0]) for i in range(10)], CsvConfig(), cfg)


def test_a_single_trace_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"1 trace\(s\), .* give at least two traces"):
        shard_traces([trace("a", [0.0])], CsvConfig(), PartitionConfig())
