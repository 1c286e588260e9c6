"""The benchmark of a GPU, rehearsed: rows come from other processes, and one that fails costs its own rows alone."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from actors.kernels.image_decoder import Pixels
from actors.prompt.tokenizer import PromptTokenizer
from benchmarks import pipeline
from benchmarks.gpu import contestants, job, referee, same_bytes, stage, which_stage
from benchmarks.gpu.contestants import Contestant
from benchmarks.gpu.engines import batch_size_name, throughput_name
from benchmarks.gpu.referee import Table
from benchmarks.gpu.row import Row
from benchmarks.gpu.stage import COPY, Stage
from benchmarks.roofline import Ceilings
from tests.support.checkpoints import TINY, fetched
from tests.support.hardware import runs_engines_on_a_cpu
from tests.support.triton import needs_gpu, needs_triton


def rehearse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
@needs_triton
def test_a_rehearsal_measures_kernels_and_an_engine_and_writes_a_dated_table(tmp_path: Path) -> None:
    done = rehearse("--only", "ceilings", "kernels", "janus-1b", "--save", str(tmp_path))

    assert done.returncode == 0, done.stdout + done.stderr
    (saved,) = tmp_path.glob("????-??-??-gpu.md")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows == [line for line in saved.read_text("utf-8").splitlines() if line.startswith("| ")]
    for name in (COPY, "attention tiny", "products of a layer of tiny", "Janus-Pro-1B, all prompts different"):
        assert any(row.startswith(f"| {name}") for row in rows)


@pytest.mark.slow
@runs_engines_on_a_cpu
def test_without_a_gpu_a_contestant_fails_and_says_why() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", "ceilings"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 1
    assert "--rehearse runs it on a CPU" in done.stdout


# Contestants of the two tests below: one with results, one that crashes, one that never ends.
PROGRAMS = {
    "good": f"print({Row(name='speed', value=3.0, unit='images/s', limit=6.0).to_json()!r})",
    "crash": "import os; os.abort()",
    "endless": f"import time; print({Row(name='first', value=1.0, unit='s').to_json()!r}, flush=True); time.sleep(99)",
}


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Contestant(module="", function="", least_seconds=0, most_seconds=2)
    for name in PROGRAMS:
        monkeypatch.setitem(contestants.CONTESTANTS, name, known)
    popen = subprocess.Popen

    def start(command: list[str], **settings: object) -> subprocess.Popen:
        program = PROGRAMS[command[command.index("--contestant") + 1]]
        return popen([sys.executable, "-S", "-c", program], **settings)

    monkeypatch.setattr(referee.subprocess, "Popen", start)


@pytest.mark.usefixtures("programs")
def test_a_crash_and_an_endless_loop_leave_the_other_rows(tmp_path: Path) -> None:
    table = Table(folder=tmp_path, command="test")

    referee.run(["crash", "endless", "good"], table, seconds=60, is_rehearsal=True)

    assert [row.name for row in table.rows] == ["first", "speed"]
    crash, endless = table.failures
    assert crash.startswith("crash FAILED (exit code -6)")
    assert endless.startswith("endless FAILED (did not end within 2 s)")
    assert "| speed | 3 images/s | 6 | 50% |" in next(tmp_path.iterdir()).read_text("utf-8")


def test_what_libraries_print_is_no_row() -> None:
    program = """
import os
from benchmarks.gpu import contestants, kernels, stage
from benchmarks.gpu.row import Row

def rows(stage):
    os.system("echo a C library")
    print("a Python library")
    yield Row(name="speed", value=3.0, unit="images/s")

kernels.ceilings, stage.open_stage = rows, lambda known, is_rehearsal: None
contestants.serve("ceilings", is_rehearsal=True)
"""
    done = subprocess.run([sys.executable, "-c", program], input="{}\n", capture_output=True, text=True, check=True)
    assert done.stdout == Row(name="speed", value=3.0, unit="images/s").to_json() + "\n"
    assert "a C library" in done.stderr


def test_a_job_renders_batches_of_the_size_that_the_engine_was_measured_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images of the first batch are not counted: the model is loaded before it."""
    known = {batch_size_name(job.MODEL): 3, throughput_name(job.MODEL): 4.0}
    monkeypatch.setattr(job, "_run", lambda *arguments, environment: "")
    monkeypatch.setattr(pipeline, "throughput_of_files", lambda folder, num_first: float(num_first))

    speed, _ = job.job(dataclasses.replace(tiny_stage("cpu", "float32", tmp_path), known=known))

    assert (speed.value, speed.share) == (3.0, 0.75)
    spec = yaml.safe_load((tmp_path / "job.yaml").read_text("utf-8"))
    assert (spec["workers"]["batch_size"], spec["shard_rows"]) == (3, 3)
    assert len(pq.read_table(tmp_path / "prompts.parquet")) == 9


