"""One round: a job that is rendered despite faults, compared with the same job rendered without them."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.faults import Fault, Targets, cause, draw_faults
from tests.chaos.machines import NUM_NODES, Machines
from tests.support import toy_job
from tests.support.command import JANUS_BATCH, finish, run, start, write_job
from tests.support.toy_job import make_job, manifest_of, recipe, rejected_of, write_prompts
from workflows.job import Images, RenderJob
from workflows.storage.store import Storage

NUM_ROWS = 150
IMAGES_PER_PROMPT = 2
SHARD_ROWS = 6
SECONDS_PER_IMAGE = 0.1
LAYOUTS = ("files", "webdataset", "parquet")
MAX_RUNS = 30
ROUND_SECONDS = 400
POLL_SECONDS = 0.05

# Correct errors of a driver that starts while its cluster or its store is away.
AWAY = ("no Ray cluster can be joined", "cannot be reached", "cannot be used")

# A driver whose head node is gone ends soon, because the new head is at another address. This is for the driver only:
# under load, the cluster's own processes need the default of one minute.
GIVE_UP_SOON = "RAY_gcs_rpc_server_reconnect_timeout_s=10"


@dataclass(kw_only=True, slots=True)
class Outcome:
    """The faults of a round by kind, and the errors in its images. `errors` are sentences for people."""

    number: int
    layout: str
    faults: Counter[str] = field(default_factory=Counter)
    num_runs: int = 0
    num_images: int = 0
    num_lost: int = 0
    num_doubled: int = 0
    num_different: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_whole(self) -> bool:
        return not (self.num_lost or self.num_doubled or self.num_different or self.errors)


def run_round(machines: Machines, folder: Path, *, seed: int, number: int, num_faults: int) -> Outcome:
    """Render a job to its end despite `num_faults` faults, and check its output."""
    folder.mkdir(parents=True)
    prompts = write_prompts(folder / "prompts.parquet", _columns())
    layout = LAYOUTS[number % len(LAYOUTS)]
    calm = _job(prompts, str(folder / "calm"), layout)
    toy_job.render(calm)
    faulty = _job(prompts, machines.store.url(f"chaos-{seed}-{number}"), layout, storage=machines.storage_options)
    outcome, started_at = Outcome(number=number, layout=layout), time.monotonic()
    faults = draw_faults(seed, number, num_faults, keeps_objects=machines.store.keeps_objects)
    _render_despite(machines, _job_file(folder, faulty), faults, outcome)
    outcome.seconds = time.monotonic() - started_at
    _check(faulty, calm, outcome)
    return outcome


def _columns() -> dict[str, list[object]]:
    """Slow prompts; two in one shard cannot be rendered."""
    prompts: list[object] = [f"prompt {n} toy:sleep={SECONDS_PER_IMAGE}" for n in range(NUM_ROWS)]
    prompts[7], prompts[9] = "toy:nan", None
    return {"id": [f"row{n}" for n in range(NUM_ROWS)], "prompt": prompts}


def _job(prompts: str, output: str, layout: str, **changes: object) -> RenderJob:
    images, two_each = Images(layout=layout), recipe(images_per_prompt=IMAGES_PER_PROMPT)
    return make_job(prompts, output, recipe=two_each, images=images, shard_rows=SHARD_ROWS, **changes)


def _job_file(folder: Path, job: RenderJob) -> Path:
    return write_job(
        folder / "job.yaml",
        job.prompts,
        job.output,
        storage=job.storage,
        sampling={"images_per_prompt": IMAGES_PER_PROMPT},
        images={"layout": job.images.layout},
        workers={"max": NUM_NODES, "batch_size": 4, "drain_seconds": 2},
        shard_rows=SHARD_ROWS,
    )


def _render_despite(machines: Machines, job_file: Path, faults: list[Fault], outcome: Outcome) -> None:
    """Start the driver, and restart it whenever it has ended, until it succeeds."""
    waiting, deadline = list(reversed(faults)), time.monotonic() + ROUND_SECONDS
    driver, due = _start(machines, job_file, outcome), time.monotonic() + _gap(waiting)
    try:
        while driver.poll() is None or (driver.returncode != 0 and outcome.num_runs < MAX_RUNS):
            if driver.poll() is not None:
                _note_end(driver, outcome)
                driver = _start(machines, job_file, outcome)
            # A fault without a victim waits for one.
            if waiting and time.monotonic() >= due and cause(waiting[-1], Targets(machines=machines, driver=driver)):
                outcome.faults[waiting.pop().kind] += 1
                due = time.monotonic() + _gap(waiting)
            if time.monotonic() > deadline:
                outcome.errors.append(f"not done after {ROUND_SECONDS} s")
                return
            time.sleep(POLL_SECONDS)
        _note_end(driver, outcome)
    finally:
        driver.kill()


def _gap(waiting: list[Fault]) -> float:
    return waiting[-1].gap if waiting else 0.0


def _start(machines: Machines, job_file: Path, outcome: Outcome) -> subprocess.Popen[str]:
    outcome.num_runs += 1
    machines.repair()
    return start("render", job_file, "--address", machines.address, program=("env", GIVE_UP_SOON, *JANUS_BATCH))


def _note_end(driver: subprocess.Popen[str], outcome: Outcome) -> None:
    """A driver may be killed, or fail with a reason. It must not refuse the job or end with a traceback."""
    answer = finish(driver)
    is_refused = answer.returncode == 2 and not any(words in answer.stderr for words in AWAY)
    if is_refused or "Traceback" in answer.stderr:
        outcome.errors.append(f"a driver ended with {answer.returncode}: {answer.stderr[-3000:]}")


def _check(job: RenderJob, calm: RenderJob, outcome: Outcome) -> None:
    """Count images lost, doubled or different, and let `verify` read every byte."""
    wanted = {row["image_id"]: row["image_sha256"] for row in manifest_of(calm)}
    rows = manifest_of(job)
    found = {row["image_id"]: row["image_sha256"] for row in rows}
    outcome.num_images = len(found)
    outcome.num_lost = len(wanted.keys() - found.keys())
    outcome.num_doubled = len(rows) - len(found)
    outcome.num_different = sum(found[image_id] != wanted.get(image_id) for image_id in found)
    if _rejections(job) != _rejections(calm):
        outcome.errors.append(f"other rows were rejected: {_rejections(job) ^ _rejections(calm)}")
    storage = Storage(job.output, job.storage)
    tops = storage.names("")
    if "_SUCCESS" not in tops or any(name.startswith("_lease") for name in tops):
        outcome.errors.append(f"at the end there were {tops}")
    answer = run("verify", job.output, "--endpoint-url", job.storage["endpoint_url"], "--clean")
    if answer.returncode:
        outcome.errors.append(f"verify: {answer.stdout}{answer.stderr}")


def _rejections(job: RenderJob) -> set[tuple[str, str | None]]:
    return {(row["prompt_id"], row["image_id"]) for row in rejected_of(job)}
