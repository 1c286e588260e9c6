"""The lease on an output: one of many runs holds it, and a holder that died loses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.servers.faulty_proxy import FaultyProxy
from tests.support.servers.process import dies_with_parent
from tests.support.servers.s3 import S3Server
from workflows.storage import lease
from workflows.storage.errors import StorageFailure
from workflows.storage.holder import Holder
from workflows.storage.lease import OutputInUseError, OutputRemovedError, hold_output
from workflows.storage.store import Storage

HOLD = """
import sys, time
from workflows.storage import lease
from workflows.storage.lease import hold_output
from workflows.storage.store import Storage
lease.RENEW_SECONDS = 3
with hold_output(Storage(sys.argv[1]), "the other"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 1.5)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "out"))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the output, and renews its lease less often than these tests expect."""
    command = [*dies_with_parent(), sys.executable, "-c", HOLD, str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def lease_files(storage: Storage) -> list[str]:
    return [name for name in storage.names("") if name.startswith("_lease")]


def of_another_machine(**changes: str) -> bytes:
    """A lease whose holder runs on another machine, so that its process cannot be checked from here."""
    return Holder(job="nightly", host="gpu-7", pid=41, machine="another boot", **changes).to_json()


def test_an_output_is_held_while_the_block_runs(storage: Storage) -> None:
    with hold_output(storage, "mine") as was_waited:
        assert not was_waited
        assert lease_files(storage) == ["_lease.000001.json"]
    assert lease_files(storage) == []


@pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_one_of_many_runs_that_start_at_once_holds_the_output(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url, options = str(tmp_path / "out"), {}
    if place == "s3":
        url, options = request.getfixturevalue("s3_folder"), request.getfixturevalue("s3_server").storage_options
    num_holding, most, barrier, lock = 0, [], threading.Barrier(8), threading.Lock()

    def hold(number: int) -> str:
        nonlocal num_holding
        barrier.wait()
        try:
            with hold_output(Storage(url, options), f"run {number}"):
                with lock:
                    num_holding += 1
                    most.append(num_holding)
                time.sleep(0.5)
                with lock:
                    num_holding -= 1
                return "held"
        except OutputInUseError:
            return "refused"

    with ThreadPoolExecutor(8) as runs:
        answers = list(runs.map(hold, range(8)))
    assert max(most) == 1
    assert "held" in answers


def test_a_second_run_is_told_who_holds_the_output_and_since_when(storage: Storage) -> None:
    with (
        hold_output(storage, "nightly"),
        pytest.raises(
            OutputInUseError, match=rf"out is being rendered by nightly on \S+ \(process {os.getpid()}\) since 20\d\d-"
        ),
        hold_output(storage, "second"),
    ):
        pass


def test_a_waiting_run_starts_when_the_holder_ends(storage: Storage) -> None:
    order, lines = [], []

    def second() -> None:
        with hold_output(storage, "second", when_held="wait", say=lines.append) as was_waited:
            order.append(f"second, waited {was_waited}")

    with hold_output(storage, "first"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1)
        order.append("first")
    thread.join()
    assert order == ["first", "second, waited True"]
    assert len(lines) == 1
    assert "is being rendered by first" in lines[0]


def test_a_lease_that_is_ignored_is_neither_read_nor_written(storage: Storage) -> None:
    with hold_output(storage, "first"), hold_output(storage, "second", when_held="ignore"):
        assert lease_files(storage) == ["_lease.000001.json"]


def test_the_lease_of_a_killed_process_on_this_machine_is_free_at_once(
    storage: Storage, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 1e9)
    other.kill()
    other.wait()
    assert lease_files(storage) == ["_lease.000001.json"]

    with hold_output(storage, "mine"):
        assert lease_files(storage) == ["_lease.000002.json"]


@pytest.mark.parametrize("year", [1999, 2099])
def test_an_unchanged_lease_of_another_machine_expires_regardless_of_its_clock(year: int, storage: Storage) -> None:
    stamp = f"{year}-01-01T00:00:00+00:00"
    storage.write("_lease.000001.json", of_another_machine(since=stamp, renewed=stamp))

    with hold_output(storage, "mine"):
        assert lease_files(storage) == ["_lease.000002.json"]


@pytest.mark.parametrize("year", [1999, 2099])
def test_a_holder_on_another_machine_that_renews_keeps_the_output_regardless_of_its_clock(
    year: int, storage: Storage
) -> None:
    stop = threading.Event()

    def renew() -> None:
        second = 0
        while not stop.wait(0.2):
            second += 1
            storage.write("_lease.000001.json", of_another_machine(renewed=f"{year}-01-01T00:00:{second:02d}+00:00"))

    storage.write("_lease.000001.json", of_another_machine())
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(OutputInUseError, match=r"nightly on gpu-7 \(process 41\)"), hold_output(storage, "mine"):
            pass
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["handled", "ignored"])
def test_a_run_that_lost_its_lease_ends(storage: Storage, ctrl_c: object) -> None:
    """Also where SIGINT is ignored, as under nohup."""

    def lose_it() -> None:
        with hold_output(storage, "mine"):
            storage.write("_lease.000002.json", of_another_machine())
            time.sleep(60)

    before = signal.signal(signal.SIGINT, ctrl_c)
    try:
        with pytest.raises(OutputInUseError, match=r"taken over by nightly on gpu-7 .*: .* did not renew its lease"):
            lose_it()
        assert signal.getsignal(signal.SIGINT) is ctrl_c
    finally:
        signal.signal(signal.SIGINT, before)
    assert lease_files(storage) == ["_lease.000002.json"]


def test_a_run_in_another_thread_that_lost_its_lease_ends_and_the_main_thread_goes_on(storage: Storage) -> None:
    """A program may render in a thread of its own."""
    lost: list[str] = []

    def lose_it() -> None:
        try:
            with hold_output(storage, "mine"):
                storage.write("_lease.000002.json", of_another_machine())
                while True:
                    time.sleep(0.05)
        except OutputInUseError as error:
            lost.append(str(error))

    thread = threading.Thread(target=lose_it)
    thread.start()
    thread.join(timeout=60)

    assert len(lost) == 1
    assert "was taken over by nightly on gpu-7" in lost[0]


@pytest.mark.parametrize("next_run", [None, of_another_machine()], ids=["no run", "another run"])
def test_a_run_whose_output_is_removed_ends(storage: Storage, next_run: bytes | None) -> None:
    """Otherwise it would keep committing into a folder that may belong to another job by then."""

    def lose_it() -> None:
        with hold_output(storage, "mine"):
            storage.remove("_lease.000001.json")
            if next_run:
                storage.create("_lease.000001.json", next_run)
            time.sleep(60)

    if next_run:
        with pytest.raises(OutputInUseError, match=r"taken over by nightly on gpu-7 .*: the folder was emptied"):
            lose_it()
        assert storage.read("_lease.000001.json") == next_run
    else:
        with pytest.raises(OutputRemovedError, match=r"files of \S+/out were removed while the job was running"):
            lose_it()
        assert lease_files(storage) == []


@pytest.mark.parametrize(
    ("next_run", "holder"),
    [(None, "another run, which has ended since"), (of_another_machine(), "nightly on gpu-7 .*")],
    ids=["which has ended", "and another one has begun since"],
)
def test_a_run_that_was_suspended_while_another_took_over_and_ended_does_not_take_that_for_a_removal(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, next_run: bytes | None, holder: str
) -> None:
    """The other run leaves no lease, or the next one has the first number again."""
    storage.write("job.json", b"{}")

    def lose_it() -> None:
        with hold_output(storage, "mine"):
            monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.0)  # the last renewal is older
            if next_run:
                storage.write("_lease.000001.json", next_run)
            else:
                storage.remove("_lease.000001.json")
            time.sleep(60)

    words = f"was taken over by {holder}: this run did not renew its lease in time"
    with pytest.raises(OutputInUseError, match=words) as lost:
        lose_it()
    assert type(lost.value) is OutputInUseError


def test_a_run_that_was_suspended_while_its_output_was_removed_says_so(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_it() -> None:
        with hold_output(storage, "mine"):
            monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.0)
            storage.remove("_lease.000001.json")
            time.sleep(60)

    with pytest.raises(OutputRemovedError):
        lose_it()


def test_storage_that_fails_because_the_output_is_removed_is_reported_as_that(storage: Storage) -> None:
    def fail(*, removes: bool) -> None:
        with hold_output(storage, "mine"):
            if removes:
                storage.remove("_lease.000001.json")
            raise StorageFailure("the store refused")

    with pytest.raises(OutputRemovedError) as removed:
        fail(removes=True)
    assert isinstance(removed.value.__cause__, StorageFailure)
    with pytest.raises(StorageFailure, match="the store refused"):
        fail(removes=False)


def test_a_holder_that_was_suspended_ends_once_it_continues(storage: Storage, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGSTOP)
    with hold_output(storage, "mine"):
        other.send_signal(signal.SIGCONT)
        assert other.wait(timeout=60) == 1


@pytest.mark.filterwarnings("error")
def test_storage_that_refuses_for_a_while_does_not_cost_the_lease(s3_server: S3Server, s3_folder: str) -> None:
    with FaultyProxy(s3_server.port).running() as proxy:
        storage = Storage(f"{s3_folder}/out", {"endpoint_url": proxy.endpoint_url})
        with hold_output(storage, "mine"):
            proxy.choose = lambda method, path: "AccessDenied"
            time.sleep(1)
            proxy.choose = lambda method, path: None
            refused = storage.read("_lease.000001.json")
            time.sleep(1)
            assert storage.read("_lease.000001.json") != refused
        assert lease_files(storage) == []


def test_a_damaged_lease_expires_like_any_other(storage: Storage) -> None:
    storage.write("_lease.000001.json", b"not JSON")

    with hold_output(storage, "mine"):
        assert lease_files(storage) == ["_lease.000002.json"]
