"""Which device is found, how it is named, and what weights are computed in on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from actors.device import compute_dtype, find_device, to_compute_dtype
from tests.support.hardware import runs_engines_on_a_cpu
from tests.support.janus_engine import engine, request

CPU = torch.device("cpu")


def test_the_device_is_the_gpu_by_name_or_the_cpu_by_instruction_set() -> None:
    device, name = find_device()
    if torch.cuda.is_available():
        assert (device.type, name) == ("cuda", torch.cuda.get_device_name())
    else:
        assert (device.type, name) == ("cpu", f"cpu {torch.backends.cpu.get_cpu_capability()}")


def test_convolutions_of_a_gpu_are_in_full_float32_and_add_up_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, found in (("is_available", True), ("get_device_name", "H100"), ("get_device_capability", (9, 0))):
        monkeypatch.setattr(torch.cuda, name, lambda found=found: found)
    monkeypatch.setattr("actors.device.check_toolchain", lambda found: None)
    with torch.backends.cudnn.flags(allow_tf32=True, deterministic=False):
        assert find_device() == (torch.device("cuda"), "H100")
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == (False, True)


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text("utf-8"),
    reason="Linux does not give huge pages on request",
)
@pytest.mark.parametrize(("chosen", "is_huge"), [(None, True), ("0", False)])
def test_large_tensors_of_a_cpu_are_on_huge_pages_unless_that_was_switched_off(
    chosen: str | None, is_huge: bool
) -> None:
    program = """
import re, torch
import actors.device
x = torch.ones(2**26, dtype=torch.uint8)
start = x.data_ptr()
for area in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())[1:]:
    first, last = (int(number, 16) for number in area.split()[0].split("-"))
    if first <= start + 2**25 < last:
        print(re.search(r"AnonHugePages: +(\\d+)", area)[1])
"""
    environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    if chosen:
        environment["THP_MEM_ALLOC_ENABLE"] = chosen
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 0) == is_huge


@pytest.mark.parametrize("is_supported", [True, False])
def test_a_cpu_computes_in_bfloat16_only_where_it_has_the_instructions(
    is_supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.device._has_instructions", lambda dtype: is_supported or dtype == torch.float32)
    expected = torch.bfloat16 if is_supported else torch.float32
    assert compute_dtype(torch.bfloat16, CPU) == expected
    assert compute_dtype(torch.float32, CPU) == torch.float32
    assert compute_dtype(torch.bfloat16, torch.device("cuda")) == torch.bfloat16
    assert to_compute_dtype({"a": torch.ones(1, dtype=torch.bfloat16)})["a"].dtype == expected


@runs_engines_on_a_cpu
def test_without_the_instructions_an_engine_renders_the_rounded_weights_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """janus-tiny's weights are stored in bfloat16, so rounding them changes nothing."""
    monkeypatch.setattr("actors.device._has_instructions", lambda dtype: dtype == torch.float32)
    (low,), (full,) = (engine(dtype=dtype).render([request("a red cube")]) for dtype in ("bfloat16", "float32"))
    assert low.codes.tolist() == full.codes.tolist()
    assert low.pixels.tobytes() == full.pixels.tobytes()
