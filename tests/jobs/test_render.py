"""`janus-batch render` as a user runs it: messages, exit codes, and the output that an interrupted run leaves."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
import ray
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

from jobs.job_file.read import read_job_file
from jobs.render import render
from jobs.terminal.text import counted
from tests.support import toy_job
from tests.support.command import JANUS_BATCH, finish, press_ctrl_c, processes_of, run, start, wait_until, write_job
from tests.support.toy_job import make_job, manifest_of, write_prompts
from workflows.dispatch.ray_start import ClusterError
from workflows.storage import lease
from workflows.storage.store import Storage

NUM_ROWS = 60
NUM_KILLS = 3
HINT = "janus-batch: interrupted; run the same command again to resume"


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """A job of twelve shards that one actor renders in a few seconds."""
    prompts = [f"prompt {n} toy:sleep=0.05" for n in range(NUM_ROWS)]
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": prompts})
    sections = {"workers": {"max": 1, "batch_size": 2}, "shard_rows": 5}
    return write_job(tmp_path / "job.yaml", path, tmp_path / "out", **sections)


@pytest.fixture(scope="module")
def sessions() -> Iterator[list[int]]:
    """Sessions of runs that started Ray and were killed. After the tests, none of their processes may be left.

    Linux ends Ray's main processes with the driver; workers follow within seconds, Ray's agents within a minute.
    """
    ended: list[int] = []
    yield ended
    if sys.platform == "linux":
        wait_until(lambda: not any(processes_of(session) for session in ended))


@pytest.fixture
def address(ray_cluster: None) -> str:
    """The address of the tests' own Ray: joining it is faster than starting one."""
    return ray.get_runtime_context().gcs_address


@pytest.fixture
def busy_agent_port() -> Iterator[None]:
    """Another program has the port that Ray's agent would take, as another Ray on the same machine does."""
    with socket.socket() as other:
        with suppress(OSError):  # it is taken already
            other.bind(("127.0.0.1", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT))
            other.listen()
        yield


def num_committed(tmp_path: Path) -> int:
    return len(list((tmp_path / "out" / "manifest").glob("*.parquet")))


def hashes_of(prompts: Path, output: Path) -> dict[str, str]:
    rows = manifest_of(make_job(prompts, output))
    assert len({row["image_id"] for row in rows}) == len(rows), "an image is in the manifest twice"
    return {row["image_id"]: row["image_sha256"] for row in rows}


def calm_hashes(tmp_path: Path) -> dict[str, str]:
    """The hashes of the same prompts rendered without Ray and without faults."""
    toy_job.render(make_job(tmp_path / "prompts.parquet", tmp_path / "calm"))
    return hashes_of(tmp_path / "prompts.parquet", tmp_path / "calm")


