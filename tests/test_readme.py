"""The README says what is true: its example is the file, its settings and links exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from semantic_net.cli import COMMANDS, main
from semantic_net.config import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "examples" / "digits_task.py").read_text(encoding="utf-8")


def test_the_example_is_the_file_that_the_tests_run() -> None:
    [shown] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert shown == EXAMPLE
    assert len(EXAMPLE.splitlines()) <= 30


def test_every_override_that_it_shows_is_a_key() -> None:
    overrides = re.findall(r"--set\s+([a-z_0-9]+(?:\.[a-z_0-9]+)+=[^\s`]+)", README)
    assert len(overrides) >= 5
    for override in overrides:
        load_config(None, [override])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_committed_configuration_is_valid(path: Path) -> None:
    load_config(path)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_package_is_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["semantic_net", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("semantic_net", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("semantic-net ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"semantic-net {command}" in capsys.readouterr().out.partition("Examples:")[2]
