"""`janus_batch.render` from a script, a notebook's event loop and a Ray driver."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

import janus_batch
from jobs.api.words import in_python
from jobs.terminal import last_word
from tests.support.command import ROOT, finish, wait_until
from tests.support.servers.process import dies_with_parent
from tests.support.toy_job import bytes_of, write_prompts
from workflows.output.claim import OtherJobError


def test_importing_it_loads_nothing_of_the_program() -> None:
    names = ("actors", "workflows", "jobs", "ray", "numpy", "pyarrow")
    code = f"import sys, janus_batch; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_its_signature_names_the_arguments() -> None:
    assert list(inspect.signature(janus_batch.render).parameters) == [
        *("prompts", "checkpoint", "output", "address", "when_held", "max_rejected", "allow_empty", "progress", "keys")
    ]
    assert sorted(janus_batch.__all__) == ["InputError", "JobFailure", "Output", "VERSION", "open", "render"]
    with pytest.raises(AttributeError, match="module 'janus_batch' has no attribute 'rendr'"):
        janus_batch.rendr  # noqa: B018


def test_in_a_ray_driver_with_a_running_loop_it_renders_resumes_and_refuses_other_prompts(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray

    rows = pd.DataFrame({"prompt": ["a red fox", "", "a cat"], "id": ["fox", "none", "cat"], "tag": [1, 2, 3]})

    def render(prompts: object) -> janus_batch.Output:
        how = {"checkpoint": "toy", "output": tmp_path / "out", "seed": 7, "workers": {"max": 1}}
        return janus_batch.render(prompts, **how, progress=False)

    async def notebook() -> janus_batch.Output:
        return render(rows)

    output = asyncio.run(notebook())

    assert output.rows.select(["image_id", "tag", "row_seed"]).to_pylist() == [
        {"image_id": "fox_0", "tag": 1, "row_seed": 7},
        {"image_id": "cat_0", "tag": 3, "row_seed": 7},
    ]
    assert output.rejected["reason"].to_pylist() == ["prompt is empty"]
    assert output.is_finished
    assert output.replay("fox_0").same_bytes
    images = {name: data for name, data in bytes_of(tmp_path / "out").items() if name.startswith("images/")}
    assert render(rows).images[0] == output.images[0]
    with pytest.raises(OtherJobError, match="its prompt 3 is 'a cat', yours is 'a dog'; give the same prompts"):
        render(rows.assign(prompt=["a red fox", "", "a dog"]))
    assert bytes_of(tmp_path / "out").items() >= images.items()
    assert ray.is_initialized()
    assert "".join(capfd.readouterr()) == ""


def test_in_another_thread_it_renders_prompt_files(ray_cluster: None, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a red fox"]})
    outputs = []

    def render() -> None:
        outputs.append(janus_batch.render(prompts, checkpoint="toy", output=tmp_path / "out", workers={"max": 1}))

    thread = threading.Thread(target=render)
    thread.start()
    thread.join()

    assert [len(output) for output in outputs] == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "a red fox"}, r"prompts=\['a red fox'\]"),
        ({"prompts": [{"text": "a fox"}]}, "the table has no column `prompt`; its columns are text"),
        ({"checkpoint": "./none"}, "none"),
        ({"cfg_weight": 70}, r"sampling\.cfg_weight: "),
        ({"max_rejected": "much"}, "max_rejected: must be a number of images, .* got 'much'"),
        ({"when_held": "no"}, "when_held: must be refuse, wait or ignore, got 'no'"),
        ({"output": "ftp:/x"}, "output: "),
        ({"output": 7}, "output: must be a path or URL, got 7"),
        ({"address": 8265}, "address: must be HOST:PORT of a head node or auto, got 8265"),
        ({"progress": "no"}, "progress: must be True or False, got 'no'"),
        ({"allow_empty": 1}, "allow_empty: must be True or False, got 1"),
        ({"prompts": [{"Caption": "a fox", "id": "x"}]}, "did you mean `prompt_column='Caption'`"),
    ],
)
def test_what_is_refused_writes_nothing(tmp_path: Path, changes: dict, message: str) -> None:
    how = {"prompts": ["a fox"], "checkpoint": "toy", "output": tmp_path / "out", "progress": False, **changes}

    with pytest.raises(janus_batch.InputError, match=message):
        janus_batch.render(**how)
    assert not (tmp_path / "out").exists()


def test_a_job_that_fails_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(janus_batch.JobFailure, match=r"the prompts have no rows, .*; allow_empty=True acc") as failed:
        janus_batch.render([], checkpoint="toy", output=tmp_path / "out")
    assert last_word._unsaid == []  # nothing prints the error of a program that has caught it

    assert failed.value.__notes__ == ["committed images are kept"]
    output = janus_batch.render([], checkpoint="toy", output=tmp_path / "out", progress=False, allow_empty=True)
    assert len(output) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("did you mean `--set prompt_column=Caption`?", "did you mean `prompt_column='Caption'`?"),
        ("`--set 'prompt_column=My prompt'`", "`prompt_column='My prompt'`"),
        ("`--set 'prompt_column=\"My prompt: x\"'`", "`prompt_column='My prompt: x'`"),
        ("start fewer with --set workers.max=1", "start fewer with workers={'max': 1}"),
        ("wait with --wait-for-output, or --ignore-lease", 'wait with when_held="wait", or when_held="ignore"'),
        ("use `janus-batch submit --address URL`", "use `janus-batch submit --address URL`"),
    ],
)
def test_messages_name_arguments_and_not_options(text: str, words: str) -> None:
    assert in_python(text) == words


SCRIPT = """
import signal, sys
import janus_batch

before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
prompts = [f"fox {n} toy:sleep=0.3" for n in range(40)]
try:
    janus_batch.render(prompts, checkpoint="toy", output=sys.argv[1], shard_rows=2, workers={"max": 1})
except KeyboardInterrupt as interrupt:
    print(interrupt)
assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
output = janus_batch.render(prompts[:1], checkpoint="toy", output=sys.argv[2], workers={"max": 1})
print(len(output))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_script_is_interrupted_in_order_and_can_render_again(tmp_path: Path) -> None:
    command = [*dies_with_parent(), sys.executable, "-c", SCRIPT, str(tmp_path / "out"), str(tmp_path / "other")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: any((tmp_path / "out/manifest").glob("*.parquet")), process)

    process.send_signal(signal.SIGINT)
    done = finish(process)

    assert done.returncode == 0, done.stderr
    interrupted, num_images = done.stdout.splitlines()
    assert interrupted.startswith("interrupted: this run committed ")
    assert num_images == "1"
    assert "interrupted: the shards in flight have up to 25 s to finish" in done.stderr
    output = janus_batch.open(tmp_path / "out")
    assert 0 < len(output) < 40
    assert not output.is_finished
