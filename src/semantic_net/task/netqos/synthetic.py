"""A link simulator: what a phone's radio and its round-trip time do on the move, at 5 Hz.

A device moves along a road of cells. Its signal falls with distance and fades; it changes cells
when a neighbour is clearly stronger, and is cut off while it does; a bad signal means
retransmissions and, at worst, a link failure of seconds. Traffic comes in bursts and queues
behind what the cell's load and the signal leave of the capacity.

The physics is everybody's. Where a device lives is its own: spacing of the cells, how it moves,
how busy the network is, how long the path to the server. So peers' data differ, and what one
has learned of handovers serves another that has seen few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semantic_net.task.netqos.traces import Trace
from semantic_net.task.netqos.units import Float64Array

FEATURES = ("rtt_ms", "rsrp_dbm", "neighbour_dbm", "sinr_db", "speed_mps")
TARGET = "rtt_ms"
MAX_RTT_MS = 500.0
"""A probe that takes longer counts as lost, and shows as this."""

STEP_S = 0.2
NUM_STEPS = 300

_SPEEDS_MPS = np.array([0.2, 1.5, 14.0])  # standing, walking, driving
_NOISE_DBM = -104.0
_HYSTERESIS_DB = 3.0
_PATIENCE_STEPS = 6
_FAILURE_SINR_DB = -4.0
_BANDWIDTH_MHZ = 3.0
_BUFFER_MBIT = 0.8


@dataclass(frozen=True, slots=True)
class Region:
    """Where a device lives."""

    base_ms: float
    """Round trip without any queue."""
    spacing_m: float
    shadowing_db: float
    movement: tuple[float, ...]
    """Shares of traces that stand, walk and drive."""
    cell_load: float
    """Share of the cell that others take, on average."""
    burst_mbps: float
    burst_share: float
    """Share of the time in which the device's own traffic is on."""


def region_of(seed: int, region: int) -> Region:
    """Draw a region; equal numbers give equal regions on every machine."""
    rng = _rng(seed, region, 0)
    return Region(
        base_ms=float(rng.uniform(12, 45)),
        spacing_m=float(rng.uniform(150, 600)),
        shadowing_db=float(rng.uniform(2, 5)),
        movement=tuple(rng.dirichlet([0.6, 0.6, 0.6]).tolist()),
        cell_load=float(rng.uniform(0.2, 0.7)),
        burst_mbps=float(rng.uniform(2, 8)),
        burst_share=float(rng.uniform(0.1, 0.6)),
    )


def make_traces(seed: int, region: int, num_traces: int, *, held_out: bool) -> list[Trace]:
    """Simulate traces of a region; those held out are drawn apart from those to train on."""
    rng = _rng(seed, region, 2 if held_out else 1)
    columns = _simulate(region_of(seed, region), num_traces, rng)
    time_s = np.arange(NUM_STEPS, dtype=np.float64) * STEP_S
    return [
        Trace(
            name=f"{'held' if held_out else 'train'}{index}",
            group=f"region{region}",
            time_s=time_s,
            values=np.stack([columns[name][:, index] for name in FEATURES], axis=1),
            target=columns[TARGET][:, index],
        )
        for index in range(num_traces)
    ]


def _rng(*parts: int) -> np.random.Generator:
    return np.random.default_rng([part & 0xFFFF_FFFF_FFFF_FFFF for part in parts])


def _simulate(region: Region, num_traces: int, rng: np.random.Generator) -> dict[str, Float64Array]:
    """Run all traces side by side; each column is (NUM_STEPS, num_traces)."""
    radio = _Radio(region, num_traces, rng)
    traffic = _Traffic(region, num_traces, rng)
    rows: dict[str, list[Float64Array]] = {name: [] for name in FEATURES}
    for _ in range(NUM_STEPS):
        radio.step()
        rtt_ms = traffic.step(radio.sinr_db, radio.cut_off_s)
        rows["rtt_ms"].append(rtt_ms)
        rows["rsrp_dbm"].append(radio.rsrp_dbm)
        rows["neighbour_dbm"].append(radio.neighbour_dbm)
        rows["sinr_db"].append(radio.sinr_db)
        rows["speed_mps"].append(radio.speed_mps)
    # What a modem reports is rounded.
    return {
        name: np.round(np.stack(column), 2 if name == TARGET else 1)
        for name, column in rows.items()
    }


