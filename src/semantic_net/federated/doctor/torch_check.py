"""torch, and the GPU that it knows or does not know."""

from __future__ import annotations

import signal
import subprocess  # nosec B404  # starts our own interpreter only
import sys
from collections.abc import Sequence

import msgspec

from semantic_net.federated.doctor.finding import FAIL, OK, WARN, Finding
from semantic_net.federated.doctor.machine import Jetson

PROGRAM = (sys.executable, "-m", "semantic_net.federated.doctor.torch_facts")

LIMIT_S = 180.0
"""Seconds after which an import counts as hung: a Jetson's first one takes half a minute."""

SLOW_IMPORT_S = 60.0

JETSON_TORCH = "install NVIDIA's own torch for this JetPack, and build .venv on top of it (README)"


class TorchFacts(msgspec.Struct, frozen=True):
    """What `torch_facts` has found."""

    version: str
    import_s: float
    built_for: str | None = None
    """The version of CUDA that it was built for."""
    gpu: str | None = None
    """Its name, if there is one that torch can see."""
    capability: tuple[int, int] | None = None
    gpu_error: str | None = None
    """Why that GPU cannot be used."""


def look_at_torch(
    program: Sequence[str] = PROGRAM, limit_s: float = LIMIT_S
) -> TorchFacts | Finding:
    """Import torch in another process; return what was found, or what is wrong with it."""
    try:
        ran = subprocess.run(  # nosec B603  # no shell, and the command is our own
            program, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        text = f"its import takes over {limit_s:g} s"
        return Finding("torch", FAIL, text, "is the disk broken, or the GPU's driver?")
    if ran.returncode < 0:
        name = signal.Signals(-ran.returncode).name
        text = f"its import ends Python ({name})"
        return Finding("torch", FAIL, text, "it is a build for another machine: install this one's")
    said = ran.stderr.decode(errors="replace").strip().splitlines()
    if ran.returncode:
        text = f"it cannot be imported: {said[-1] if said else 'no reason given'}"
        return Finding("torch", FAIL, text, "install torch for this machine (README)")
    try:
        return msgspec.json.decode(ran.stdout.splitlines()[-1], type=TorchFacts)
    except (IndexError, msgspec.MsgspecError):
        return Finding("torch", FAIL, "its import says what nobody asked for", "install it anew")


def check_torch(facts: TorchFacts) -> Finding:
    """Say which torch there is."""
    built = "for the CPU alone" if facts.built_for is None else f"for CUDA {facts.built_for}"
    text = f"{facts.version}, built {built}; imported in {facts.import_s:.1f} s"
    if facts.import_s > SLOW_IMPORT_S:
        return Finding("torch", WARN, text, "each start takes as long: move .venv to a faster disk")
    return Finding("torch", OK, text)


def check_gpu(facts: TorchFacts, wanted: str, jetson: Jetson | None) -> Finding:
    """Tell whether training runs where the configuration says.

    Args:
        facts: Of torch.
        wanted: ``training.device``.
        jetson: What this machine is, if it is one.
    """
    needs_cuda = wanted.startswith("cuda")
    if facts.gpu is None:
        if needs_cuda:
            text = f"training.device is {wanted}, and torch sees no GPU"
            hint = JETSON_TORCH if jetson else "set training.device=auto, or install torch for CUDA"
            return Finding("gpu", FAIL, text, hint)
        if jetson is not None and wanted == "auto":
            text = "torch does not see this Jetson's GPU: training takes the CPU, many times slower"
            return Finding("gpu", WARN, text, JETSON_TORCH)
        return Finding("gpu", OK, "none used: training takes the CPU")
    capability = "" if facts.capability is None else f", compute capability {_dotted(facts)}"
    text = f"{facts.gpu}{capability}"
    if facts.gpu_error is not None:
        text += f", and it cannot be used: {' '.join(facts.gpu_error.split())[:200]}"
        hint = "install a torch that is built for it, or set training.device=cpu"
        return Finding("gpu", WARN if wanted == "cpu" else FAIL, text, hint)
    if wanted == "cpu":
        return Finding("gpu", OK, f"{text}, not used: training.device is cpu")
    return Finding("gpu", OK, text)


def _dotted(facts: TorchFacts) -> str:
    return ".".join(map(str, facts.capability or ()))