@pytest.mark.usefixtures("programs")
def test_contestants_without_time_are_skipped_which_is_no_failure() -> None:
    table = Table(folder=None, command="test")

    referee.run(["good", "good"], table, seconds=-1, is_rehearsal=True)

    assert table.rows == []
    assert [text.partition(":")[0] for text in table.skipped] == ["good SKIPPED"] * 2
    assert not table.has_failures


def test_a_row_reaches_a_share_of_its_limit_in_either_direction() -> None:
    assert Row(name="a", value=2.0, unit="images/s", limit=8.0).share == 0.25
    assert Row(name="a", value=8.0, unit="ms", limit=2.0).share == 0.25
    assert Row(name="a", value=8.0, unit="ms").share is None
    assert (
        Row(**json.loads(Row(name="a", value=1.0, unit="of 2", is_ok=False).to_json()))
        .to_markdown()
        .endswith("**FAILED**  |")
    )


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", [same_bytes.janus, same_bytes.flow], ids=["janus", "janusflow"])
def test_an_image_on_a_gpu_has_the_same_bytes_in_any_company_and_order(family, dtype: str, tmp_path: Path) -> None:
    rows = list(family(tiny_stage("cuda", dtype, tmp_path)))
    assert len(rows) == 10
    assert [row.to_markdown() for row in rows if not row.is_ok] == []


def tiny_stage(device: str, dtype: str, folder: Path) -> Stage:
    ceilings = Ceilings(bytes_per_s=1.0, flops_per_s=1.0)
    return Stage(
        device=torch.device(device), dtype=dtype, is_rehearsal=True, known={}, ceilings=ceilings, folder=folder
    )


@runs_engines_on_a_cpu
def test_where_images_differ_the_first_stage_with_other_numbers_is_found(tmp_path: Path) -> None:
    engine = tiny_stage("cpu", "float32", tmp_path).janus_engine("Janus-Pro-1B")
    decode = engine.decode_pixels

    def decode_by_place(codes_BN: torch.Tensor) -> Pixels:
        decoded = decode(codes_BN)
        decoded.pixels.add_(torch.arange(len(codes_BN), dtype=torch.uint8).view(-1, 1, 1, 1))
        return decoded

    engine.decode_pixels = decode_by_place
    images = stage.requests(stage.different_prompts(3, most_words=5), cfg_weight=1.0, temperature=1.0)
    rows = list(same_bytes._rows("tiny", engine, images, [], ("codes", "pixels")))

    assert {row.name for row in rows if "codes" in row.name and not row.is_ok} == set()
    assert [(row.name, row.is_ok) for row in rows[-4:]] == [
        ("tiny: numbers of prompts", True),
        ("tiny: numbers of hidden states", True),
        ("tiny: numbers of logits", True),
        ("tiny: numbers of images", False),
    ]


@runs_engines_on_a_cpu
def test_no_stage_of_janusflow_has_other_numbers_in_other_calls(tmp_path: Path) -> None:
    engine = tiny_stage("cpu", "float32", tmp_path).flow_engine()
    images = stage.requests(stage.different_prompts(3), cfg_weight=2.0, num_inference_steps=1)
    rows = list(which_stage.compare_stages("tiny", engine, images))
    assert [(row.name.rpartition(" of ")[2], row.is_ok) for row in rows] == [
        ("prompts", True),
        ("velocities", True),
        ("images", True),
    ]


def test_prompts_are_all_different_and_of_several_lengths() -> None:
    prompts = stage.different_prompts(100)
    assert len(set(prompts)) == 100
    assert {len(prompt.split()) for prompt in prompts} >= {5, 42}


def test_a_word_of_a_prompt_is_one_token() -> None:
    checkpoint = fetched(TINY)
    tokenizer = PromptTokenizer(checkpoint.path, checkpoint.template)
    assert {len(tokenizer.cond_ids(f"1 {word}")) - len(tokenizer.cond_ids("1")) for word in stage.WORDS} == {1}
