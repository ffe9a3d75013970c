"""status.json: written when it says something new, read whole or not at all; and in words."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest
from monitoring_support import PEERS, make_status

from semantic_net.errors import DataError
from semantic_net.monitoring.device import DeviceSensors
from semantic_net.monitoring.status_file import OFTEN_S, StatusFile, read_status
from semantic_net.monitoring.status_text import status_text
from semantic_net.status import DeviceVitals, LastRound, PeerStatus


def test_it_is_written_when_it_says_something_new_and_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    file = StatusFile(path)
    file.write(make_status(), 0.0)
    assert read_status(path) == make_status()
    file.write(make_status(phase_s=2.5, bytes_sent=99), 1.0)
    assert read_status(path) == make_status(), "what only counts up wears no disk out"
    file.write(make_status(round=4), 2.0)
    assert read_status(path) == make_status(round=4)
    file.write(make_status(round=4, phase_s=20.0), 2.0 + OFTEN_S)
    assert read_status(path) == make_status(round=4, phase_s=20.0)
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]


def test_a_folder_that_is_gone_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = StatusFile(tmp_path / "gone" / "status.json")
    with caplog.at_level(logging.WARNING, logger="semantic_net"):
        for number in range(3):
            file.write(make_status(round=number), float(number))
    assert len(caplog.records) == 1
    (tmp_path / "gone").mkdir()
    file.write(make_status(round=3), 3.0)
    assert read_status(tmp_path / "gone" / "status.json") is not None


def test_what_is_no_status(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert read_status(path) is None
    path.write_text('{"round": 1}')
    with pytest.raises(DataError, match=r"status\.json: no status of a peer"):
        read_status(path)


def test_in_words() -> None:
    last = LastRound(
        round=2, loss=0.5, metric="miou", value=0.25, bytes_sent=1, bytes_received=1, num_missing=0
    )
    waited = PeerStatus(
        peer=PEERS[1],
        name="jetson-2 (ijkl-mnop)",
        is_connected=True,
        is_alive=True,
        round=3,
        waited_for="it is training",
        bytes_per_s=125_000.0,
        last=last,
    )
    gone = PeerStatus(peer=PEERS[2], is_connected=False, is_alive=False, heard_s=12.0,
                      problem="Connection reset by peer")  # fmt: skip
    left = msgspec.structs.replace(gone, has_left=True)  # whatever its address says since
    status = make_status(
        peers=[waited, gone, left], num_peers=5, unmet={"10.0.0.9:5000": "No route to host"}
    )
    assert status_text(status).splitlines() == [
        "task disaster, run 'field': round 3 of 9, waiting for ijkl-mnop, at most 20 s more "
        "(for 1.5 s)",
        "sent 0 B, received 0 B since it started",
        "  jetson-2 (ijkl-mnop): connected, round 3, loss 0.5000, mIoU 25.0, 125 kB/s, "
        "waited for: it is training",
        f"  {PEERS[2]}: silent for 12.0 s, Connection reset by peer",
        f"  {PEERS[2]}: has left",
        "  and 2 more peers",
        "  10.0.0.9:5000: nobody has said hello there (No route to host)",
    ]
    assert "no other peer is known so far" in status_text(make_status())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_how_a_device_fares_is_what_its_sensors_say(tmp_path: Path) -> None:
    sysfs = tmp_path / "sys"
    rail = sysfs / "class/hwmon/hwmon1"
    for name, text in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000",
                       "curr1_input": "2000"}.items():  # fmt: skip
        write(rail / name, text)
    for name, kind, charge in (("BAT0", "Battery", "80"), ("BAT1", "Battery", "64"),
                               ("AC", "Mains", "1")):  # fmt: skip
        write(sysfs / f"class/power_supply/{name}/type", kind)
        write(sysfs / f"class/power_supply/{name}/capacity", charge)
    for index, degrees in enumerate(("51500", "48000", "-256000", "broken")):
        write(sysfs / f"class/thermal/thermal_zone{index}/temp", degrees)
    sensors = DeviceSensors(sysfs)
    assert sensors.read(10.0) == DeviceVitals(battery_percent=64.0, temperature_c=51.5)
    read = sensors.read(12.0)
    assert read is not None
    assert read.power_w == 10.0
    (rail / "in1_input").unlink()
    read = sensors.read(14.0)
    assert read is not None
    assert read.power_w is None


def test_a_device_that_tells_nothing(tmp_path: Path) -> None:
    assert DeviceSensors(tmp_path).read(1.0) is None
