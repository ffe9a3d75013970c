"""Energy is what a device's sensors say, added up; where they say nothing, nothing is claimed."""

from __future__ import annotations

from pathlib import Path

import pytest

from semantic_net.monitoring.energy import EnergyMeter, sensors


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def test_a_device_without_sensors_tells_nothing(tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    meter.sample(0.0)
    assert meter.joules is None


def test_counters_are_added_up_also_where_one_begins_anew(tmp_path: Path) -> None:
    zones = [
        write(
            tmp_path / f"class/powercap/intel-rapl:{n}",
            energy_uj=5_000_000,
            max_energy_range_uj=9_000_000,
        )
        for n in (0, 1)
    ]
    write(tmp_path / "class/powercap/intel-rapl:0:0", energy_uj=77)  # a part of zone 0
    meter = EnergyMeter(tmp_path)
    meter.sample(0.0)
    write(zones[0], energy_uj=8_000_000)
    write(zones[1], energy_uj=6_500_000)
    meter.sample(1.0)
    assert meter.joules == pytest.approx(3 + 1.5)
    write(zones[0], energy_uj=1_000_000)  # over the limit, and on
    meter.sample(2.0)
    assert meter.joules == pytest.approx(3 + 1.5 + 2)


def test_what_counts_for_the_whole_machine_is_not_added_to_its_parts(tmp_path: Path) -> None:
    parts = tmp_path / "class/powercap/intel-rapl:0", tmp_path / "class/powercap/intel-rapl:1"
    write(parts[0], name="package-0", energy_uj=0)
    write(parts[1], name="psys", energy_uj=0)
    meter = EnergyMeter(tmp_path)
    meter.sample(0.0)
    write(parts[0], energy_uj=10_000_000)
    write(parts[1], energy_uj=15_000_000)
    meter.sample(1.0)
    assert meter.joules == pytest.approx(15)


def rail(number: int, label: str, millivolts: int, milliamperes: int) -> dict[str, object]:
    return {
        f"in{number}_label": label,
        f"in{number}_input": millivolts,
        f"curr{number}_input": milliamperes,
    }


def test_power_is_integrated_over_time(tmp_path: Path) -> None:
    chip = write(tmp_path / "class/hwmon/hwmon1", name="ina3221", **rail(1, "VDD_IN", 5000, 2000))
    write(chip, **rail(2, "VDD_CPU_GPU_CV", 5000, 900), in4_label="sum of shunt voltages")
    write(tmp_path / "class/hwmon/hwmon0", name="acpitz", temp1_input=40_000)
    meter = EnergyMeter(tmp_path)
    meter.sample(10.0)
    write(chip, curr1_input=4000)
    meter.sample(12.0)
    assert meter.joules == pytest.approx(2 * (10 + 20) / 2)  # VDD_IN alone: it supplies the other


def test_without_a_rail_that_supplies_all_the_rails_are_added_up(tmp_path: Path) -> None:
    write(
        tmp_path / "class/hwmon/hwmon1",
        name="ina3221",
        **rail(1, "VDD_GPU_SOC", 20_000, 1000),
        **rail(2, "VDD_CPU_CV", 20_000, 500),
        **rail(3, "NC", 20_000, 9000),
    )
    write(tmp_path / "class/hwmon/hwmon2", name="ina3221", **rail(1, "VIN_SYS_5V0", 5000, 1000))
    meter = EnergyMeter(tmp_path)
    meter.sample(0.0)
    meter.sample(1.0)
    assert meter.joules == pytest.approx(20 + 10 + 5)


def test_a_sensor_that_fails_ends_the_measurement(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zone = write(tmp_path / "class/powercap/intel-rapl:0", energy_uj=1)
    meter = EnergyMeter(tmp_path)
    meter.sample(0.0)
    (zone / "energy_uj").unlink()
    meter.sample(1.0)
    assert meter.joules is None
    assert "energy is not measured any more" in caplog.text


def test_a_counter_that_may_not_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").mkdir(parents=True)
    assert sensors(tmp_path) == []


def test_a_meter_measures_while_it_is_open(tmp_path: Path) -> None:
    zone = write(tmp_path / "class/powercap/intel-rapl:0", energy_uj=1_000_000)
    with EnergyMeter(tmp_path) as meter:
        write(zone, energy_uj=3_000_000)
    assert meter.joules == pytest.approx(2)
