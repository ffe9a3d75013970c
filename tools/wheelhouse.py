"""Collect in one folder what a device without internet needs to install semantic-net.

On a machine with internet, of any kind, with Python >= 3.10 and pip:

    python3 tools/wheelhouse.py wheels --jetpack 6 --without-torch

On the device, with that folder:

    python3 -m venv --system-site-packages .venv
    .venv/bin/python -m pip install --no-index --find-links wheels semantic-net

The versions are those of constraints.txt. pip resolves for another Python and another machine, but
reads the markers of dependencies as for this one; so what is collected is read again as the device
will, and what lacks is fetched, too. Beside the wheels lie configs/ and deploy/.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

# pip does the work, so it is there; `packaging` by itself may not be.
from pip._vendor.packaging.markers import default_environment
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
JETPACKS = {"6": ("3.10", 35), "7": ("3.12", 39)}
"""The Python of each JetPack, and the minor version of its glibc."""
OLDEST_GLIBC = 17  # manylinux2014
MACHINES = ("aarch64", "x86_64")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src")
MAX_PASSES = 10


class WheelhouseError(Exception):
    """The folder cannot be made; one line says why."""


@dataclass(frozen=True)
class Target:
    """Where it will be installed; without platforms it is a machine like this one."""

    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    machine: str = platform.machine()
    platforms: tuple[str, ...] = ()

    @classmethod
    def jetpack(cls, version: str) -> Target:
        """Return a Jetson with a version of JetPack."""
        python, glibc = JETPACKS[version]
        return cls.of(python, [f"manylinux_2_{glibc}_aarch64"])

    @classmethod
    def of(cls, python: str, platforms: Sequence[str]) -> Target:
        """Return a machine that takes wheels of some platforms, and those of an older glibc.

        Raises:
            WheelhouseError: They are of different processors.
        """
        taken = [each for platform in platforms for each in _with_older(platform)]
        machines = {machine for machine in MACHINES if any(p.endswith(machine) for p in taken)}
        if len(machines) != 1:
            raise WheelhouseError(f"--platform: of one processor, one of {', '.join(MACHINES)}")
        return cls(python, machines.pop(), tuple(dict.fromkeys(taken)))

    @property
    def flags(self) -> list[str]:
        """What tells pip of it."""
        if not self.platforms:
            return []
        flags = ["--only-binary=:all:", "--implementation=cp", f"--python-version={self.python}"]
        return flags + [f"--platform={each}" for each in self.platforms]

    def needs(self, requirement: Requirement, extras: Iterable[str] = ()) -> bool:
        """Tell whether a requirement counts there."""
        environment: dict[str, str] = dict(default_environment())
        environment |= {"python_version": self.python, "platform_machine": self.machine}
        if self.python != Target.python:
            environment["python_full_version"] = f"{self.python}.0"
        marker = requirement.marker
        return marker is None or any(
            marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras)
        )


def _with_older(platform: str) -> list[str]:
    """Return a platform and those whose wheels run on it as well: pip takes what is named alone."""
    found = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", platform)
    if found is None:
        return [platform]
    minors = range(int(found[1]), OLDEST_GLIBC - 1, -1)
    return [*(f"manylinux_2_{each}_{found[2]}" for each in minors), f"manylinux2014_{found[2]}"]


def pins(text: str, target: Target, *, with_torch: bool) -> list[str]:
    """Return the lines of constraints.txt that count on a target, without their markers.

    Args:
        text: Of the file.
        target: Where it will be installed.
        with_torch: Otherwise the block of torch and what it needs is left out: the device has it.
    """
    found = []
    for block in text.split("\n\n"):
        if not with_torch and block.startswith("# torch:"):
            continue
        for line in block.splitlines():
            if line.strip() and not line.startswith("#"):
                requirement = Requirement(line)
                if target.needs(requirement):
                    found.append(f"{requirement.name}{requirement.specifier}")
    return found


def requirements_of(wheel: Path) -> Iterator[Requirement]:
    """Yield what a wheel says it needs."""
    with ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    for line in metadata.get_all("Requires-Dist", []):
        yield Requirement(line)


def unmet(wheels: Path, asked: Mapping[str, set[str]], target: Target) -> list[Requirement]:
    """Return what the wheels in a folder need on a target and what is not among them.

    Args:
        wheels: The folder.
        asked: The extras that are wanted of each package, by canonical name.
        target: Where they will be installed.
    """
    there = {canonicalize_name(path.name.partition("-")[0]): path for path in wheels.glob("*.whl")}
    missing: dict[str, Requirement] = {}
    waiting = {name: frozenset(asked.get(name, ())) for name in there}
    seen = set[tuple[str, frozenset[str]]]()
    while waiting:
        name, extras = waiting.popitem()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for need in requirements_of(there[name]):
            if not target.needs(need, extras):
                continue
            needed = canonicalize_name(need.name)
            if needed not in there:
                missing[needed] = need
            elif need.extras:
                waiting[needed] = frozenset(need.extras) | waiting.get(needed, frozenset())
    return list(missing.values())


def build(out: Path, *, is_isolated: bool = True) -> Path:
    """Build semantic-net's own wheel into a folder.

    Args:
        out: The folder.
        is_isolated: Fetch setuptools for it; otherwise the one that is here does.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Not in place: what an earlier build has left there would go into the wheel.
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(source, Path(folder) / name, ignore=ignored)
            else:
                shutil.copy(source, folder)
        isolation = [] if is_isolated else ["--no-build-isolation"]
        _pip("wheel", "--no-deps", *isolation, f"--wheel-dir={out}", folder)
    [wheel] = out.glob("semantic_net-*.whl")
    return wheel


