"""What a test needs of the machine's processor, as marks: it is skipped elsewhere, and the reason says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

_CPU_INFO = Path("/proc/cpuinfo")
_MEASURED_VENDORS = ("AuthenticAMD", "GenuineIntel")
_VENDORS = [
    line.partition(":")[2].strip()
    for line in (_CPU_INFO.read_text("utf-8").splitlines() if _CPU_INFO.exists() else [])
    if line.startswith("vendor_id")
]

runs_engines_on_a_cpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="engines run on the GPU of this machine; CUDA_VISIBLE_DEVICES= hides it"
)

# oneDNN selects its bfloat16 kernels by the processor. That a row keeps its bits for any number of rows and threads was
# measured on AMD EPYC with AVX2 and AVX-512, and on an Intel Xeon without its AMX, see actors/device.py.
has_measured_bfloat16 = pytest.mark.skipif(
    not _VENDORS or _VENDORS[0] not in _MEASURED_VENDORS,
    reason="bits in bfloat16 may depend on the number of rows and threads: measured on AMD EPYC and Intel Xeon only",
)