@pytest.mark.timeout(600)
@pytest.mark.ray
def test_the_same_command_finishes_a_run_that_was_killed(tmp_path: Path, job_file: Path, sessions: list[int]) -> None:
    killed = start("render", job_file)
    wait_until(lambda: num_committed(tmp_path) >= 2, killed)
    os.kill(killed.pid, signal.SIGKILL)
    finish(killed)
    sessions.append(killed.pid)
    assert not (tmp_path / "out" / "_SUCCESS").exists()

    num_before = num_committed(tmp_path)
    answer = run("render", job_file)

    assert answer.returncode == 0
    num_left = 12 - num_before
    assert f"resuming: {5 * num_before} prompts done, {counted(num_left, 'shard')} left\n" in answer.stderr
    assert f"done: {NUM_ROWS} images, 0 rejected" in answer.stderr
    assert f"{5 * num_left} of them in this run" in answer.stderr
    assert answer.stdout == ""
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert run("verify", tmp_path / "out").returncode == 0
    assert hashes_of(tmp_path / "prompts.parquet", tmp_path / "out") == calm_hashes(tmp_path)

    again = run("render", job_file)
    assert again.returncode == 0
    assert "starting Ray" not in again.stderr


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("killed", ["raylet", "ray::DashboardA", "ray::RuntimeEnv"])  # names end after 15 characters
def test_a_ray_that_dies_is_reported(tmp_path: Path, job_file: Path, sessions: list[int], killed: str) -> None:
    """If one of its agents dies, the raylet exits, and Ray mostly ends the driver's process before it can report it."""
    driver = start("render", job_file, "--json")
    sessions.append(driver.pid)
    wait_until(lambda: num_committed(tmp_path) >= 1, driver)
    (process,) = (process for process, name in processes_of(driver.pid).items() if name == killed)
    os.kill(process, signal.SIGKILL)
    ended = finish(driver)

    assert ended.returncode == 1
    words = "janus-batch: (Ray died on the driver's own machine|this process ended without a result. Ray ends it)"
    assert re.search(words, ended.stderr), ended.stderr
    assert "janus-batch: run the same command again to resume; committed images are kept\n" in ended.stderr
    assert "Traceback" not in ended.stderr
    events = [json.loads(line)["event"] for line in ended.stdout.splitlines()]  # and Ray prints nothing there
    assert events[-1] == "failed"
    assert "failed" not in events[:-1]


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("busy_agent_port")
def test_the_ray_that_a_run_starts_listens_on_this_machine_only(
    tmp_path: Path, job_file: Path, sessions: list[int]
) -> None:
    as_without_the_tests = ("env", "-u", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", *JANUS_BATCH)
    driver = start("render", job_file, program=as_without_the_tests)
    wait_until(lambda: num_committed(tmp_path) >= 1, driver)
    addresses = listening_addresses(processes_of(driver.pid))
    press_ctrl_c(driver)
    finish(driver)
    sessions.append(driver.pid)

    assert addresses
    assert all(address.is_loopback for address in addresses), addresses


def listening_addresses(pids: Iterable[int]) -> set[IPv4Address | IPv6Address]:
    """The local addresses that processes accept TCP connections on. Linux only."""
    owned = {target for pid in pids for target in open_files(pid)}
    addresses = set()
    for table, kind in (("tcp", IPv4Address), ("tcp6", IPv6Address)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in owned:
                words = [local[start : start + 8] for start in range(0, len(local.partition(":")[0]), 8)]
                address = kind(b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words))
                addresses.add(getattr(address, "ipv4_mapped", None) or address)
    return addresses


def open_files(pid: int) -> list[str]:
    """The targets of a process's file descriptors; none once it has ended."""
    with suppress(OSError):
        return [target for link in os.scandir(f"/proc/{pid}/fd") if (target := link_target(link.path))]
    return []


def link_target(path: str) -> str:
    """The target of a link, empty if it was removed."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


@pytest.mark.timeout(600)
def test_drivers_killed_at_random_moments_leave_the_same_images(tmp_path: Path, job_file: Path, address: str) -> None:
    chance = random.Random(7)

    for num_shards in sorted(chance.sample(range(1, 10), NUM_KILLS)):
        driver = start("render", job_file, "--address", address)
        wait_until(lambda n=num_shards: num_committed(tmp_path) >= n, driver)
        time.sleep(chance.random() / 2)
        os.kill(driver.pid, signal.SIGKILL)
        finish(driver)
    answer = run("render", job_file, "--address", address)

    assert answer.returncode == 0
    assert hashes_of(tmp_path / "prompts.parquet", tmp_path / "out") == calm_hashes(tmp_path)
    assert run("verify", tmp_path / "out").returncode == 0


def test_an_interrupted_driver_says_how_to_resume(tmp_path: Path, job_file: Path, address: str) -> None:
    driver = start("render", job_file, "--address", address)
    wait_until(lambda: num_committed(tmp_path) >= 1, driver)
    press_ctrl_c(driver)
    answer = finish(driver)

    assert answer.returncode == 1
    assert f"\n{HINT}\n" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_driver_that_receives_sigterm_finishes_the_shards_in_flight_and_says_how_to_resume(
    tmp_path: Path, job_file: Path, address: str
) -> None:
    driver = start("render", job_file, "--address", address, "--set", "workers.drain_seconds=120")
    wait_until(lambda: num_committed(tmp_path) >= 1, driver)
    driver.terminate()
    answer = finish(driver)

    assert answer.returncode == 1
    num_shards = num_committed(tmp_path)
    assert f"janus-batch: received SIGTERM: this run committed {num_shards} of 12 shards\n" in answer.stderr
    assert answer.stderr.endswith("run the same command again to resume; committed images are kept\n")
    assert 1 <= num_shards < 12
    # No image in flight was wasted: every image file belongs to a committed shard.
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 5 * num_shards


@pytest.mark.timeout(600)
@pytest.mark.ray
def test_two_drivers_on_one_output_at_the_same_time_leave_every_image_once(
    tmp_path: Path, job_file: Path, address: str
) -> None:
    """Each uses its own Ray, so they share only the output folder."""
    drivers = [start("render", job_file, "--ignore-lease", *where) for where in ((), ("--address", address))]
    answers = [finish(driver) for driver in drivers]

    assert [answer.returncode for answer in answers] == [0, 0], [answer.stderr for answer in answers]
    assert hashes_of(tmp_path / "prompts.parquet", tmp_path / "out") == calm_hashes(tmp_path)
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert run("verify", tmp_path / "out").returncode == 0


@pytest.fixture
def small_job(tmp_path: Path) -> Path:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["one", "two"]})
    return write_job(tmp_path / "job.yaml", prompts, tmp_path / "out", workers={"max": 1})


@pytest.mark.ray
def test_a_sigterm_while_ray_ends_its_processes_changes_no_exit_code(small_job: Path, sessions: list[int]) -> None:
    program = (
        "import os, janus_batch",
        "from ray._private.node import Node",
        "end_processes = Node.kill_all_processes",
        "Node.kill_all_processes = lambda *how, **more: (os.kill(os.getpid(), 15), end_processes(*how, **more))",
        "janus_batch.main()",
    )
    driver = start("render", small_job, program=(sys.executable, "-c", "\n".join(program)))
    ended = finish(driver)
    sessions.append(driver.pid)

    assert ended.returncode == 0, ended.stderr
    assert "done: 2 images" in ended.stderr


@pytest.mark.ray
@pytest.mark.parametrize("home", ["/dev/null", "~"], ids=["not writable", "none"])
def test_a_run_needs_no_home_folder(
    small_job: Path, sessions: list[int], home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray writes a token into it, unless RAY_AUTH_MODE is set as in the tests."""
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("HOME", home)
    driver = start("render", small_job)
    ended = finish(driver)
    sessions.append(driver.pid)

    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("number", ["INT", "TERM"])
def test_a_signal_after_the_result_stops_only_the_jobs_that_follow(
    small_job: Path, tmp_path: Path, address: str, number: str
) -> None:
    facts = tmp_path / "facts.json"
    how = ("--address", address, "--set", f"on_done=kill -{number} $PPID; cat > {facts}")

    one = run("render", small_job, *how)
    notification = json.loads(facts.read_text())
    of_two = run("render", small_job, small_job, *how)

    assert (one.returncode, of_two.returncode) == (0, 1), one.stderr + of_two.stderr
    assert HINT not in one.stderr
    assert notification["state"] == "done"
    assert HINT in of_two.stderr


def test_a_second_ctrl_c_ends_the_driver_at_once_without_a_traceback(
    tmp_path: Path, job_file: Path, address: str
) -> None:
    driver = start("render", job_file, "--address", address)
    wait_until(lambda: num_committed(tmp_path) >= 1, driver)
    press_ctrl_c(driver)
    wait_until(lambda: HINT in driver.stderr.readline())
    press_ctrl_c(driver)
    answer = finish(driver)

    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("where", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_cluster_that_cannot_be_joined_is_refused(job_file: Path, where: str) -> None:
    answer = run("render", job_file, "--address", where)

    assert answer.returncode == 2
    assert f"janus-batch: --address: no Ray cluster can be joined at {where} (" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_ray_that_does_not_start_is_reported(job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null/ray")  # a folder that cannot be created
    ended = run("render", job_file)
    assert ended.returncode == 1
    assert "Ray did not start on this machine" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("name", ["x" * 60, "café", "a/" * 30])
def test_a_folder_that_cannot_hold_rays_sockets_is_refused(
    job_file: Path, variable: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("RAY_TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, f"/tmp/{name}")
    ended = run("render", job_file)

    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"janus-batch: {variable}: Ray keeps its sockets in /tmp/")
    assert last.endswith("set RAY_TMPDIR=/tmp")


def test_a_wrong_job_file_is_refused(job_file: Path) -> None:
    answer = run("render", job_file, "--set", "sampling.sed=7")

    assert answer.returncode == 2
    assert answer.stderr == "janus-batch: sampling.sed: unknown key; did you mean `seed`?\n"


def test_gpus_that_this_machine_does_not_have_are_refused(job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    spec = read_job_file(str(job_file), ["workers.gpus_per_actor=1"])
    with pytest.raises(ClusterError, match=r"workers.gpus_per_actor: this machine has 0 GPUs, got 1; 0 renders"):
        render(spec, address=None)


def test_a_held_output_is_refused_and_a_waiting_run_starts_when_it_is_free(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["one", "two"]})
    job_file = write_job(tmp_path / "job.yaml", prompts, tmp_path / "out", workers={"max": 1})
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    with lease.hold_output(Storage(str(tmp_path / "out")), "nightly"):
        with pytest.raises(lease.OutputInUseError, match=r"out is being rendered by nightly on .*--ignore-lease"):
            render(read_job_file(str(job_file), []), address=address)
        waiting = start("render", job_file, "--address", address, "--wait-for-output")
        wait_until(lambda: "waiting: " in waiting.stderr.readline(), waiting)
        assert num_committed(tmp_path) == 0

    assert finish(waiting).returncode == 0
    assert num_committed(tmp_path) == 1
    assert not list((tmp_path / "out").glob("_lease*"))


@pytest.mark.ray
def test_a_failure_is_the_last_json_line(tmp_path: Path, address: str) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["toy:bug 0", "toy:bug 1"]})
    job = write_job(tmp_path / "job.yaml", prompts, tmp_path / "out", workers={"max": 1, "max_tries": 1})

    failed = run("render", job, "--json", "--address", address)
    wrong = run("render", job, "--json", "--address", address, "--set", f"prompts={tmp_path / 'nothing'}")

    for answer, code, reason in ((failed, 1, "a bug met image"), (wrong, 2, "prompts: no prompt files match")):
        last = json.loads(answer.stdout.splitlines()[-1])
        assert answer.returncode == code
        assert (last["event"], last["job"], last["output"]) == ("failed", "job", str(tmp_path / "out"))
        assert reason in last["error"]
