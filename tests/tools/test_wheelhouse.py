"""A wheel and nothing else makes a device able to take part; and the folder of wheels is whole."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from semantic_net import __version__

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "wheelhouse.py"
spec = importlib.util.spec_from_file_location("wheelhouse", TOOL)
assert spec is not None
assert spec.loader is not None
tool = importlib.util.module_from_spec(spec)
sys.modules["wheelhouse"] = tool  # dataclasses look for it there
spec.loader.exec_module(tool)

ORIN = tool.Target.jetpack("6")

PINS = """# Used by pip.

# torch: and what it needs.
torch==2.13.0
numpy==2.2.6 ; python_version < "3.11"
numpy==2.4.6 ; python_version >= "3.11"

# core: what semantic-net itself needs.
rich==14.3.4
# fuzz
atheris==3.0.0 ; platform_machine == "x86_64"
"""


def test_the_pins_of_another_machine_are_those_of_its_python() -> None:
    assert tool.pins(PINS, ORIN, with_torch=True) == [
        "torch==2.13.0",
        "numpy==2.2.6",
        "rich==14.3.4",
    ]
    thor = tool.Target.jetpack("7")
    assert "numpy==2.4.6" in tool.pins(PINS, thor, with_torch=True)
    assert tool.pins(PINS, thor, with_torch=False) == ["rich==14.3.4"]


def test_the_committed_pins_are_of_that_form() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    names = {line.partition("==")[0] for line in tool.pins(text, ORIN, with_torch=True)}
    assert {"torch", "numpy", "cryptography"} <= names
    without = {line.partition("==")[0] for line in tool.pins(text, ORIN, with_torch=False)}
    assert {"torch", "numpy"} <= names - without
    assert "cryptography" in without


def test_pip_is_told_of_every_wheel_that_the_device_can_use() -> None:
    assert "--python-version=3.10" in ORIN.flags
    assert "--platform=manylinux_2_35_aarch64" in ORIN.flags  # Ubuntu 22.04
    assert "--platform=manylinux2014_aarch64" in ORIN.flags
    assert "--platform=manylinux_2_39_aarch64" not in ORIN.flags
    assert tool.Target().flags == []
    server = tool.Target.of("3.12", ["manylinux_2_18_x86_64"])
    assert server.machine == "x86_64"
    assert server.platforms == (
        "manylinux_2_18_x86_64",
        "manylinux_2_17_x86_64",
        "manylinux2014_x86_64",
    )


@pytest.mark.parametrize("platform", ["win_amd64", "aarch64 manylinux2014_x86_64"])
def test_a_platform_that_is_none_of_ours_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], platform: str
) -> None:
    flags = [flag for each in platform.split() for flag in ("--platform", each)]
    assert tool.main([str(tmp_path), *flags]) == 2
    assert "of one processor" in capsys.readouterr().err


def wheel(folder: Path, name: str, *needs: str) -> None:
    with ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        lines = "".join(f"Requires-Dist: {need}\n" for need in needs)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n{lines}")


def test_what_only_the_device_needs_is_missed(tmp_path: Path) -> None:
    wheel(
        tmp_path,
        "semantic_net",
        "Some.Thing[fast]>=2; platform_machine == 'aarch64'",
        "plots; extra == 'report'",
        "never; python_version < '3.9'",
    )
    wheel(
        tmp_path,
        "some_thing",
        "backport>=4; python_full_version < '3.11'",
        "quick; extra == 'fast'",
        "slow; extra == 'other'",
    )

    def missing(target: object, *extras: str) -> set[str]:
        found = tool.unmet(tmp_path, {"semantic-net": set(extras)}, target)
        return {tool._plain(need) for need in found}

    assert missing(ORIN) == {"backport>=4", "quick"}
    assert missing(ORIN, "report") == {"backport>=4", "quick", "plots"}
    assert missing(tool.Target.jetpack("7")) == {"quick"}
    for name in ("backport", "quick"):
        wheel(tmp_path, name)
    assert missing(ORIN) == set()


def test_a_folder_with_something_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old-1.0-py3-none-any.whl").touch()
    assert tool.main([str(tmp_path), "--jetpack", "6"]) == 2
    assert "not empty; name a new folder" in capsys.readouterr().err


def bare_environment(folder: Path) -> Path:
    """Return the interpreter of an environment with all that this one has but semantic-net."""
    packages = folder / "packages"
    packages.mkdir()
    for site in (
        Path(each) for each in sys.path if each.endswith(("site-packages", "dist-packages"))
    ):
        for entry in site.iterdir() if site.is_dir() else ():
            is_ours = entry.name.startswith(("semantic_net", "__editable__"))
            if not is_ours and entry.suffix != ".pth" and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    venv.create(folder / "venv", with_pip=False)
    [site] = (folder / "venv").glob("lib/python3.*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\n")
    return folder / "venv" / "bin" / "python"


def test_a_peer_runs_from_an_installed_wheel_far_from_the_repository(tmp_path: Path) -> None:
    pytest.importorskip("torch")  # the peer's process needs it
    wheels, elsewhere = tmp_path / "wheels", tmp_path / "elsewhere"
    wheels.mkdir()
    elsewhere.mkdir()
    tool.build(wheels, is_isolated=False)
    python = bare_environment(tmp_path)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    offline = ("--no-index", "--find-links", wheels)
    assert "Installing" in run(python, "-m", "pip", "install", *offline, "semantic-net")
    program = python.with_name("semantic-net")
    assert run(program, "--version") == f"semantic-net {__version__}\n"
    assert "--peers A,B" in run(program, "peer", "--help")
    said = run(python, "-c", "import semantic_net; print(semantic_net.__file__)")
    installed = Path(said.strip()).parent
    assert installed.is_relative_to(tmp_path / "venv")
    source = ROOT / "src" / "semantic_net"
    expected = {
        path.relative_to(source)
        for path in source.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert expected <= {path.relative_to(installed) for path in installed.rglob("*")}
    small = ("data.num_train=4", "data.num_val=2", "training.steps=1", "training.num_threads=1")
    overrides = [flag for each in small for flag in ("--set", each)]
    flags = ("--listen", "127.0.0.1:0", "--rounds", "2", "--out", "run")
    run(program, "peer", *flags, *overrides)
    assert len((elsewhere / "run" / "rounds.jsonl").read_text().splitlines()) == 2
