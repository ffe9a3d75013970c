"""How figures are written for people: one form for the console, the live table and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_RATIOS = ("miou", "iou", "accuracy", "dice", "f1", "precision", "recall")
"""Words in the names of metrics in [0, 1] that people read in per cent."""

_LABELS = {"miou": "mIoU", "rmse": "RMSE", "mae": "MAE", "r2": "R2"}


def format_bytes(num_bytes: float) -> str:
    """Return a size with three digits and its unit, in powers of 1000: ``12.3 kB``."""
    value = num_bytes
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    # Digits, not significance: 99.96 is 100, as 999.6 is the next unit.
    digits = 0 if unit == "B" or value >= 99.95 else 1
    return f"{value:.{digits}f} {unit}"


def format_energy(joules: float) -> str:
    """Return an energy with three digits and its unit: ``12.3 J``, ``4.56 kJ``."""
    value = joules
    for unit in ("J", "kJ"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} MJ"


def format_duration(seconds: float) -> str:
    """Return ``6.1 s``, ``2 min 05 s`` or ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_loss(loss: float) -> str:
    """Return a loss with four digits, whatever its size: ``1.234``, ``0.0001234``."""
    return f"{loss:#.4g}"


def in_percent(metric: str) -> bool:
    """Tell whether a metric is a ratio that people read in per cent."""
    return any(word in _RATIOS for word in metric.lower().split("_"))


def percent_factor(metric: str, values: Iterable[float]) -> float:
    """Return what values of a metric are shown times: 100 for ratios, all of which are in [0, 1].

    Somebody's accuracy may be in per cent already.
    """
    return 100.0 if in_percent(metric) and all(0 <= value <= 1 for value in values) else 1.0


def format_metric(name: str, value: float) -> str:
    """Return a metric's value; those that people read in per cent times 100: ``41.2``."""
    if percent_factor(name, [value]) != 1:
        return f"{100 * value:.1f}"
    return f"{value:.4g}"


def metric_label(name: str) -> str:
    """Return a metric's name as people write it."""
    return _LABELS.get(name, name)


def main_metric(metrics: Mapping[str, float], preferred: str = "") -> str | None:
    """Return the name of the metric that heads tables: the preferred one, or the first."""
    if preferred in metrics:
        return preferred
    return next(iter(metrics), None)


def short_digest(digest: str) -> str:
    """Return as much of a digest as people compare by eye."""
    return digest[:6]
