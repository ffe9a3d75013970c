"""Say what torch there is, as one line of JSON: a program of its own, since torch may crash.

A build for another machine ends the process that imports it, and so does a broken driver.
"""

from __future__ import annotations

import json
import time
from typing import Any


def main() -> None:
    """Import torch, use its GPU once, and print what was found."""
    began = time.perf_counter()
    import torch

    facts: dict[str, Any] = {
        "version": torch.__version__,
        "import_s": time.perf_counter() - began,
        "built_for": torch.version.cuda,
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["capability"] = torch.cuda.get_device_capability()
        try:
            torch.ones(8, device="cuda").sum().item()
        except RuntimeError as exc:
            facts["gpu_error"] = str(exc)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
