"""docs/jetson.md names what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from processes_support import ROOT

from semantic_net.cli import COMMANDS
from semantic_net.config import load_config

GUIDE = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
SERVICE = (ROOT / "deploy" / "semantic-net.service").read_text(encoding="utf-8")


def test_every_link_and_every_file_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", GUIDE):
        assert (ROOT / "docs" / target).exists(), target
    for name in re.findall(r"(?:deploy|tools|configs)/[a-z_.-]+\.(?:yaml|service|py)", GUIDE):
        assert (ROOT / name).exists(), name


def test_every_command_and_every_key_is_one() -> None:
    named = re.findall(r"\bsemantic-net (status|id|pair|peers|[a-z]+) [/a-z]", GUIDE)
    assert {"status"} <= set(named) <= {*COMMANDS, "pair"} | {"says", "finds"}
    base = (ROOT / "configs" / "base.yaml").read_text(encoding="utf-8")
    for section, key in re.findall(r"`(p2p|training|data)\.([a-z_]+)`", GUIDE):
        assert f"\n  {key}:" in base
        assert hasattr(getattr(load_config(None, []), section), key)


def test_every_path_is_that_of_the_unit() -> None:
    paths = set(re.findall(r"/(?:opt|etc|var/lib)/semantic-net(?:/[a-z.]+)*", GUIDE))
    for path in paths - {"/opt/semantic-net", "/opt/semantic-net/bin/python"}:
        assert path.removesuffix("/log.txt") in SERVICE, path


def test_every_image_is_that_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    images = re.findall(r"nvcr\.io/[a-z0-9/.:-]+", GUIDE)
    assert len(images) >= 4
    assert set(images) == set(re.findall(r"nvcr\.io/[a-z0-9/.:-]+", dockerfile))


@pytest.mark.parametrize(
    "line", re.findall(r"python3 (tools/wheelhouse\.py [^`#\n]+)", GUIDE), ids=str.strip
)
def test_every_flag_of_the_wheelhouse_is_one(line: str) -> None:
    script, *arguments = shlex.split(line)
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments, "--help"], check=False, capture_output=True
    )
    assert done.returncode == 0
    helps = done.stdout.decode()
    assert all(each in helps for each in arguments if each.startswith("--"))
