"""What the contestants share: the device, sizes for a GPU or a rehearsal, prompts, engines with random weights, clocks.

The weights are made on the device; only the VAE and a job's checkpoint are written to a disk.
"""

from __future__ import annotations

import atexit
import dataclasses
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.checkpoint.open import Checkpoint
from actors.device import DTYPES
from actors.janus.engine import JanusEngine
from actors.janus.network import tensor_shapes as janus_tensor_shapes
from actors.janusflow.engine import JanusFlowEngine
from actors.janusflow.network import tensor_shapes as flow_tensor_shapes
from actors.request import ImageRequest
from benchmarks import random_models
from benchmarks.roofline import Ceilings, measure_ceilings

# One token each of the small tokenizer, as common words are of the published one: prompts have their usual lengths.
WORDS = ("a", "an", "the", "in", "blue", "cloth")
COPY, PRODUCT = "copy bandwidth", "matrix product"  # rows that later contestants read

_TINY_JANUS = random_models.janus_config(num_layers=2, hidden_size=128, grid_size=4, vq_widths=[1, 1])
_TINY_FLOW = random_models.flow_config(num_layers=2, hidden_size=128, channels=64, latent_size=8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """`known` holds the values of the rows so far, by name."""

    device: torch.device
    dtype: str
    is_rehearsal: bool
    known: Mapping[str, float]
    ceilings: Ceilings
    folder: Path

    def pick(self, on_gpu: Any, in_rehearsal: Any) -> Any:
        """A size for the GPU or for the rehearsal."""
        return in_rehearsal if self.is_rehearsal else on_gpu

    def janus_checkpoint(self, name: str) -> Checkpoint:
        return random_models.write_checkpoint(
            self.folder / name, _TINY_JANUS if self.is_rehearsal else random_models.real_config(name)
        )

    def janus_weights(self, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
        shapes = janus_tensor_shapes(checkpoint.shape)
        return random_models.random_weights(shapes, DTYPES[self.dtype], self.device)

    def janus_engine(self, name: str, *, kv_cache: str | None = None) -> JanusEngine:
        checkpoint = self.janus_checkpoint(name)
        recipe = dataclasses.replace(random_models.recipe(checkpoint, self.dtype), kv_cache=kv_cache)
        return JanusEngine(recipe, checkpoint, weights=self.janus_weights(checkpoint))

    def flow_engine(self) -> JanusFlowEngine:
        config = _TINY_FLOW if self.is_rehearsal else random_models.real_config("JanusFlow-1.3B")
        checkpoint = random_models.write_checkpoint(self.folder / "JanusFlow-1.3B", config)
        vae = random_models.write_vae(checkpoint, self.pick(random_models.SDXL_WIDTHS, random_models.SMALL_WIDTHS))
        shapes = flow_tensor_shapes(checkpoint.shape)
        weights = random_models.random_weights(shapes, DTYPES[self.dtype], self.device)
        return JanusFlowEngine(random_models.recipe(checkpoint, self.dtype), checkpoint, vae, weights=weights)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of one call, the device's work included."""
        self.synchronize()
        started_at = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - started_at


def open_stage(known: Mapping[str, float], *, is_rehearsal: bool) -> Stage:
    """The stage of this process. Raises RuntimeError without a GPU, unless it is a rehearsal."""
    if not is_rehearsal and not torch.cuda.is_available():
        raise RuntimeError("benchmarks.gpu needs a GPU; --rehearse runs it on a CPU with tiny models")
    torch.manual_seed(0)
    if is_rehearsal:
        torch.set_num_threads(1)
    device, dtype = torch.device("cpu" if is_rehearsal else "cuda"), "float32" if is_rehearsal else "bfloat16"
    if COPY in known and PRODUCT in known:
        ceilings = Ceilings(bytes_per_s=known[COPY] * 1e9, flops_per_s=known[PRODUCT] * 1e12)
    else:
        ceilings = measure_ceilings(device, DTYPES[dtype], time.perf_counter)
    folder = Path(tempfile.mkdtemp(prefix="janus-batch-gpu-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Stage(
        device=device,
        dtype=dtype,
        is_rehearsal=is_rehearsal,
        known=known,
        ceilings=ceilings,
        folder=folder,
    )


def different_prompts(num: int, *, seed: int = 0, most_words: int = 40) -> list[str]:
    """Prompts of 3 to `most_words` words, all different."""
    chance = random.Random(seed)
    return [f"{seed} {n} " + " ".join(chance.choices(WORDS, k=chance.randint(3, most_words))) for n in range(num)]


def requests(prompts: Sequence[str], *, first_seed: int = 0, **fields: Any) -> list[ImageRequest]:
    """A request for each prompt; `fields` are those that all share."""
    return [
        ImageRequest(
            image_id=str(first_seed + n),
            prompt_id=str(first_seed + n),
            image_index=0,
            prompt=prompt,
            seed=first_seed + n,
            **fields,
        )
        for n, prompt in enumerate(prompts)
    ]
