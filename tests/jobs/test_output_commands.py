"""`janus-batch status`, `verify` and `retry-rejected`: what they print, and their exit codes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.batcher import Answer, Batcher
from actors.toy import ToyEngine
from jobs.job_file.read import read_job_file
from jobs.job_file.resolve import resolve
from jobs.terminal.printer import Printer
from jobs.verify import print_replays
from tests.support.command_line import Command
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import bytes_of, manifest_of, plan_job, render, render_shard, rows_of, write_prompts
from workflows.job import RenderJob
from workflows.output.claim import claim_output, mark_success
from workflows.output.commit import commit_shard
from workflows.output.images import write_batch
from workflows.rows import ShardRows
from workflows.storage import lease
from workflows.storage.errors import StorageUnreachable
from workflows.storage.lease import hold_output
from workflows.storage.store import Storage
from workflows.verify.check import Findings, verify_output


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A job of ten prompts, two of which cannot be rendered."""
    command = Command(tmp_path, monkeypatch, capsys)
    prompts = ["", *(f"an image of {n}" for n in range(8)), "toy:nan"]
    write_prompts(tmp_path / "prompts.parquet", {"prompt": prompts})
    command.write(
        prompts=str(tmp_path / "prompts.parquet"),
        output=str(tmp_path / "out"),
        model={"checkpoint": "toy"},
        shard_rows=4,
    )
    return command


def job_of(command: Command) -> RenderJob:
    """The job, its output claimed."""
    spec = read_job_file(str(command.job_file), [])
    job = resolve(spec, num_gpus=0)
    claim_output(job, spec.model_dump())
    return job


def finish(job: RenderJob) -> None:
    render(job)
    mark_success(job, 8, 2)


# ---- status ----------------------------------------------------------------------------------------------------------


def test_status_of_an_unfinished_output_says_what_remains_and_fails(command: Command) -> None:
    job = job_of(command)
    render_shard(job, next(plan_job(job).remaining_shards()))

    code, out, err = command("status", job.output)

    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "job        job",
        "committed  3 images in 1 shard",
        "remaining  6 images of 6 prompts in 2 shards",
        "rejected   1 image",
        "       1  prompt is empty",
    ]


def test_status_counts_what_an_output_holds_even_if_its_prompts_are_gone(command: Command) -> None:
    render_shard(job := job_of(command), next(plan_job(job_of(command)).remaining_shards()))
    (command.folder / "prompts.parquet").unlink()

    code, out, err = command("status", job.output)

    assert (code, out.splitlines()) == (
        2,
        [
            "job        job",
            "committed  3 images in 1 shard",
            "remaining  unknown",
            "rejected   1 image",
            "       1  prompt is empty",
        ],
    )
    assert "prompts: no prompt files match" in err
    assert command("status", job.output, "--json")[1] == ""


def test_status_of_a_finished_output_succeeds(command: Command) -> None:
    finish(job := job_of(command))

    code, out, _ = command("status", job.output, "--json")

    assert code == 0
    assert json.loads(out) == {
        "name": "job",
        "num_images": 8,
        "num_rejected": 2,
        "num_images_remaining": 0,
        "num_images_to_repair": 0,
        "num_rows_remaining": 0,
        "num_shards_committed": 3,
        "num_shards_remaining": 0,
        "is_finished": True,
        "reasons": {"prompt is empty": 1, "the model's numbers became NaN": 1},
    }


def test_status_says_why_an_output_without_remaining_prompts_is_not_finished(command: Command) -> None:
    render(job := job_of(command))

    code, out, _ = command("status", job.output)

    assert code == 1
    assert (
        "remaining  0 images of 0 prompts in 0 shards\n           the job is not marked finished: the next run" in out
    )


def test_a_finished_output_to_whose_prompts_a_file_was_added_is_unfinished(command: Command) -> None:
    write_prompts(command.folder / "prompts/a.parquet", {"prompt": ["a"]})
    command.write(prompts=str(command.folder / "prompts"))
    finish(job := job_of(command))
    assert command("status", job.output)[0] == 0

    write_prompts(command.folder / "prompts/b.parquet", {"prompt": ["b", "c"]})
    code, out, _ = command("status", job.output, "--json")

    assert code == 1
    assert json.loads(out)["num_rows_remaining"] == 2