def collect(
    out: Path, target: Target, extras: Sequence[str], more: Sequence[str], *, with_torch: bool
) -> None:
    """Fetch what semantic-net's wheel in a folder needs into the same folder.

    Raises:
        WheelhouseError: Something cannot be had, or torch would come along where it must not.
    """
    wheel = build(out)
    own = [
        need
        for need in requirements_of(wheel)
        if target.needs(need, extras) and (with_torch or canonicalize_name(need.name) != "torch")
    ]
    wanted = [*(_plain(need) for need in own), *more]
    for _ in range(MAX_PASSES):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
            constraints.write("\n".join(pins(text, target, with_torch=with_torch)) + "\n")
            constraints.flush()
            _pip("download", "-c", constraints.name, f"--dest={out}", *target.flags, *wanted)
        if not with_torch and (found := sorted(out.glob("torch-*.whl"))):
            raise WheelhouseError(
                f"{found[0].name} has come along, since an extra needs it; leave that extra out, "
                "or --without-torch"
            )
        missing = [
            need
            for need in unmet(out, {"semantic-net": set(extras)}, target)
            if with_torch or canonicalize_name(need.name) != "torch"
        ]
        if not missing:
            return
        wanted += [_plain(need) for need in missing]
    raise WheelhouseError(f"{', '.join(str(need) for need in missing)}: needed, and cannot be had")


def _plain(requirement: Requirement) -> str:
    """Return a requirement without its marker, which pip would read as for this machine."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    if subprocess.run(command, check=False).returncode:
        raise WheelhouseError(f"pip {arguments[0]} failed; what it says is above")


def main(argv: Sequence[str] | None = None) -> int:
    """Make the folder; return 0, or 2 where it cannot be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="the folder; made, or empty")
    parser.add_argument("more", nargs="*", help="further requirements, such as 'numpy<2'")
    parser.add_argument("--jetpack", choices=JETPACKS, help="for a Jetson; default: this machine")
    parser.add_argument("--platform", action="append", default=[], help="for another; repeatable")
    parser.add_argument("--python-version", default=Target.python, help="of it, such as 3.10")
    parser.add_argument("--extras", default="", help="such as report,export")
    parser.add_argument("--without-torch", action="store_true", help="the device brings its own")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out
    if not arguments.platform and arguments.python_version != Target.python:
        parser.error("--python-version: of which --platform? Or run this with that Python")
    extras = [extra for extra in arguments.extras.split(",") if extra]
    with_torch = not arguments.without_torch
    try:
        target = Target()
        if arguments.jetpack:
            target = Target.jetpack(arguments.jetpack)
        elif arguments.platform:
            target = Target.of(arguments.python_version, arguments.platform)
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise WheelhouseError(f"{out}: not empty; name a new folder")
        collect(out, target, extras, arguments.more, with_torch=with_torch)
        for name in ("configs", "deploy"):
            shutil.copytree(ROOT / name, out / name)
    except (WheelhouseError, OSError) as exc:
        print(f"wheelhouse: error: {exc}", file=sys.stderr)
        return 2
    name = f"'semantic-net[{','.join(extras)}]'" if extras else "semantic-net"
    print(f"{out}: {len(list(out.glob('*.whl')))} wheels; on the device, in its environment:")
    print(f"  python -m pip install --no-index --find-links {out.name} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
