"""A whole job with different prompts through Ray, as a share of the engine alone; not where packages are missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import save_file

from benchmarks.gpu.engines import batch_size_name, throughput_name
from benchmarks.gpu.row import Row
from benchmarks.gpu.stage import Stage, different_prompts

MODEL = "Janus-Pro-1B"
NEEDED = ("ray", "click", "rich")  # beyond what the other contestants import
NUM_BATCHES = 3  # the first is not counted: the model is loaded before it


def job(stage: Stage) -> Iterator[Row]:
    """`janus-batch render` and `verify --replay`, with the batch size of the engine's row."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        note = f"not measured: {', '.join(missing)} not installed"
        yield Row(name="job through Ray", value=0, unit="images/s", note=note)
        return
    from benchmarks.pipeline import ENVIRONMENT, throughput_of_files  # which needs them

    batch_size = int(stage.known.get(batch_size_name(MODEL), stage.pick(128, 2)))
    _write_job(stage, batch_size)
    environment = os.environ | ENVIRONMENT
    del environment["OMP_NUM_THREADS"]  # the engine on a GPU has the machine to itself
    _run("render", str(stage.folder / "job.yaml"), environment=environment)
    rate = throughput_of_files(stage.folder, batch_size)
    engine_rate = stage.known.get(throughput_name(MODEL))
    yield Row(name="job through Ray", value=rate, unit="images/s", limit=engine_rate, note="limit: the engine alone")
    replayed = _run("verify", str(stage.folder / "output"), "--replay", "4", environment=environment)
    yield Row(name="verify --replay", value=4, unit="images", note=replayed)


def _write_job(stage: Stage, batch_size: int) -> None:
    checkpoint = stage.janus_checkpoint(MODEL)
    weights = stage.janus_weights(checkpoint)
    save_file({name: tensor.cpu() for name, tensor in weights.items()}, checkpoint.path / "model.safetensors")
    del weights
    if stage.device.type == "cuda":
        torch.cuda.empty_cache()  # the job's actor needs the memory
    prompts = different_prompts(NUM_BATCHES * batch_size, most_words=stage.pick(40, 5))
    ids = [f"{number:06d}" for number in range(len(prompts))]
    pq.write_table(pa.table({"id": ids, "prompt": prompts}), stage.folder / "prompts.parquet")
    spec = {
        "name": "gpu",
        "prompts": str(stage.folder / "prompts.parquet"),
        "output": str(stage.folder / "output"),
        "model": {"checkpoint": str(checkpoint.path), "dtype": stage.dtype, "allow_faults": True},
        "shard_rows": batch_size,
        "workers": {"max": 1, "batch_size": batch_size, **stage.pick({}, {"gpus_per_actor": 0})},
    }
    (stage.folder / "job.yaml").write_text(yaml.safe_dump(spec))


def _run(*arguments: str, environment: dict[str, str]) -> str:
    """The last line that the command prints; all of them go to standard error. Raises RuntimeError if it fails."""
    command, line = [sys.executable, "-m", "jobs", *arguments], ""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            sys.stderr.write(line)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed")
    return line.strip()
