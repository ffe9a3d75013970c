"""What the files for containers name is there: no engine builds them here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes_support import ROOT

from semantic_net import cli
from semantic_net.commands.devices import HOME_VARIABLE
from semantic_net.config import load_config

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
STATE = "/var/lib/semantic-net"


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile: name and rest."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in whole.split("\n"))]


def args() -> dict[str, str]:
    pairs = [rest.partition("=") for name, rest in instructions() if name == "ARG"]
    return {name: value.strip('"') for name, _, value in pairs}


@pytest.fixture
def peer() -> dict[str, Any]:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"peer"}
    service: dict[str, Any] = compose["services"]["peer"]
    named = [volume.partition(":")[0] for volume in service["volumes"] if volume[0] not in "./$"]
    assert named == list(compose["volumes"])
    return service


def test_what_is_copied_is_there_and_is_all_that_a_wheel_needs() -> None:
    copied = [name for verb, rest in instructions() if verb == "COPY" for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied), copied
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'^(?:readme|license) = .*?"([^"]+)"', project, re.MULTILINE)
    assert {"pyproject.toml", "src", "constraints.txt", *named} <= set(copied)
    [install] = [rest for verb, rest in instructions() if verb == "RUN"]
    for script in re.findall(r"python3 (\S+\.py)", install):
        assert script in copied


def test_the_image_starts_a_peer_that_keeps_its_state_in_the_volume() -> None:
    found = dict(instructions())
    [program], command = json.loads(found["ENTRYPOINT"]), json.loads(found["CMD"])
    assert program == "semantic-net"
    parsed = cli._parser().parse_args(command)
    assert parsed.run is cli._peer
    assert found["VOLUME"] == STATE
    assert str(parsed.out).startswith(f"{STATE}/")
    assert f"{HOME_VARIABLE}={STATE}/" in found["ENV"]
    assert found["USER"] == "semantic-net"
    assert found["EXPOSE"] == str(load_config(None, []).p2p.port)


def test_every_argument_that_is_given_is_taken(peer: dict[str, Any]) -> None:
    assert set(re.findall(r"--build-arg ([A-Z_]+)=", DOCKERFILE)) <= set(args())
    build = peer["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).read_text(encoding="utf-8") == DOCKERFILE
    defaults = {
        name: re.fullmatch(rf"\$\{{{name}:-(.*)}}", value) for name, value in build["args"].items()
    }
    assert {name: found and found[1] for name, found in defaults.items()} == args()


def test_the_composition_starts_the_same_peer(peer: dict[str, Any]) -> None:
    assert peer["command"] == json.loads(dict(instructions())["CMD"])
    mounts = {volume.rsplit(":ro", 1)[0].rpartition(":")[2]: volume for volume in peer["volumes"]}
    assert set(mounts) == {STATE, "/etc/semantic-net/peer.yaml", "/data"}
    assert mounts["/data"].endswith(":ro")
    assert not mounts[STATE].endswith(":ro")
    assert peer["network_mode"] == "host"
    assert peer["runtime"] == "nvidia"


def test_its_health_is_what_a_command_says_of_its_folder(peer: dict[str, Any]) -> None:
    kind, program, *command = peer["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "semantic-net")
    parsed = cli._parser().parse_args(command)
    assert parsed.run.__name__ == "_status"
    assert parsed.folder == Path(peer["command"][-1])


def test_the_example_of_a_peer_is_a_valid_configuration(peer: dict[str, Any]) -> None:
    [volume] = [v for v in peer["volumes"] if v.endswith("/etc/semantic-net/peer.yaml:ro")]
    [default] = re.findall(r"^\$\{PEER_CONFIG:-(.*?)}", volume)
    config = load_config(DEPLOY / default, [])
    assert len(config.p2p.peers) == 2
    assert config.p2p.run != load_config(None, []).p2p.run
