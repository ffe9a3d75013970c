"""The machine: its Python, its clock, its memory, and which Jetson it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from semantic_net.config import Config
from semantic_net.extras import MODULES, how_to_install
from semantic_net.federated.doctor.finding import FAIL, OK, WARN, Finding
from semantic_net.monitoring.text import format_bytes

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)

RELEASE_YEAR = 2026
"""No clock that is set says less."""

MODELS_IN_MEMORY = 16
"""That a peer takes at most beside torch; tests/e2e/test_memory.py holds it to that."""

JETPACKS = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7}
"""NVIDIA's name of what Linux for Tegra comes with, by the release of the latter."""


WANTED: Mapping[str, tuple[str, Callable[[Config], bool]]] = {
    "privacy": (
        "privacy.noise_multiplier",
        lambda config: config.privacy.noise_multiplier is not None,
    ),
    "mdns": ("p2p.discovery", lambda config: config.p2p.discovery == "mdns"),
    "dashboard": (
        "monitoring.dashboard",
        lambda config: config.monitoring.dashboard is not None,
    ),
    "zenoh": ("p2p.transport", lambda config: config.p2p.transport == "zenoh"),
    "tracking": ("monitoring.tensorboard", lambda config: config.monitoring.tensorboard),
}
"""The key that asks for each extra, and whether it does."""


@dataclass(frozen=True, slots=True)
class Jetson:
    """What a Jetson says of itself."""

    model: str
    l4t: str | None = None
    """The release of Linux for Tegra, such as 36.4.3."""
    power_mode: str | None = None

    @property
    def jetpack(self) -> int | None:
        """Which JetPack it belongs to."""
        return None if self.l4t is None else JETPACKS.get(int(self.l4t.partition(".")[0]))


def check_python(version: tuple[int, int, int]) -> Finding:
    """Tell whether this Python is one that the project is tested with."""
    text = ".".join(map(str, version))
    known = f"{_dotted(OLDEST_PYTHON)} to {_dotted(NEWEST_PYTHON)}"
    if version[:2] < OLDEST_PYTHON:
        return Finding("python", FAIL, f"{text}, too old", f"use {known}")
    if version[:2] > NEWEST_PYTHON:
        return Finding("python", WARN, f"{text}, not tested", f"use {known}")
    return Finding("python", OK, text)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def check_clock(now: datetime) -> Finding:
    """Tell whether the clock is set; nothing that is checked here or there depends on it."""
    if now.year < RELEASE_YEAR:
        return Finding(
            "clock",
            WARN,
            f"not set: it says {now:%Y-%m-%d}",
            "set it (timedatectl), or logs and records show wrong times; peers meet all the same",
        )
    return Finding("clock", OK, f"{now:%Y-%m-%d %H:%M}")


def check_extras(config: Config, is_installed: Callable[[str], bool]) -> Finding:
    """Tell whether the packages are there that the configuration asks for."""
    wanted = [name for name, (_, is_wanted) in WANTED.items() if is_wanted(config)]
    missing = {
        name: modules
        for name in wanted
        if (modules := [each for each in MODULES[name] if not is_installed(each)])
    }
    if missing:
        text = ", ".join(f"{WANTED[n][0]} needs {' and '.join(m)}" for n, m in missing.items())
        return Finding("extras", FAIL, text, how_to_install(*missing))
    return Finding("extras", OK, ", ".join(wanted) or "none asked for")


def find_jetson(root: Path) -> Jetson | None:
    """Return which Jetson this is, from the files of its system; None on another machine."""
    release = _read(root / "etc/nv_tegra_release")
    model = _read(root / "proc/device-tree/model").rstrip("\0").strip()
    is_known = any(word in model.lower() for word in ("jetson", "tegra", "orin nano", "thor"))
    if not release and not is_known:
        return None
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", release)
    l4t = f"{found[1]}.{found[2]}" if found else None
    return Jetson(model or "an unnamed Jetson", l4t, _power_mode(root))


def _power_mode(root: Path) -> str | None:
    number = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status"))
    if number is None:
        return None
    mode = int(number[1])
    named = re.search(
        rf"<\s*POWER_MODEL\s+ID={mode}\s+NAME=(\S+)\s*>", _read(root / "etc/nvpmodel.conf")
    )
    return named[1] if named else f"number {mode}"


def check_machine(machine: str, cores: int, jetson: Jetson | None) -> Finding:
    """Say which machine this is.

    Args:
        machine: Its architecture, as ``uname -m`` has it.
        cores: Of its processor that may be used.
        jetson: What it is, if it is one.
    """
    parts = [machine, f"{cores} core{'s' * (cores != 1)}"]
    if jetson is None:
        return Finding("machine", OK, ", ".join(parts))
    parts.insert(0, jetson.model)
    if jetson.l4t is not None:
        pack = "" if jetson.jetpack is None else f" (JetPack {jetson.jetpack})"
        parts.append(f"L4T {jetson.l4t}{pack}")
    if jetson.power_mode is not None:
        parts.append(f"power mode {jetson.power_mode}")
    if machine != "aarch64":
        text = ", ".join(parts)
        return Finding("machine", WARN, text, "a Jetson is aarch64: is this Python emulated?")
    return Finding("machine", OK, ", ".join(parts))


def check_memory(root: Path, num_parameters: int | None) -> Finding:
    """Tell whether a peer's model has room in memory, beside torch and data that are there.

    Args:
        root: Of the system's files.
        num_parameters: Of the model; None where it is not known.
    """
    found = _meminfo(root)
    if "MemAvailable" not in found:
        return Finding("memory", WARN, "this system does not say how much is free")
    free, swap = found["MemAvailable"], found.get("SwapFree", 0)
    text = f"{format_bytes(free)} free of {format_bytes(found.get('MemTotal', free))}"
    if num_parameters is None:
        return Finding("memory", OK, text)
    needed = MODELS_IN_MEMORY * 4 * num_parameters
    text += (
        f"; {MODELS_IN_MEMORY} times the model, the most that a peer takes: {format_bytes(needed)}"
    )
    if needed > free + swap:
        return Finding("memory", FAIL, text, "end other programs, or take a smaller model")
    if needed > free:
        return Finding("memory", WARN, text, "it would swap: end other programs")
    return Finding("memory", OK, text)


def check_swap(root: Path) -> Finding:
    """Say how much swap there is; a device does well without."""
    found = _meminfo(root)
    total = found.get("SwapTotal", 0)
    if not total:
        return Finding("swap", OK, "none")
    return Finding(
        "swap", OK, f"{format_bytes(found.get('SwapFree', 0))} free of {format_bytes(total)}"
    )


def _meminfo(root: Path) -> dict[str, int]:
    """Return what Linux says of memory, in bytes."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    return {name: 1024 * int(number) for name, number in lines}


def _read(path: Path) -> str:
    """Return a small file of the system; nothing where it has none, or keeps it to itself."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