class _Radio:
    """Movement, signal, handovers and link failures of many devices at once."""

    def __init__(self, region: Region, num_traces: int, rng: np.random.Generator) -> None:
        self._region, self._rng = region, rng
        mode = rng.choice(len(_SPEEDS_MPS), size=num_traces, p=np.array(region.movement))
        self._cruise = _SPEEDS_MPS[mode] * rng.uniform(0.7, 1.3, num_traces)
        self.speed_mps = self._cruise.copy()
        farthest = float(_SPEEDS_MPS.max()) * 1.5 * STEP_S * NUM_STEPS
        self._cells = np.arange(int(farthest / region.spacing_m) + 3) * region.spacing_m
        self._position = rng.uniform(0, region.spacing_m, num_traces)
        self._offset = rng.uniform(15, 60, num_traces)  # of the road from the cells' line, metres
        self._shadow = rng.normal(0, region.shadowing_db, (num_traces, len(self._cells)))
        self._all = np.arange(num_traces)
        self._serving = np.argmax(self._signal(), axis=1)
        self._waited = np.zeros(num_traces)
        self.cut_off_s = np.zeros(num_traces)
        """Seconds until the link is back; 0 while it is up."""

    def step(self) -> None:
        rng, region = self._rng, self._region
        noise = rng.normal(0, 0.1, len(self._all)) * self._cruise
        self.speed_mps = np.maximum(
            self.speed_mps + 0.1 * (self._cruise - self.speed_mps) + noise, 0
        )
        self._position += self.speed_mps * STEP_S
        # Shadowing changes with the way gone: it is half another after 14 metres.
        kept = np.exp(-np.maximum(self.speed_mps, 0.3) * STEP_S / 20)[:, None]
        fresh = rng.normal(0, region.shadowing_db, self._shadow.shape)
        self._shadow = kept * self._shadow + np.sqrt(1 - kept**2) * fresh
        signal = self._signal()
        self._choose_cell(signal)
        self.rsrp_dbm = signal[self._all, self._serving]
        self.neighbour_dbm = self._strongest_other(signal).max(axis=1)
        power = 10 ** (signal / 10)
        interference = (power.sum(axis=1) - power[self._all, self._serving]) * region.cell_load
        noise_power = 10 ** (_NOISE_DBM / 10)
        sinr = power[self._all, self._serving] / (interference + noise_power)
        self.sinr_db = np.clip(10 * np.log10(sinr), -10, 30)
        self._maybe_fail()

    def _signal(self) -> Float64Array:
        along = np.abs(self._position[:, None] - self._cells[None, :])
        distance: Float64Array = np.hypot(along, self._offset[:, None])
        # Fast fading is on top of the shadowing, new in every sample.
        fading = self._rng.normal(0, 1.0, distance.shape)
        signal: Float64Array = -50 - 35 * np.log10(distance / 10) + self._shadow + fading
        return signal

    def _strongest_other(self, signal: Float64Array) -> Float64Array:
        others: Float64Array = signal.copy()
        others[self._all, self._serving] = -np.inf
        return others

    def _choose_cell(self, signal: Float64Array) -> None:
        others = self._strongest_other(signal)
        best = np.argmax(others, axis=1)
        better = others[self._all, best] > signal[self._all, self._serving] + _HYSTERESIS_DB
        self._waited = np.where(better, self._waited + 1, 0)
        change = self._waited >= _PATIENCE_STEPS
        self._serving = np.where(change, best, self._serving)
        self._waited[change] = 0
        # A moving device needs longer to find its feet in the new cell.
        pause = 0.3 + 0.02 * self.speed_mps + self._rng.exponential(0.2, len(self._all))
        self.cut_off_s = np.maximum(self.cut_off_s - STEP_S, 0)
        self.cut_off_s[change] = np.maximum(self.cut_off_s, pause)[change]

    def _maybe_fail(self) -> None:
        size = len(self._all)
        fails = (self.sinr_db < _FAILURE_SINR_DB) & (self._rng.random(size) < 0.05)
        self.cut_off_s[fails] = self._rng.uniform(0.6, 2.5, size)[fails]


class _Traffic:
    """The queue behind the radio, and the round-trip time that it makes."""

    def __init__(self, region: Region, num_traces: int, rng: np.random.Generator) -> None:
        self._region, self._rng, self._size = region, rng, num_traces
        self._on = rng.random(num_traces) < region.burst_share
        self._load = np.full(num_traces, region.cell_load)
        self._queue_mbit = np.zeros(num_traces)

    def step(self, sinr_db: Float64Array, cut_off_s: Float64Array) -> Float64Array:
        """Return the round-trip time in ms."""
        rng, region = self._rng, self._region
        leave = 0.06  # a burst lasts three seconds or so
        enter = leave * region.burst_share / (1 - region.burst_share)
        draw = rng.random(self._size)
        self._on = np.where(self._on, draw >= leave, draw < enter)
        self._load += 0.05 * (region.cell_load - self._load) + rng.normal(0, 0.03, self._size)
        self._load = np.clip(self._load, 0.05, 0.95)
        spectral = np.log2(1 + 10 ** (sinr_db / 10))
        capacity_mbps = _BANDWIDTH_MHZ * spectral * (1 - self._load) + 0.5
        served = np.where(cut_off_s > 0, 0.0, capacity_mbps)
        offered = np.where(self._on, region.burst_mbps, 0.3) * rng.gamma(4, 0.25, self._size)
        self._queue_mbit = np.clip(self._queue_mbit + (offered - served) * STEP_S, 0, _BUFFER_MBIT)
        retries = rng.poisson(1 / (1 + np.exp((sinr_db - 2) / 2)))  # likelier the worse the signal
        rtt_ms = (
            region.base_ms
            + 1000 * (cut_off_s + self._queue_mbit / capacity_mbps)
            + 8.0 * retries
            + rng.gamma(2, 1.0, self._size)
        )
        clipped: Float64Array = np.minimum(rtt_ms, MAX_RTT_MS)
        return clipped
