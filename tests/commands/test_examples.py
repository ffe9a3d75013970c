"""What each command's help gives as an example does what it says, on a small scale.

Every example is a line that the parser takes; one of each command is run as it stands, with flags
that make it small behind it.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes_support import ROOT, PeerProcess, free_ports

from semantic_net import cli
from semantic_net.cli import COMMANDS, main

DEMO_TASK = ROOT / "tests" / "federated" / "demo_task.py"
TINY = {
    "task.name": "disaster",
    "task.disaster.base_channels": "4",
    "task.disaster.depth": "2",
    "data.num_train": "2",
    "data.num_val": "1",
    "task.disaster.tile_size": "32",
    "training.batch_size": "2",
    "training.num_threads": "1",
}
SMALL = {**TINY, "training.steps": "1"}
ALONE = {"p2p.start_timeout_s": "0.2", "p2p.listen_timeout_s": "0.5"}


def sets(overrides: dict[str, str]) -> list[str]:
    return [flag for key, value in overrides.items() for flag in ("--set", f"{key}={value}")]


def examples(command: str) -> list[list[str]]:
    """Return the words of each example, without the program's name and what a shell adds."""
    text, _ = COMMANDS[command]
    lines = re.findall(r"^  semantic-net (.*)$", text.partition("Examples:")[2], re.MULTILINE)
    return [shlex.split(line.partition(" || ")[0]) for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the configurations, two runs, and a photo."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(ROOT / "configs", place / "configs")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
    Image.fromarray(pixels).save(place / "photo.jpg")
    field = place / "runs" / "field"
    flags = ["--listen", "127.0.0.1:0", "--rounds", "1", "--out", str(field), "--quiet"]
    assert main(["peer", *flags, *sets({**SMALL, **ALONE})]) == 0
    for index in (1, 2):
        shutil.copytree(field, place / "runs" / "demo" / f"peer{index}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("SEMANTIC_NET_HOME", str(place / "home"))
        yield place


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_is_one_that_the_command_takes(command: str) -> None:
    assert examples(command)
    for words in examples(command):
        parsed = cli._parser().parse_args(words)
        assert parsed.command.prog == f"semantic-net {command}"


@pytest.mark.parametrize(
    ("command", "index", "more", "code"),
    [
        ("peer", 1, ["--listen", "127.0.0.1:0", *sets({**SMALL, **ALONE})], 0),
        (
            "demo",
            1,
            ["--out", "runs/new", "--rounds", "1", *sets({"task.name": str(DEMO_TASK)})],
            0,
        ),
        ("single", 0, ["--out", "runs/single", *sets(TINY)], 0),
        ("simulate", 0, ["--workers", "1", *sets(SMALL)], 0),
        ("compare", 2, [], 0),
        ("status", 0, [], 1),
        ("report", 0, [], 0),
        ("doctor", 2, ["--listen", "127.0.0.1:0", "--out", "runs/other", *sets(SMALL)], 0),
        ("evaluate", 0, [], 0),
        ("predict", 0, [], 0),
        ("export", 0, [], 0),
        ("id", 1, [], 0),
        ("peers", 0, [], 0),
    ],
)
def test_an_example_is_run(
    place: Path, command: str, index: int, more: list[str], code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for extra in {"report": ["matplotlib"], "export": ["onnx", "onnxruntime"]}.get(command, []):
        pytest.importorskip(extra)
    assert main([*examples(command)[index], *more]) == code, capsys.readouterr().err
    printed = capsys.readouterr().out
    left = {
        "demo": "figures.json",
        "report": "runs/demo/report/report.html",
        "predict": "predictions/photo_overlay.png",
        "export": "runs/demo/peer1/model.onnx",
        "single": "runs/single/summary.json",
    }
    assert printed or command in left
    if command in left:
        assert (place / left[command]).exists()


def test_devices_are_paired_and_revoked_as_the_examples_say(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["id", "--folder", str(place / "other")]) == 0
    found = re.search(r"semantic-net:\S+", capsys.readouterr().out)
    assert found is not None
    pair, revoke = examples("pair")[1], examples("revoke")[1]
    assert main([found[0] if word == "semantic-net:..." else word for word in pair]) == 0
    assert main(revoke) == 0


def test_a_server_and_a_client_are_run(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    [port] = free_ports(1)
    _, *server = examples("server")[0]
    _, *client = examples("client")[0]
    small = [*sets(SMALL), "--rounds", "1"]
    own = ["--host", "127.0.0.1", "--port", str(port), "--clients", "1"]
    one = PeerProcess(tmp_path / "server", [*in_place(server), *small, *own], command="server")
    where = ["--server", f"127.0.0.1:{port}"]
    two = PeerProcess(tmp_path / "client", [*in_place(client), *small, *where], command="client")
    try:
        assert [two.wait(), one.wait()] == [0, 0], one.said() + two.said()
    finally:
        two.kill()
        one.kill()


def in_place(words: list[str]) -> list[str]:
    """Return words of which those that name a configuration name the repository's."""
    return [str(ROOT / word) if word.startswith("configs/") else word for word in words]
