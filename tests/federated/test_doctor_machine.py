"""What the doctor says of machines that are made up: their files lie below a folder."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import sys
from collections import namedtuple
from datetime import datetime
from pathlib import Path

import pytest

from semantic_net.config import Config, MonitoringConfig, P2PConfig, PrivacyConfig
from semantic_net.extras import MODULES
from semantic_net.federated.doctor.examine import own_peer
from semantic_net.federated.doctor.finding import (
    FAIL,
    OK,
    WARN,
    Finding,
    duration,
    would_work,
)
from semantic_net.federated.doctor.folder import MODELS_ON_DISK, check_disk, check_out
from semantic_net.federated.doctor.machine import (
    JETPACKS,
    MODELS_IN_MEMORY,
    WANTED,
    Jetson,
    check_clock,
    check_extras,
    check_machine,
    check_memory,
    check_python,
    check_swap,
    find_jetson,
)
from semantic_net.federated.doctor.torch_check import (
    TorchFacts,
    check_gpu,
    check_torch,
    look_at_torch,
)

ORIN = Jetson("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "MAXN_SUPER")
CPU = TorchFacts("2.5.0", 2.5)
CUDA = TorchFacts("2.5.0", 2.5, "12.6", "Orin", (8, 7))


def test_a_finding_is_one_line_with_what_to_do() -> None:
    found = Finding("port", FAIL, "it is busy", "choose another")
    assert found.line == "FAIL  port: it is busy; choose another"
    assert Finding("clock", OK, "2026").line == "ok    clock: 2026"


def test_warnings_do_not_fail() -> None:
    assert would_work([Finding("a", OK, ""), Finding("b", WARN, "")])
    assert not would_work([Finding("a", OK, ""), Finding("b", FAIL, "")])


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 9, 9), FAIL), ((3, 10, 0), OK), ((3, 13, 2), OK), ((3, 14, 0), WARN)],
)
def test_python(version: tuple[int, int, int], level: str) -> None:
    assert check_python(version).level == level


def test_a_clock_that_is_not_set_is_a_warning() -> None:
    assert check_clock(datetime(1970, 1, 1, 0, 3)).level == WARN
    assert check_clock(datetime(2031, 5, 6, 7, 8)) == Finding("clock", OK, "2031-05-06 07:08")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (0.9999, "1.0 s"), (120, "2 min 00 s"), (4100, "1 h 08 min")],
)
def test_times_as_people_read_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_extra_that_is_asked_for_and_missing() -> None:
    private = Config(privacy=PrivacyConfig(noise_multiplier=1.0))
    missing = check_extras(private, lambda module: False)
    assert missing.level == FAIL
    assert missing.text == "privacy.noise_multiplier needs opacus"
    assert missing.hint == "pip install 'semantic-net[privacy]'"
    assert check_extras(private, lambda module: module == "opacus").level == OK
    assert check_extras(Config(), lambda module: False).level == OK
    watched = Config(
        p2p=P2PConfig(discovery="mdns"),
        monitoring=MonitoringConfig(dashboard="8080", tensorboard=True),
    )
    missing = check_extras(watched, lambda module: module == "zeroconf")
    assert missing.text == (
        "p2p.discovery needs ifaddr, monitoring.dashboard needs starlette and uvicorn, "
        "monitoring.tensorboard needs tensorboard"
    )
    assert missing.hint == "pip install 'semantic-net[mdns,dashboard,tracking]'"


def test_extras_are_those_that_can_be_installed() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert WANTED.keys() == MODULES.keys() - {"simulation"}  # no key asks for that, but a flag
    for extra, modules in MODULES.items():
        [packages] = re.findall(rf"^{extra} = \[(.*)\]$", text, re.MULTILINE)
        names = re.findall(r'"(?:eclipse-)?(\w+)', packages)  # of zenoh's one the rest is imported
        assert sorted(names) == sorted(modules)


# A Jetson.


def jetson(root: Path, release: str, model: str = "") -> Path:
    """Make up the files by which a Jetson is known."""
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text(release)
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_text(f"{model}\0")
    return root


ORIN_RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n"
)
MODES = "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"


def test_a_jetson_with_its_power_mode(tmp_path: Path) -> None:
    root = jetson(tmp_path, ORIN_RELEASE, ORIN.model)
    assert find_jetson(root) == Jetson(ORIN.model, "36.4.3", None)
    (root / "var/lib/nvpmodel").mkdir(parents=True)
    (root / "var/lib/nvpmodel/status").write_text("pmode:0002\n")
    found = find_jetson(root)
    assert found == Jetson(ORIN.model, "36.4.3", "number 2")
    (root / "etc/nvpmodel.conf").write_text(MODES)
    found = find_jetson(root)
    assert found == ORIN
    assert found.jetpack == 6
    text = check_machine("aarch64", 6, found).text
    assert text == (
        "NVIDIA Jetson Orin Nano Developer Kit, aarch64, 6 cores, L4T 36.4.3 (JetPack 6), "
        "power mode MAXN_SUPER"
    )


@pytest.mark.parametrize("release", ["", "something else\n"])
def test_a_jetson_that_says_little_of_itself(tmp_path: Path, release: str) -> None:
    found = find_jetson(jetson(tmp_path, release, "NVIDIA Jetson Nano Developer Kit"))
    assert found == Jetson("NVIDIA Jetson Nano Developer Kit")
    assert found.jetpack is None


def test_every_known_release_has_its_jetpack() -> None:
    assert {Jetson("", f"{l4t}.1").jetpack for l4t in JETPACKS} == set(JETPACKS.values())
    assert Jetson("", "99.1").jetpack is None


def test_another_machine_is_no_jetson(tmp_path: Path) -> None:
    assert find_jetson(tmp_path) is None
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B\0")
    assert find_jetson(tmp_path) is None
    assert check_machine("x86_64", 1, None) == Finding("machine", OK, "x86_64, 1 core")


def test_a_jetson_whose_python_is_of_another_machine() -> None:
    assert check_machine("x86_64", 6, ORIN).level == WARN


# Memory.

MEMINFO = (
    "MemTotal: 8000000 kB\nMemAvailable: {free} kB\nSwapTotal: {swap} kB\nSwapFree: {swap} kB\n"
)


@pytest.mark.parametrize(
    ("free_kib", "swap_kib", "level"),
    [(62_500, 0, OK), (62_499, 1, WARN), (62_499, 0, FAIL), (0, 62_500, WARN)],
)
def test_memory_against_what_a_peer_takes(
    tmp_path: Path, free_kib: int, swap_kib: int, level: str
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO.format(free=free_kib, swap=swap_kib))
    parameters = 1_000_000
    assert MODELS_IN_MEMORY * 4 * parameters == 1024 * 62_500
    assert check_memory(tmp_path, parameters).level == level
    assert check_memory(tmp_path, None).level == OK
    assert check_swap(tmp_path).text.startswith(("none", "64.0 MB free of 64.0 MB", "1.0 kB free"))


def test_memory_of_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert check_memory(tmp_path, 1).level == WARN
    assert check_swap(tmp_path).text == "none"


# The folder.


def test_a_folder_that_is_not_made_yet_is_not_made(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "device"
    assert check_out(out) == Finding("out", OK, f"{out} (not made yet)")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_a_peer_runs(tmp_path: Path) -> None:
    lock = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        assert check_out(tmp_path).level == OK
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = check_out(tmp_path)
        assert (found.level, found.text) == (FAIL, f"another peer runs in {tmp_path}")
    finally:
        os.close(lock)
    assert check_out(tmp_path).level == OK, "it was not held on to"


def test_a_folder_that_the_system_does_not_let_one_look_at(tmp_path: Path) -> None:
    """As below another user's; a name that is too long stands for it, since root may look there."""
    out = tmp_path / ("x" * 300)
    assert check_out(out).level == FAIL
    assert check_disk(out, 1, None).level == OK
    assert own_peer(out) is None