def test_status_needs_no_job_file_and_finds_the_store_by_its_address(
    command: Command, s3_server: S3Server, s3_folder: str
) -> None:
    command.write(output=f"{s3_folder}/out", storage=s3_server.storage_options)
    finish(job := job_of(command))
    command.job_file.unlink()

    assert command("status", f"{s3_folder}/out", "--endpoint-url", s3_server.endpoint_url)[0] == 0
    assert command("verify", f"{job.output}/", "--endpoint-url", s3_server.endpoint_url, "--replay", "2")[0] == 0


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_a_folder_that_is_not_an_output_is_refused(command: Command, verb: str) -> None:
    code, out, err = command(verb, str(command.folder / "nothing"))

    assert (code, out) == (2, "")
    assert err == f"janus-batch: {command.folder}/nothing has no job.json: it is not an output of janus-batch\n"


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_an_output_of_a_version_with_other_settings_is_refused(command: Command, verb: str) -> None:
    job = job_of(command)
    claim = json.loads(Storage(job.output).read("job.json"))
    claim["recipe"]["sharpness"] = 3
    Storage(job.output).write("job.json", json.dumps(claim).encode())

    code, _, err = command(verb, job.output)

    assert code == 2
    assert "job.json has recipe.sharpness = 3, which version" in err


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_verify_of_a_whole_output_succeeds_and_replays(command: Command) -> None:
    finish(job := job_of(command))

    code, out, err = command("verify", job.output, "--replay", "3")

    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "images      8 in the manifest, files and SHA-256 checked",
        "rejected    2",
        "missing     0",
        "faults      0",
        "replayed    3 images, 3 with the same bytes",
    ]


def test_a_store_that_is_away_while_images_are_replayed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        storage = Storage("s3://bucket/out", {"endpoint_url": f"http://127.0.0.1:{closed.getsockname()[1]}"})
        with pytest.raises(StorageUnreachable, match="s3://bucket/out cannot be reached"):
            print_replays(storage, 1, 0, Printer(as_json=False, is_quiet=True))


def test_verify_names_what_is_wrong_and_fails(command: Command) -> None:
    finish(job := job_of(command))
    row, *_ = manifest_of(job)
    Storage(job.output).remove(row["image"])
    Storage(job.output).write("images/lost/x.png", b"")

    code, out, _ = command("verify", job.output, "--replay", "100")

    assert code == 1
    assert f"faults      1\n  {row['image']} is missing\n" in out
    assert "orphans     1 file that no manifest part names" in out
    assert f"replayed    8 images, 7 with the same bytes\n  {row['image']}: its file is missing\n" in out


def test_files_are_checked_even_if_the_prompts_are_gone(command: Command) -> None:
    """An output is verified after it was copied elsewhere, or long after its prompts were removed."""
    finish(job := job_of(command))
    (command.folder / "prompts.parquet").unlink()
    damaged = Path(job.output) / manifest_of(job)[0]["image"]
    damaged.write_bytes(b"")

    code, out, err = command("verify", job.output)

    assert (code, [line for line in out.splitlines() if "SHA-256 differs" in line]) == (
        2,
        [f"  {manifest_of(job)[0]['image']} is not the file that its manifest row describes: its SHA-256 differs"],
    )
    assert "8 in the manifest, files and SHA-256 checked" in out
    assert "missing     unknown" in out
    assert "prompts: no prompt files match" in err
    assert command("verify", job.output, "--repair")[0] == 2


def test_verify_of_an_unfinished_output_fails(command: Command) -> None:
    job = job_of(command)
    render_shard(job, next(plan_job(job).remaining_shards()))

    code, out, _ = command("verify", job.output)

    assert code == 1
    assert "missing     6\n" in out


def test_many_faults_are_counted_and_the_first_are_shown(command: Command) -> None:
    write_prompts(command.folder / "prompts.parquet", {"prompt": [f"{n}" for n in range(50)]})
    finish(job := job_of(command))
    for row in manifest_of(job):
        Storage(job.output).remove(row["image"])

    code, out, _ = command("verify", job.output)

    assert code == 1
    assert "faults      50\n" in out
    assert "  ... and 30 more" in out


def answers_to(job: RenderJob, rows: ShardRows) -> list[Answer]:
    """The toy engine's answers to a shard."""
    return [answer for batch in Batcher(ToyEngine(job.recipe)).render(rows.requests) for answer in batch]


# ---- verify --repair -------------------------------------------------------------------------------------------------


def flip(data: bytes) -> bytes:
    return data[:500] + b"damage" + data[506:]


@pytest.mark.parametrize(
    ("folder", "damage", "line"),
    [
        ("images", None, "pending     1 image in 1 shard"),
        ("images", flip, "pending     1 image in 1 shard"),
        ("rejected", None, "pending     0 images in 1 shard"),
        ("manifest", flip, "taken back  1 shard"),
        ("manifest", lambda data: b"", "taken back  1 shard"),
        ("manifest", lambda data: data[:1000], "taken back  1 shard"),
    ],
)
def test_images_with_missing_or_damaged_files_are_re_rendered_to_the_same_bytes(
    command: Command, folder: str, damage: Callable[[bytes], bytes] | None, line: str
) -> None:
    finish(job := job_of(command))
    before = {row["image_id"]: row["image_sha256"] for row in manifest_of(job)}
    storage = Storage(job.output)
    name = next(name for name in storage.walk(folder))
    if damage is None:
        storage.remove(name)
    else:
        storage.write(name, damage(storage.read(name)))

    code, out, _ = command("verify", job.output, "--repair")

    assert code == 1
    assert "faults      1\n" in out
    assert f"\n{line}; the next run of the job re" in out
    assert not storage.exists("_SUCCESS")
    assert not storage.exists("report.html")
    assert command("status", job.output)[0] == 1
    render(job)
    assert {row["image_id"]: row["image_sha256"] for row in manifest_of(job)} == before
    assert command("verify", job.output, "--clean")[0] == 0


