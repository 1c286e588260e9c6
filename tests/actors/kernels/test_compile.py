"""Every kernel compiles for the GPUs it is meant for; the interpreter accepts more than the compiler."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.triton import needs_triton


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_kernel_compiles_for_an_a100_and_an_h100(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.support.compile_kernels"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=290)

    assert finished.returncode == 0, finished.stderr[-3000:]
    (num_kernels,) = re.findall(r"compiled (\d+) kernels", finished.stdout)
    assert int(num_kernels) > 50
    spilling = [line for line in finished.stdout.splitlines() if "local bytes" in line]
    assert [line for line in spilling if "*bf16" in line] == []
    assert "shared bytes" not in finished.stdout