def test_a_folder_with_a_checkpoint_says_that_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    assert "goes on from there" in check_out(tmp_path).text


def test_what_is_no_folder_or_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert check_out(file).level == FAIL
    assert check_out(file / "below").level == FAIL

    def read_only(**settings: object) -> None:  # rights do not keep root out
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    found = check_out(tmp_path)
    assert (found.level, found.text) == (
        FAIL,
        f"{tmp_path} cannot be written: Read-only file system",
    )


@pytest.mark.parametrize(("missing", "level"), [(0, OK), (1, WARN), (1001, FAIL)])
def test_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, level: str
) -> None:
    usage = namedtuple("usage", "total used free")
    parameters, budget = 100, 1000
    free = MODELS_ON_DISK * 4 * parameters + budget - missing
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, free))
    assert check_disk(tmp_path / "new", budget, parameters).level == level


def test_a_disk_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    assert check_disk(tmp_path, 1, 1).level == WARN


# torch.


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


def test_the_torch_that_is_here() -> None:
    pytest.importorskip("torch")
    found = look_at_torch()
    assert isinstance(found, TorchFacts)
    assert found.import_s > 0
    assert check_torch(found).level == OK
    assert found.version in check_torch(found).text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise ImportError('libcudart.so.12: cannot open')", "libcudart.so.12: cannot open"),
        ("import os; os.kill(os.getpid(), 4)", f"({signal.Signals.SIGILL.name})"),
        ("print('hello')", "nobody asked for"),
        ("", "nobody asked for"),
        ("raise SystemExit(1)", "no reason given"),
    ],
)
def test_a_torch_that_cannot_be_imported(code: str, text: str) -> None:
    found = look_at_torch(python(code))
    assert isinstance(found, Finding)
    assert found.level == FAIL
    assert text in found.text


def test_a_torch_that_hangs() -> None:
    found = look_at_torch(python("import signal; signal.pause()"), limit_s=0.5)
    assert found == Finding(
        "torch", FAIL, "its import takes over 0.5 s", "is the disk broken, or the GPU's driver?"
    )


def test_a_torch_that_takes_a_minute_is_a_warning() -> None:
    assert check_torch(TorchFacts("2.5.0", 75.0)).level == WARN


@pytest.mark.parametrize(
    ("facts", "wanted", "machine", "level"),
    [
        (CPU, "auto", None, OK),
        (CPU, "auto", ORIN, WARN),
        (CPU, "cpu", ORIN, OK),
        (CPU, "cuda", ORIN, FAIL),
        (CPU, "cuda:0", None, FAIL),
        (CUDA, "auto", ORIN, OK),
        (CUDA, "cpu", ORIN, OK),
    ],
)
def test_the_gpu(facts: TorchFacts, wanted: str, machine: Jetson | None, level: str) -> None:
    found = check_gpu(facts, wanted, machine)
    assert found.level == level
    assert ("NVIDIA's own torch" in found.hint) == (machine is not None and level != OK)


def test_a_gpu_for_which_torch_was_not_built() -> None:
    facts = TorchFacts("2.5.0", 2.5, "12.6", "Orin", (8, 7), "no kernel image is available")
    found = check_gpu(facts, "auto", ORIN)
    assert found.level == FAIL
    assert found.text == (
        "Orin, compute capability 8.7, and it cannot be used: no kernel image is available"
    )
    assert check_gpu(facts, "cpu", ORIN).level == WARN
