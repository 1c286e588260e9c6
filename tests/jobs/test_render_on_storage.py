"""`janus-batch render` with storage that is full, unreachable or silent, with growing prompts, and with secrets."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests import conftest
from tests.support import toy_job
from tests.support.command import finish, run, start, wait_until, write_job
from tests.support.servers.faulty_proxy import Choice, FaultyProxy
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import bytes_of, make_job, manifest_of, write_prompts
from workflows.storage.store import Storage

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

NUM_ROWS, SHARD_ROWS = 24, 4
WORKERS = {"max": 1, "batch_size": 2}
Answer = subprocess.CompletedProcess[str]
# One call of a client, without retries of its own: long enough for a slow answer on a busy machine.
CALL_SECONDS = 5
ONE_CALL = {
    "connect_timeout": CALL_SECONDS,
    "read_timeout": CALL_SECONDS,
    "retries": {"mode": "standard", "total_max_attempts": 1},
}


@pytest.fixture
def address(ray_cluster: None) -> str:
    """Where a driver joins the tests' own Ray."""
    return ray.get_runtime_context().gcs_address


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    """A folder of prompts with one file."""
    texts = [f"prompt {n} toy:sleep=0.05" for n in range(NUM_ROWS)]
    write_prompts(tmp_path / "prompts" / "a.parquet", {"prompt": texts, "id": [f"a{n}" for n in range(NUM_ROWS)]})
    return str(tmp_path / "prompts")


def hashes_of(prompts: str, output: Path | str, storage: dict[str, object] | None = None) -> dict[str, str]:
    rows = manifest_of(make_job(prompts, output, storage=storage or {}))
    assert len({row["image_id"] for row in rows}) == len(rows), "an image is in the manifest twice"
    return {row["image_id"]: row["image_sha256"] for row in rows}


def calm_hashes(prompts: str, tmp_path: Path) -> dict[str, str]:
    toy_job.render(make_job(prompts, tmp_path / "calm"))
    return hashes_of(prompts, tmp_path / "calm")


# ---- full ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for only some of the images."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("the mount command is not installed")
    if mounted.returncode:
        pytest.skip(f"this user may not mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_job_and_the_next_run_finishes_it_once_there_is_room(
    tmp_path: Path, prompts: str, address: str, small_disk: Path
) -> None:
    output = small_disk / "out"
    job_file = write_job(tmp_path / "job.yaml", prompts, output, workers=WORKERS, shard_rows=SHARD_ROWS)

    full = run("render", job_file, "--address", address)
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    roomy = run("render", job_file, "--address", address)

    assert full.returncode == 1
    assert f"janus-batch: {output} is full, " in full.stderr
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    assert roomy.returncode == 0, roomy.stderr
    assert hashes_of(prompts, output) == calm_hashes(prompts, tmp_path)
    assert run("verify", output).returncode == 0


# ---- unreachable, silent ---------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.port).running() as proxy:
        yield proxy


def job_on_s3(folder: Path, prompts: str, output: str, endpoint_url: str, **workers: object) -> Path:
    return write_job(
        folder / "job.yaml",
        prompts,
        output,
        storage={"endpoint_url": endpoint_url, "config_kwargs": ONE_CALL},
        workers={**WORKERS, **workers},
        shard_rows=SHARD_ROWS,
    )


def num_committed(output: str, server: S3Server) -> int:
    return len(Storage(output, server.storage_options).names("manifest"))


def render_through(
    proxy: FaultyProxy, fault: Choice, job_file: Path, output: str, address: str, server: S3Server
) -> tuple[Answer, Answer]:
    """Run with a store that has a fault after the first commit, and run again after the fault."""
    driver = start("render", job_file, "--address", address)
    wait_until(lambda: num_committed(output, server) >= 1, driver)
    proxy.choose = fault
    faulty = finish(driver)
    proxy.choose = lambda method, path: None
    return faulty, run("render", job_file, "--address", address)


def test_a_store_that_is_unreachable_for_longer_than_the_retry_time_ends_the_job(
    tmp_path: Path, prompts: str, address: str, s3_server: S3Server, s3_folder: str, proxy: FaultyProxy
) -> None:
    output = f"{s3_folder}/out"
    job_file = job_on_s3(tmp_path, prompts, output, proxy.endpoint_url, storage_retry_seconds=1, max_tries=1)
    away, back = render_through(proxy, lambda method, path: "reset", job_file, output, address, s3_server)

    assert away.returncode == 1
    assert "run the same command again to resume; committed images are kept\n" in away.stderr
    assert "Traceback" not in away.stderr
    assert back.returncode == 0, back.stderr
    assert hashes_of(prompts, output, s3_server.storage_options) == calm_hashes(prompts, tmp_path)
    assert run("verify", output, "--endpoint-url", s3_server.endpoint_url).returncode == 0