def test_a_shard_that_cannot_be_re_rendered_is_not_taken_back(command: Command) -> None:
    for name in "ab":
        write_prompts(command.folder / f"prompts/{name}.parquet", {"prompt": [name]})
    command.write(prompts=str(command.folder / "prompts"))
    finish(job := job_of(command))
    storage = Storage(job.output)
    first, *_ = storage.walk("images")
    storage.remove(first)
    (command.folder / "prompts/a.parquet").unlink()

    code, out, _ = command("verify", job.output, "--repair")

    assert code == 1
    assert "pending     0 images in 0 shards" in out
    assert "kept        1 shard at fault whose prompt file is gone\n" in out
    assert len(storage.names("manifest")) == 2


# ---- verify --clean --------------------------------------------------------------------------------------------------


def test_clean_removes_orphans_and_nothing_else(command: Command) -> None:
    finish(job := job_of(command))
    before = bytes_of(job.output)
    shard_id = Path(Storage(job.output).names("manifest")[0]).stem
    orphan = f"images/{shard_id}/of-a-lost-attempt.png"
    Storage(job.output).write(orphan, b"lost")

    code, out, _ = command("verify", job.output, "--clean")

    assert code == 0
    assert out.splitlines()[-2:] == ["removed     1", f"  {orphan}"]
    assert bytes_of(job.output) == before


def test_clean_keeps_the_files_of_a_shard_that_is_committed_during_the_check(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(command)
    first, last = rows_of(job)[:2]
    render_shard(job, first.shard)
    written = write_batch(job, last.shard.id, "cpu", answers_to(job, last))

    def check_and_commit(*arguments: Any) -> Findings:
        findings = verify_output(*arguments)
        commit_shard(job, last, written)  # by a run that minds no lease
        return findings

    monkeypatch.setattr("jobs.verify.verify_output", check_and_commit)
    command("verify", job.output, "--clean")
    monkeypatch.undo()

    findings = verify_output(Storage(job.output), plan_job(job), job.recipe)
    assert findings.faults == []
    assert findings.num_images == 3 + 4


def test_clean_is_refused_while_a_run_holds_the_output_and_says_who(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    finish(job := job_of(command))
    shard_id = Path(Storage(job.output).names("manifest")[0]).stem
    orphan = f"images/{shard_id}/of-a-live-attempt.png"
    Storage(job.output).write(orphan, b"live")

    with hold_output(Storage(job.output), "night-render"):
        code, out, err = command("verify", job.output, "--clean")

    assert code == 1
    assert f"is being rendered by night-render on {socket.gethostname()}" in err
    assert out == ""
    assert Storage(job.output).exists(orphan)


# ---- retry-rejected --------------------------------------------------------------------------------------------------


def test_an_output_without_rejected_rows_has_nothing_to_retry(command: Command) -> None:
    write_prompts(command.folder / "prompts.parquet", {"prompt": ["a"]})
    render(job := job_of(command))

    code, _, err = command("retry-rejected", job.output)

    assert code == 0
    assert err == "job: no rejected images, nothing to retry\n"


def test_a_retry_from_another_folder_finds_what_the_job_file_names_relatively(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command.folder / "lora").mkdir()
    (command.folder / "lora/adapter_config.json").write_text('{"peft_type": "LORA"}')
    (command.folder / "lora/adapter_model.bin").write_bytes(b"weights")
    monkeypatch.chdir(command.folder)
    command.write(model={"checkpoint": "janus-shapes", "adapter": {"name": "lora", "weight": 0.5}})
    claimed = job_of(command)
    write_prompts(command.folder / "images.parquet", {"image": ["a.png"]})
    looks = {"prompts": "images.parquet", "output": "answers", "understand": {"root": "images"}}
    command.write(**looks, task="understand", model={"checkpoint": "toy"})
    looked = job_of(command)
    (command.folder / "elsewhere").mkdir()
    monkeypatch.chdir(command.folder / "elsewhere")

    for job in (claimed, looked):
        assert command("retry-rejected", job.output) == (0, "", "job: no rejected images, nothing to retry\n")
