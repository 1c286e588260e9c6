"""The engines in the published shapes with all prompts different, their stages, and the loop of the public script."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from actors.device import DTYPES
from actors.janus.engine import JanusEngine
from actors.janus.stream import PromptIds
from actors.janusflow.engine import JanusFlowEngine
from actors.prompt.tokenizer import PromptTokenizer
from actors.request import ImageRequest, Rejection
from benchmarks.gpu.row import Row
from benchmarks.gpu.stage import Stage, different_prompts, requests
from benchmarks.public_loops import JanusLoop
from benchmarks.roofline import flow_limit, janus_limit, matrix_weights, vq_flops

SCRIPT_IMAGES = 16  # that the public script renders in a call
CFG_WEIGHT = 5.0
NUM_COMPARED = 3  # images of each stream that are rendered again


@torch.inference_mode()
def janus_1b(stage: Stage) -> Iterator[Row]:
    """The engine in full and small batches, and its stages."""
    name, engine = "Janus-Pro-1B", stage.janus_engine("Janus-Pro-1B")
    yield Row(name=batch_size_name(name), value=_batch_size(stage, engine), unit="images")
    yield from _throughput(stage, engine, throughput_name(name), num_batches=3)
    yield _small_batch(stage, engine, name)
    yield _prefill(stage, engine, name)
    yield _decode(stage, engine, name)


@torch.inference_mode()
def janus_1b_fp8(stage: Stage) -> Iterator[Row]:
    """Keys and values in 8 bits, which a rehearsal's CPU has none of."""
    engine = stage.janus_engine("Janus-Pro-1B", kv_cache=stage.pick("fp8", None))
    yield from _throughput(stage, engine, throughput_name("Janus-Pro-1B", "fp8"), num_batches=2)


@torch.inference_mode()
def janus_7b(stage: Stage) -> Iterator[Row]:
    """Full batches, and the stage that differs from 1B's apart from the decode loop."""
    name, engine = "Janus-Pro-7B", stage.janus_engine("Janus-Pro-7B")
    yield from _throughput(stage, engine, throughput_name(name), num_batches=2)
    yield _prefill(stage, engine, name)


@torch.inference_mode()
def flow(stage: Stage) -> Iterator[Row]:
    """JanusFlow with the number of steps and the weight of the public demo."""
    num_steps, num_images, num_batches = stage.pick((30, 16, 4), (2, 2, 2))
    engine = stage.flow_engine()
    fields = {"cfg_weight": 2.0, "num_inference_steps": num_steps, "solver": None, "temperature": None}
    prompts = different_prompts((1 + num_batches) * num_images)
    batch, *others = (
        requests(prompts[start : start + num_images], first_seed=start, **fields)
        for start in range(0, len(prompts), num_images)
    )
    with FlopCounterMode(display=False) as counter:
        engine.vae.decode_call(engine.latent_noise(batch[:1]))
    ids = [engine.tokenizer.flow_cond_ids(request.prompt) for request in batch]
    limit = flow_limit(
        engine.shape, counter.get_total_flops(), round(_mean(ids)), num_steps, num_images, stage.ceilings
    )
    _check(engine.render(batch))
    name = f"JanusFlow-1.3B, {num_steps} steps"
    yield from _streamed(stage, engine, f"{name}, all prompts different", others, limit)
    seconds = stage.seconds(lambda: _check(engine.render(batch)))
    yield Row(
        name=f"{name}, {num_images} images alone",
        value=num_images / seconds,
        unit="images/s",
        limit=num_images / limit,
        note=f"{seconds:.2f} s",
    )
    latents = engine.latent_noise(batch)
    decode_s = stage.seconds(lambda: engine.decode_latents(latents)) / num_images
    limit_s = counter.get_total_flops() / stage.ceilings.flops_per_s
    yield Row(name="VAE, one image", value=decode_s * 1e3, unit="ms", limit=limit_s * 1e3)


@torch.inference_mode()
def public_loop(stage: Stage) -> Iterator[Row]:
    """The public script's loop with 1B and one prompt, and how much faster the engine is, if that is known."""
    checkpoint, num_images = stage.janus_checkpoint("Janus-Pro-1B"), stage.pick(SCRIPT_IMAGES, 2)
    tokenizer = PromptTokenizer(checkpoint.path, checkpoint.prompt_format)
    special_ids = {"bos": tokenizer.bos_id, "pad": tokenizer.pad_id, "begin_of_image": tokenizer.begin_of_image_id}
    loop = JanusLoop(checkpoint.shape, stage.janus_weights(checkpoint), special_ids)
    ids = tokenizer.cond_ids(different_prompts(1)[0])
    seconds = stage.seconds(lambda: loop.public_script(ids, num_images, CFG_WEIGHT))
    engine_rate = stage.known.get(throughput_name("Janus-Pro-1B"))
    note = f"the engine: {engine_rate * seconds / num_images:.1f} times as fast" if engine_rate else ""
    yield Row(name=f"public loop, 1B, {num_images} images", value=num_images / seconds, unit="images/s", note=note)


def throughput_name(model: str, kv_cache: str | None = None) -> str:
    """The row of an engine's throughput, which other contestants read."""
    return f"{model}, all prompts different" + (f", {kv_cache} keys and values" if kv_cache else "")


def batch_size_name(model: str) -> str:
    """The row of the batch size that this throughput was measured with."""
    return f"{model}: images per batch"