@pytest.mark.parametrize("methods", [{"PUT"}, {"GET", "HEAD", "PUT", "DELETE"}], ids=["to write", "at all"])
def test_a_store_that_withdraws_its_permission_ends_the_job_with_the_reason(
    tmp_path: Path,
    prompts: str,
    address: str,
    s3_server: S3Server,
    s3_folder: str,
    proxy: FaultyProxy,
    methods: set[str],
) -> None:
    output = f"{s3_folder}/out"
    job_file = job_on_s3(tmp_path, prompts, output, proxy.endpoint_url)
    refused, allowed = render_through(
        proxy, lambda method, path: "AccessDenied" if method in methods else None, job_file, output, address, s3_server
    )

    assert refused.returncode == 1
    assert "janus-batch: storage refused for good: PermissionError: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert allowed.returncode == 0, allowed.stderr
    assert hashes_of(prompts, output, s3_server.storage_options) == calm_hashes(prompts, tmp_path)


def test_a_store_that_accepts_connections_without_answering_is_retried(
    tmp_path: Path, prompts: str, address: str, s3_server: S3Server, s3_folder: str
) -> None:
    output = f"{s3_folder}/out"
    job_file = job_on_s3(tmp_path, prompts, output, s3_server.endpoint_url)
    driver = start("render", job_file, "--address", address)
    wait_until(lambda: num_committed(output, s3_server) >= 1, driver)
    s3_server.pause()
    time.sleep(1.5 * CALL_SECONDS)  # longer than one call
    s3_server.resume()
    answer = finish(driver)

    assert answer.returncode == 0, answer.stderr
    assert " retries" not in answer.stderr
    assert hashes_of(prompts, output, s3_server.storage_options) == calm_hashes(prompts, tmp_path)


# ---- removed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "manifest"])
def test_an_output_that_is_removed_during_a_run_fails_it_and_the_same_command_renders_it_again(
    tmp_path: Path, prompts: str, address: str, folder: str
) -> None:
    output = tmp_path / "out"
    job_file = write_job(tmp_path / "job.yaml", prompts, output, workers=WORKERS, shard_rows=SHARD_ROWS)
    driver = start("render", job_file, "--address", address)
    wait_until(lambda: len(list((output / "manifest").glob("*.parquet"))) >= 2, driver)
    (output / folder).rename(tmp_path / "removed")
    removed = finish(driver)
    again = run("render", job_file, "--address", address)

    assert removed.returncode == 1
    assert f"janus-batch: files of {output} were removed while the job was running; " in removed.stderr
    assert "Traceback" not in removed.stderr
    assert again.returncode == 0, again.stderr
    assert hashes_of(prompts, output) == calm_hashes(prompts, tmp_path)
    # A shard that was being committed at that moment may have left its images in the removed folder.
    run("verify", output, "--repair")
    assert run("render", job_file, "--address", address).returncode == 0
    assert run("verify", output).returncode == 0


# ---- prompts that grow -----------------------------------------------------------------------------------------------


def test_a_new_prompt_file_is_rendered_by_itself_and_a_changed_one_is_refused_by_name(
    tmp_path: Path, prompts: str, address: str
) -> None:
    output = tmp_path / "out"
    job_file = write_job(tmp_path / "job.yaml", prompts, output, workers=WORKERS, shard_rows=SHARD_ROWS)
    assert run("render", job_file, "--address", address).returncode == 0
    first = bytes_of(output / "images") | bytes_of(output / "manifest")

    write_prompts(Path(prompts) / "b.parquet", {"prompt": ["new 1", "new 2", "new 3"], "id": ["b1", "b2", "b3"]})
    grown = run("render", job_file, "--address", address)

    assert grown.returncode == 0
    assert "3 of them in this run" in grown.stderr
    second = bytes_of(output / "images") | bytes_of(output / "manifest")
    assert first.items() < second.items()
    assert run("verify", output).returncode == 0

    write_prompts(Path(prompts) / "b.parquet", {"prompt": ["other 1", "new 2", "new 3"], "id": ["b1", "b2", "b3"]})
    changed = run("render", job_file, "--address", address)

    assert changed.returncode == 2
    assert "b.parquet was changed after rows of it were rendered into this output" in changed.stderr
    assert bytes_of(output / "images") | bytes_of(output / "manifest") == second


# ---- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_a_file_of_the_output_in_a_log_or_in_printed_text(
    tmp_path: Path, prompts: str, address: str, s3_server: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = {"HF_TOKEN": "hf_planted0token", "AWS_SECRET_ACCESS_KEY": conftest.SECRET_KEY}
    secrets = [conftest.ACCESS_KEY, *planted.values(), "planted-storage-secret"]
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    output = f"{s3_folder}/out"
    job_file = job_on_s3(tmp_path, prompts, output, s3_server.endpoint_url)
    bad_file = tmp_path / "bad.yaml"
    bad_file.write_text(job_file.read_text().replace("storage:\n", "storage:\n  secret: planted-storage-secret\n"))

    answers = [
        run("render", job_file, "--address", address, "--json"),
        run("verify", output, "--endpoint-url", s3_server.endpoint_url),
        run("status", output, "--endpoint-url", s3_server.endpoint_url),
        run("render", bad_file, "--address", address),
    ]

    assert [answer.returncode for answer in answers] == [0, 0, 0, 2]
    storage = Storage(output, s3_server.storage_options)
    files = {name: storage.read(name) for name in storage.walk("")}
    assert {"job.json", "report.html", "_SUCCESS"} <= files.keys()
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    printed = {str(answer.args): (answer.stdout + answer.stderr).encode() for answer in answers}
    for name, data in {**files, **bytes_of(logs), **printed}.items():
        assert not [secret for secret in secrets if secret.encode() in data], name
