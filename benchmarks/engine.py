"""Images per second of both engines, of the public loops and of transformers' `generate`, in turn, in one run.

    python -m benchmarks.engine [--batch-sizes 1 8 16] [--dtypes float32 bfloat16] [--save]

Small models, on a CPU; `benchmarks.gpu` measures the published shapes on a GPU.

`limit` is what this device could do at best (see roofline.py), `reached` the engine's share of it. On Linux everything
runs under one malloc setting that keeps freed memory: the public loops grow their caches by concatenation, and would
otherwise spend much of their time on fresh pages. With one thread on a CPU the clock is the process's own CPU time,
which other programs on the machine disturb less than the time of day.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from actors.checkpoint.open import Checkpoint
from actors.device import DTYPES, compute_dtype, to_compute_dtype
from actors.janus.engine import JanusEngine
from actors.janus.network import tensor_shapes as janus_tensor_shapes
from actors.janusflow.engine import JanusFlowEngine
from actors.janusflow.network import build_network
from actors.janusflow.network import tensor_shapes as flow_tensor_shapes
from actors.request import ImageRequest
from benchmarks import random_models
from benchmarks.contest import HEAD, Case, measure, over_the_script, table_row
from benchmarks.public_loops import FlowLoop, JanusLoop
from benchmarks.roofline import Ceilings, flow_limit, janus_limit, measure_ceilings

RESULTS = Path(__file__).parent / "results"
PROMPT = "a red cube on a blue sphere"
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}


def main() -> None:
    arguments = _parse()
    _run_under_tuned_malloc()
    torch.manual_seed(0)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # engines take the GPU where there is one
    device = torch.device("cpu")
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    lines, results = [provenance()], []
    print(lines[0], flush=True)
    with torch.inference_mode():
        for name in arguments.dtypes:
            ceilings = measure_ceilings(device, compute_dtype(DTYPES[name], device), clock)
            copy, product = ceilings.bytes_per_s / 1e9, ceilings.flops_per_s / 1e12
            lines += [f"\n{name}: copy {copy:.1f} GB/s, product {product:.3g} TFLOP/s", HEAD]
            print("\n".join(lines[-2:]), flush=True)
            for case in cases(arguments, name, device, ceilings):
                results.append(measure(case, arguments.rounds, device, clock))
                del case  # it holds the model, which has to go before the next is made
                lines.append(table_row(results[-1]))
                print(lines[-1], flush=True)
                if arguments.save:
                    _save(lines)
    summary = ["", *over_the_script(results)]
    print("\n".join(summary))
    lines += summary
    if arguments.save:
        print(f"\nwritten to {_save(lines)}")


def cases(arguments: argparse.Namespace, dtype: str, device: torch.device, ceilings: Ceilings) -> Iterator[Case]:
    """Every model at every batch size; a model is dropped before the next is made."""
    for make, configs in ((janus_cases, random_models.SMALL_JANUS), (flow_cases, random_models.SMALL_FLOW)):
        for name, config in configs.items():
            if arguments.models and not name.startswith(tuple(arguments.models)):
                continue
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = random_models.write_checkpoint(Path(folder) / "model", config)
                yield from make(name, checkpoint, arguments, dtype, device, ceilings)
                gc.collect()


def janus_cases(
    name: str,
    checkpoint: Checkpoint,
    arguments: argparse.Namespace,
    dtype: str,
    device: torch.device,
    ceilings: Ceilings,
) -> Iterator[Case]:
    weights = random_models.random_weights(janus_tensor_shapes(checkpoint.shape), DTYPES[dtype], device)
    engine = JanusEngine(random_models.recipe(checkpoint, dtype), checkpoint, weights=dict(weights))
    ids, tokenizer = engine.tokenizer.cond_ids(PROMPT), engine.tokenizer
    special_ids = {"bos": tokenizer.bos_id, "pad": tokenizer.pad_id, "begin_of_image": tokenizer.begin_of_image_id}
    loop = JanusLoop(engine.shape, weights, special_ids)
    del weights
    if dtype == "float32":
        check_same_codes(engine, loop, ids)
    for num_images in batch_sizes(arguments, engine):
        requests = [request(seed, cfg_weight=5.0, temperature=1.0) for seed in range(num_images)]
        yield Case(
            model=name,
            dtype=dtype,
            num_images=num_images,
            ours=lambda requests=requests: engine.render(requests),
            public_loop=lambda num=num_images: loop.public_script(ids, num, 5.0),
            generate=lambda num=num_images: loop.generate(ids, num, 5.0),
            limit_s=janus_limit(
                engine.shape, DTYPES[dtype], engine.model.llama.cache_dtype, len(ids), num_images, ceilings
            ),
        )


def flow_cases(
    name: str,
    checkpoint: Checkpoint,
    arguments: argparse.Namespace,
    dtype: str,
    device: torch.device,
    ceilings: Ceilings,
) -> Iterator[Case]:
    vae = random_models.write_vae(checkpoint, random_models.SMALL_WIDTHS)
    weights = random_models.random_weights(flow_tensor_shapes(checkpoint.shape), DTYPES[dtype], device)
    engine = JanusFlowEngine(random_models.recipe(checkpoint, dtype), checkpoint, vae, weights=weights)
    ids = engine.tokenizer.flow_cond_ids(PROMPT)
    public = build_network(to_compute_dtype(weights), engine.shape, engine.latent_size)
    loop = FlowLoop(public, engine.shape, vae.path, engine.tokenizer.pad_id, DTYPES[dtype])
    with FlopCounterMode(display=False) as counter:
        engine.vae.decode_call(engine.latent_noise([request(0, cfg_weight=2.0)]))
    for num_images in batch_sizes(arguments, engine):
        requests = [
            request(seed, cfg_weight=2.0, num_inference_steps=arguments.flow_steps) for seed in range(num_images)
        ]
        yield Case(
            model=name,
            dtype=dtype,
            num_images=num_images,
            ours=lambda requests=requests: engine.render(requests),
            public_loop=lambda num=num_images: loop.public_demo(ids, num, 2.0, arguments.flow_steps),
            generate=None,
            limit_s=flow_limit(
                engine.shape, counter.get_total_flops(), len(ids), arguments.flow_steps, num_images, ceilings
            ),
        )


def batch_sizes(arguments: argparse.Namespace, engine: JanusEngine | JanusFlowEngine) -> list[int]:
    """The requested sizes; `auto` is the size that `batch_size: auto` of a job chooses."""
    return [engine.default_batch_size if size == "auto" else int(size) for size in arguments.batch_sizes]


def request(seed: int, **settings: Any) -> ImageRequest:
    return ImageRequest(image_id=str(seed), prompt_id="prompt", image_index=seed, prompt=PROMPT, seed=seed, **settings)


def check_same_codes(engine: JanusEngine, loop: JanusLoop, ids: list[int]) -> None:
    """The contestants compute the same thing: in float32 their most probable codes agree for as long as the first 32.

    Later codes of a model with random weights may differ by a rounding that decides a near tie.
    """
    (image,) = engine.render([request(0, cfg_weight=5.0, temperature=0.0)])
    for other in (loop.public_script, loop.generate):
        codes = other(ids, 1, 5.0, greedy=True)[0]
        if not np.array_equal(codes[:32], image.codes[:32]):
            raise AssertionError(f"{other.__name__} and the engine choose different codes: {codes[:32]}")


def provenance() -> str:
    """The machine and the versions that the numbers were measured with."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    name = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ":")
    machine = (
        f"{name.partition(':')[2].strip()} ({torch.backends.cpu.get_cpu_capability()}), "
        f"{torch.get_num_threads()} thread(s), load {os.getloadavg()[0]:.1f}"
    )
    malloc = ", ".join(f"{key}={value}" for key, value in MALLOC.items())
    return (
        f"commit {commit}, {machine}, {platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, {malloc}"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", help="only those whose names begin so")
    parser.add_argument(
        "--batch-sizes",
        type=lambda text: text if text == "auto" else int(text),
        nargs="+",
        default=[1, 4, 8, 16],
        help="images, or auto for a job's own choice (default: 1 4 8 16)",
    )
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), help="default: what the CPU has")
    parser.add_argument("--flow-steps", type=int, default=3, help="of JanusFlow (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="timed renders of each; the table holds their medians")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU; 0 leaves its own choice")
    parser.add_argument("--save", action="store_true", help=f"write the table to {RESULTS.name}/, with the date")
    arguments = parser.parse_args()
    if not arguments.dtypes:  # the public loops in bfloat16 take hours on a CPU without its instructions
        has_bfloat16 = compute_dtype(torch.bfloat16, torch.device("cpu")) == torch.bfloat16
        arguments.dtypes = ["float32", "bfloat16"] if has_bfloat16 else ["float32"]
    return arguments


def _run_under_tuned_malloc() -> None:
    """glibc reads its settings when a process begins, so begin again with them."""
    if sys.platform == "linux" and not MALLOC.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:]], os.environ | MALLOC)


def _save(lines: list[str]) -> Path:
    today = datetime.date.today().isoformat()
    path = RESULTS / f"{today}-engine-cpu.md"
    command = " ".join(["python -m benchmarks.engine", *sys.argv[1:]])
    path.write_text(f"# Engines, {today}\n\n`{command}`\n\n" + "\n".join(lines) + "\n", "utf-8")
    return path


if __name__ == "__main__":
    main()