def _batch_size(stage: Stage, engine: JanusEngine) -> int:
    return stage.pick(engine.default_batch_size, 2)


def _throughput(stage: Stage, engine: JanusEngine, name: str, num_batches: int) -> Iterator[Row]:
    """Of full batches, after a few steps of one: they compile the kernels and capture the graphs."""
    llama, size = engine.model.llama, _batch_size(stage, engine)
    prompts = different_prompts(num_batches * size, most_words=stage.pick(40, 5))
    batches = [_batch(prompts[start : start + size], start) for start in range(0, len(prompts), size)]
    engine.seconds_per_batch(batches[0][0])
    tokens = _mean([engine.tokenizer.cond_ids(prompt) for prompt in prompts])
    limit = janus_limit(engine.shape, DTYPES[stage.dtype], llama.cache_dtype, round(tokens), size, stage.ceilings)
    yield from _streamed(stage, engine, name, batches, limit)


def _streamed(
    stage: Stage,
    engine: JanusEngine | JanusFlowEngine,
    name: str,
    batches: Sequence[Sequence[ImageRequest]],
    limit: float,
) -> Iterator[Row]:
    """A stream of batches, the decoding of the last one's images included, and whether some images are the same alone.

    `limit` is the seconds of a batch at best.
    """
    times, answers = [], []
    stage.synchronize()
    started_at = time.perf_counter()
    for answers in engine.stream(batches):
        _check(answers)
        times.append(time.perf_counter() - started_at)
    yield Row(
        name=name,
        value=sum(map(len, batches)) / times[-1],
        unit="images/s",
        limit=len(batches[0]) / limit,
        note=f"batches of {len(batches[0])}, done after {', '.join(f'{t:.2f}' for t in times)} s",
    )
    yield Row(name=f"{name}: first images", value=times[0], unit="s", limit=limit)
    num_compared = min(NUM_COMPARED, len(answers))
    alone = engine.render(batches[-1][:num_compared])
    num_same = sum(a.pixels.tobytes() == b.pixels.tobytes() for a, b in zip(alone, answers, strict=False))
    is_ok = num_same == num_compared
    yield Row(name=f"{name}: same bytes alone", value=num_same, unit=f"of {num_compared}", is_ok=is_ok)


def _small_batch(stage: Stage, engine: JanusEngine, name: str) -> Row:
    """As many images as the public script renders in a call."""
    num_images = stage.pick(SCRIPT_IMAGES, 2)
    batch = _batch(different_prompts(num_images, seed=2, most_words=stage.pick(40, 5)), 2 * 10**6)
    _check(engine.render(batch))
    seconds = stage.seconds(lambda: _check(engine.render(batch)))
    tokens, dtype = _mean([engine.tokenizer.cond_ids(request.prompt) for request in batch]), DTYPES[stage.dtype]
    limit = janus_limit(engine.shape, dtype, engine.model.llama.cache_dtype, round(tokens), num_images, stage.ceilings)
    note = f"{seconds:.2f} s"
    return Row(
        name=f"{name}, {num_images} images alone",
        value=num_images / seconds,
        unit="images/s",
        limit=num_images / limit,
        note=note,
    )


def _prefill(stage: Stage, engine: JanusEngine, name: str) -> Row:
    """The prompts of a batch, all of them new."""
    num_prompts = _batch_size(stage, engine)
    texts = different_prompts(num_prompts, seed=3, most_words=stage.pick(40, 5))
    prompts = [PromptIds(cond=engine.tokenizer.cond_ids(text), uncond=None) for text in texts]
    seconds = stage.seconds(lambda: engine.prefill(prompts))
    num_tokens = sum(len(prompt.cond) for prompt in prompts)
    limit = 2 * num_tokens * matrix_weights(engine.shape.llama) / stage.ceilings.flops_per_s
    return Row(
        name=f"{name}, prefill of {num_prompts} prompts",
        value=seconds * 1e3,
        unit="ms",
        limit=limit * 1e3,
        note=f"{num_tokens} tokens",
    )


def _decode(stage: Stage, engine: JanusEngine, name: str) -> Row:
    num_images = stage.pick(32, 2)
    codes_BN = torch.randint(engine.shape.vq.codebook_size, (num_images, engine.num_codes), device=stage.device)
    engine.decode_pixels(codes_BN[:1])
    seconds = stage.seconds(lambda: engine.decode_pixels(codes_BN)) / num_images
    limit = vq_flops(engine.shape) / stage.ceilings.flops_per_s
    return Row(name=f"{name}, decoding one image", value=seconds * 1e3, unit="ms", limit=limit * 1e3)


def _batch(prompts: Sequence[str], first_seed: int) -> list[ImageRequest]:
    return requests(prompts, first_seed=first_seed, cfg_weight=CFG_WEIGHT, temperature=1.0)


def _check(answers: Sequence[object]) -> None:
    """Raise RuntimeError for a rejected image, which takes less time than a rendered one."""
    rejected = [answer for answer in answers if isinstance(answer, Rejection)]
    if rejected:
        raise RuntimeError(f"{len(rejected)} of {len(answers)} images were rejected: {rejected[0].reason}")


def _mean(ids_of_prompts: Sequence[Sequence[int]]) -> float:
    return sum(map(len, ids_of_prompts)) / len(ids_of_prompts)
