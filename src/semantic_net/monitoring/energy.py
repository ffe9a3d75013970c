"""How much energy this device takes, where it tells: what its sensors in sysfs say, added up.

Two kinds are known. A counter of joules (RAPL, of Intel's and AMD's processors; the kernel shows it
to root alone) is read now and then, before it begins anew. Voltage and current (INA3221, on
Jetsons) are multiplied, and integrated over time. It is the whole device's energy, whatever runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

log = logging.getLogger(__name__)

SAMPLE_S = 0.5
"""Seconds between two looks at the sensors."""

_WHOLE = ("VDD_IN",)
"""Rails that supply all others of a module; where there is none, the rails are added up."""

_UNUSED = ("NC", "")


class Sensor(Protocol):
    """Something that tells of energy."""

    def add(self, now: float) -> float:
        """Return the joules since the last call; the first one begins.

        Raises:
            OSError: It cannot be read (any more).
            ValueError: It does not say a number.
        """


@dataclass(slots=True)
class _Counter:
    """Joules since some time; begins anew at a limit."""

    path: Path
    _last: int | None = None

    def add(self, now: float) -> float:
        value, last = _number(self.path), self._last
        self._last = value
        if last is None:
            return 0.0
        if value < last:
            value += _number(self.path.with_name("max_energy_range_uj"))
        return (value - last) / 1e6


@dataclass(slots=True)
class _Rails:
    """Volts and amperes of some supply rails."""

    rails: Sequence[tuple[Path, Path]]
    _last: tuple[float, float] | None = field(default=None)

    def add(self, now: float) -> float:
        watts = sum(_number(volts) * _number(amperes) / 1e6 for volts, amperes in self.rails)
        last, self._last = self._last, (now, watts)
        return 0.0 if last is None else (now - last[0]) * (watts + last[1]) / 2


class EnergyMeter:
    """Measures while it is open; a context manager."""

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        """Find this device's sensors, if it has any that we may read."""
        self._sensors = sensors(sysfs)
        self._joules = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)

    def __enter__(self) -> EnergyMeter:
        self.sample(time.monotonic())
        if self._sensors:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.sample(time.monotonic())

    @property
    def joules(self) -> float | None:
        """Since it was opened; None where the device does not tell."""
        return self._joules if self._sensors else None

    def sample(self, now: float) -> None:
        """Read the sensors; one that fails ends the measurement, since a part would mislead."""
        with self._lock:
            try:
                self._joules += sum(sensor.add(now) for sensor in self._sensors)
            except (OSError, ValueError) as exc:
                log.warning("energy is not measured any more: %s", exc)
                self._sensors = []

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.sample(time.monotonic())


def sensors(sysfs: Path) -> list[Sensor]:
    """Return the sensors that together tell of the whole device; none where it has none."""
    rails = _rails(sysfs / "class/hwmon")
    if rails:
        return [_Rails(rails)]
    found: list[Sensor] = []
    zones = [
        zone
        for zone in sorted((sysfs / "class/powercap").glob("intel-rapl:*"))
        if zone.name.count(":") == 1  # more are parts of another zone
    ]
    # One named psys is of all that is in the machine, and has the packages in it.
    for zone in [zone for zone in zones if _text(zone / "name") == "psys"] or zones:
        try:
            _number(zone / "energy_uj")
        except (OSError, ValueError) as exc:
            log.debug("no energy from %s: %s", zone, exc)
            return []
        found.append(_Counter(zone / "energy_uj"))
    return found


def _rails(hwmon: Path) -> list[tuple[Path, Path]]:
    """Return where the volts and amperes of the rails stand that supply the whole device."""
    named: list[tuple[str, tuple[Path, Path]]] = []
    for chip in sorted(hwmon.glob("hwmon*")):
        if _text(chip / "name") != "ina3221":
            continue
        for label in sorted(chip.glob("in*_label")):
            number = label.name[len("in") : -len("_label")]
            rail = chip / f"in{number}_input", chip / f"curr{number}_input"
            name = _text(label)
            if name not in _UNUSED and all(path.exists() for path in rail):
                named.append((name, rail))
    whole = [rail for name, rail in named if name in _WHOLE]
    return whole or [rail for _, rail in named]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
