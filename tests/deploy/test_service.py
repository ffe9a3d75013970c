"""The peer as a service: what it says to systemd, and the unit that starts it."""

from __future__ import annotations

import configparser
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from processes_support import LIMIT_S, ROOT, running

from semantic_net import cli
from semantic_net.commands.devices import HOME_VARIABLE

UNIT = ROOT / "deploy" / "semantic-net.service"


def service() -> dict[str, str]:
    unit = configparser.RawConfigParser(strict=False, comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[method-assign,assignment]  # systemd's keys have capitals
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    return dict(unit["Service"])


def test_a_peer_says_when_it_is_up_what_it_is_at_that_it_lives_and_that_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")  # the peer's process needs it
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(LIMIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        said: list[str] = []
        with running(tmp_path, 1, rounds=2, is_fresh=True) as [peer]:
            while "STOPPING=1" not in said:
                said += systemd.recv(4096).decode().splitlines()
            assert peer.wait() == 0, peer.said()
    assert "READY=1" in said
    assert "WATCHDOG=1" in said
    statuses = [line for line in said if line.startswith("STATUS=")]
    assert statuses[-2:] == ["STATUS=round 2/2: finished", "STATUS=stopping"]


def test_the_unit_starts_what_there_is() -> None:
    unit = service()
    program, command, *arguments = shlex.split(unit["ExecStart"])
    assert Path(program).name == "semantic-net"
    assert arguments.pop() == "$SEMANTIC_NET_FLAGS"
    parsed = cli._parser().parse_args([command, *arguments])
    assert parsed.run is cli._peer
    assert str(parsed.out).startswith(f"/var/lib/{unit['StateDirectory']}/")
    assert HOME_VARIABLE == "SEMANTIC_NET_HOME"
    assert f"{HOME_VARIABLE}=/var/lib/{unit['StateDirectory']}/" in UNIT.read_text()


def test_the_unit_knows_the_exit_codes() -> None:
    unit = service()
    assert unit["Type"] == "notify"
    assert unit["Restart"] == "on-failure"
    assert unit["RestartPreventExitStatus"] == str(cli.USAGE)
    assert unit["SuccessExitStatus"] == str(cli.INTERRUPTED)


def test_the_unit_hides_no_gpu() -> None:
    unit = service()
    assert {"video", "render"} <= set(unit["SupplementaryGroups"].split())
    hiding = ("PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock")
    assert not [key for key in (*hiding, "MemoryDenyWriteExecute") if key in unit]


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine"
)
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    # It asks that the program is there and who the user is; of that alone the copy differs.
    text = UNIT.read_text(encoding="utf-8")
    text = text.replace("/opt/semantic-net/bin/semantic-net", shutil.which("true") or "/bin/true")
    copy = tmp_path / UNIT.name
    copy.write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert complaints == []
    assert done.returncode == 0, done.stderr
