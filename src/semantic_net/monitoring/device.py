"""How this device fares, where it tells: power, battery, temperature, from sysfs."""

from __future__ import annotations

import logging
from pathlib import Path

from semantic_net.monitoring.energy import sensors
from semantic_net.status import DeviceVitals

log = logging.getLogger(__name__)


class DeviceSensors:
    """Reads them when asked; what cannot be read (any more) is None."""

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        """Find what this device has."""
        self._energy = sensors(sysfs)
        self._read_at: float | None = None
        supplies = sorted((sysfs / "class/power_supply").glob("*"))
        self._batteries = [each for each in supplies if _text(each / "type") == "Battery"]
        self._zones = sorted((sysfs / "class/thermal").glob("thermal_zone*/temp"))

    def read(self, now: float) -> DeviceVitals | None:
        """Return how the device fares; None where it tells nothing.

        Args:
            now: Seconds of any clock: power is the mean since the call before.
        """
        found = DeviceVitals(
            power_w=self._power(now),
            battery_percent=_least(self._batteries),
            temperature_c=_highest(self._zones),
        )
        return None if found == DeviceVitals() else found

    def _power(self, now: float) -> float | None:
        try:
            joules = sum(sensor.add(now) for sensor in self._energy)
        except (OSError, ValueError) as exc:
            log.debug("power is not measured any more: %s", exc)
            self._energy = []
        if not self._energy:
            return None
        before, self._read_at = self._read_at, now
        return None if before is None or now <= before else round(joules / (now - before), 2)


def _least(batteries: list[Path]) -> float | None:
    charges = [_number(battery / "capacity") for battery in batteries]
    return min((charge for charge in charges if charge is not None), default=None)


def _highest(zones: list[Path]) -> float | None:
    """Return degrees Celsius; a zone without power says something below any that there are."""
    told = [_number(zone) for zone in zones]
    degrees = [each / 1000 for each in told if each is not None and each > -40_000]
    return round(max(degrees), 1) if degrees else None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
