from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from semantic_net.errors import ConfigError, StartError
from semantic_net.training import precision
from semantic_net.training.precision import (
    Precision,
    full_precision,
    is_out_of_memory,
    resolve_device,
)

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


def test_devices_by_name() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    with pytest.raises(ConfigError, match=r"training\.device must be auto, cpu, .* got 'gpu7'"):
        resolve_device("gpu7")
    with pytest.raises(StartError, match="cuda:77 cannot be used here"):
        resolve_device("cuda:77")


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(exc: BaseException, expected: bool) -> None:
    assert is_out_of_memory(exc) is expected


def test_a_real_allocation_that_cannot_be_is_recognised() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def trained_once(where: Precision, max_norm: float | None) -> torch.Tensor:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    with where.autocast():
        output = layer(torch.tensor([[0.25]]))
    where.backward(0.5 * full_precision(output).sum())  # 1.0 times the first scale is no float16
    where.step(optimizer, list(layer.parameters()), max_norm)
    return layer.weight.detach()


# Before, a CPU could walk neither float16 nor the scaled way.
@pytest.mark.skipif(TORCH < (2, 4), reason="needs torch 2.4")
@pytest.mark.parametrize("max_norm", [None, 0.0625])
def test_scaled_and_half_precision_steps_equal_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, max_norm: float | None
) -> None:
    plain = Precision(torch.device("cpu"), amp=True)
    assert plain.state() == {}
    plain.load_state({})
    expected = trained_once(plain, max_norm)
    # An old GPU's way (float16, scaled) can be walked on a CPU, and a new one's (bfloat16) too.
    for capability, dtype in (((7, 2), torch.float16), ((8, 7), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        monkeypatch.setattr(precision, "make_scaler", lambda _: torch.amp.GradScaler("cpu"))
        mixed = Precision(torch.device("cuda"), amp=True)
        assert mixed._dtype is dtype
        mixed._device = torch.device("cpu")
        torch.testing.assert_close(trained_once(mixed, max_norm), expected)
        state: dict[str, Any] = mixed.state()
        assert bool(state) == (dtype is torch.float16)
        mixed.load_state(state)
        assert mixed.state() == state


def test_the_scaler_is_found_in_this_version_of_torch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where there is no CUDA
        assert precision.make_scaler("cuda").state_dict() == {}
