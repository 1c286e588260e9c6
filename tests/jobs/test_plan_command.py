"""`janus-batch plan` prints the numbers before anything is rendered, and refuses wrong jobs with exit code 2."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from jobs.job_file.read import read_job_file
from jobs.job_file.resolve import resolve
from tests.support.command_line import Command
from tests.support.toy_job import bytes_of, plan_job, render_shard, write_prompts
from workflows.output.claim import claim_output


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Two files of ten and five prompts, and a job of two images of each at two weights."""
    command = Command(tmp_path, monkeypatch, capsys)
    for name, num in (("a", 10), ("b", 5)):
        write_prompts(tmp_path / f"prompts/{name}.parquet", {"prompt": [f"a picture of {n}" for n in range(num)]})
    command.write(
        name="plan",
        prompts=str(tmp_path / "prompts"),
        output=str(tmp_path / "out"),
        model={"checkpoint": "toy"},
        sampling={"cfg_weight": [1, 7.5], "images_per_prompt": 2},
        shard_rows=4,
    )
    return command


def test_the_plan_is_a_table_for_people(command: Command) -> None:
    code, out, err = command("plan", str(command.job_file))

    assert (code, err) == (0, "")
    num_bytes = sum(len(data) for data in bytes_of(command.folder / "prompts").values())
    assert out.splitlines() == [
        "job           plan",
        "model         toy (toy)",
        "cfg_weight    1, 7.5",
        f"prompt files  2 ({num_bytes:,} bytes)",
        "prompts       15, of which 0 are done",
        "duplicates    5 prompts repeat an earlier one; deduplicate: true leaves them out",
        "shards left   5 of up to 4 prompts",
        "images        60 (4 per prompt)",
        "images left   60",
        "speed         unknown for this model; --measure renders a few images here, --images-per-second sets it",
        "image bytes   423 kB (the mean of eight crops of photographs; flat images take less)",
        "PUT requests  68 (layout files), if the output is an object store",
        f"output        {command.folder}/out",
    ]
    assert not (command.folder / "out").exists()


def test_the_plan_is_json_for_programs_and_settings_change_it(command: Command) -> None:
    code, out, _ = command("plan", str(command.job_file), "--json", "--set", "sampling.cfg_weight=3")

    assert code == 0
    facts = json.loads(out)
    assert {key: facts[key] for key in ("num_files", "num_rows", "num_shards_remaining", "num_images")} == {
        "num_files": 2,
        "num_rows": 15,
        "num_shards_remaining": 5,
        "num_images": 30,
    }


def test_the_plan_shows_which_rows_of_the_files_are_selected(command: Command) -> None:
    lines = ["Caption,kind", *(f"a picture of {n % 6},{'odd' if n % 2 else 'even'}" for n in range(12)), "", ""]
    (command.folder / "prompts.csv").write_text("\n".join(lines))
    command.write(prompts=str(command.folder / "prompts.csv"), prompt_column="Caption", where="kind = 'odd'")

    code, out, _ = command("plan", str(command.job_file), "--set", "limit=5")

    assert code == 0
    num_bytes = (command.folder / "prompts.csv").stat().st_size
    assert out.splitlines()[3:8] == [
        f"prompt files  1 ({num_bytes} bytes)",
        "empty lines   1, which are skipped",
        "rows          12, of which 5 are selected",
        "prompts       5, of which 0 are done",
        "duplicates    2 prompts repeat an earlier one; deduplicate: true leaves them out",
    ]
    facts = json.loads(command("plan", str(command.job_file), "--json", "--set", "deduplicate=true")[1])
    assert {key: facts[key] for key in ("num_rows_in_files", "num_rows", "num_duplicates", "num_empty_lines")} == {
        "num_rows_in_files": 12,
        "num_rows": 3,
        "num_duplicates": 0,
        "num_empty_lines": 1,
    }
    assert "duplicates" not in command("plan", str(command.job_file), "--set", "deduplicate=true")[1]
    command.write(where=None)
    out = command("plan", str(command.job_file), "--set", "limit=5")[1]
    assert "rows          the first 5; no others are read" in out
    (command.folder / "prompts.csv").write_text("Caption\n")
    out = command("plan", str(command.job_file))[1]
    assert "note          the prompts have no rows; a run without images fails, unless --allow-empty is given" in out
    assert not (command.folder / "out").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("where=kind", "where: kind is no column (text is in 'single quotes'); the columns are prompt"),
        ("where=prompt", "where: must be a condition"),
        ("prompt_column=Caption", "has no column `Caption`, which prompt_column names; its columns are prompt"),
        ("columns={seed: nr}", "has no column `nr`, which columns.seed names; its columns are prompt"),
        ("columns={sede: nr}", "columns: the columns that a job reads are prompt, id, "),
        ("limit=0", "limit: Input should be greater than or equal to 1, got 0"),
        ("csv.delimiter=;;", "csv.delimiter"),
    ],
)
def test_a_wrong_selection_is_refused(command: Command, setting: str, message: str) -> None:
    assert message in refused(command, "plan", str(command.job_file), "--set", setting)


@pytest.mark.parametrize("verb", ["plan", "render"])
def test_an_id_in_two_files_is_refused(command: Command, verb: str) -> None:
    write_prompts(command.folder / "prompts/c.parquet", {"prompt": ["c"], "id": ["b-000000004"]})

    message = refused(command, verb, str(command.job_file))

    assert "b.parquet and row 0 of " in message
    assert "have the same id 'b-000000004'" in message


def test_committed_images_no_longer_remain(command: Command) -> None:
    job = resolve(read_job_file(str(command.job_file), []), num_gpus=0)
    claim_output(job, {})
    render_shard(job, next(plan_job(job).remaining_shards()))

    _, out, _ = command("plan", str(command.job_file), "--json", "--set", "shard_rows=3")

    facts = json.loads(out)
    assert (facts["num_rows_committed"], facts["num_images_remaining"]) == (4, 44)
    assert facts["num_shards_remaining"] == 2 + 2


def test_a_given_speed_gives_the_time_and_the_price(command: Command) -> None:
    options = ("--images-per-second", "0.5", "--gpu-hour-price", "30")

    _, out, _ = command("plan", str(command.job_file), *options, "--set", "workers.gpus_per_actor=1", "--json")
    found = json.loads(out)["estimate"]

    source = "given by --images-per-second"
    assert found["speed"] == {"images_per_second": 0.5, "source": source, "seconds_per_look": 0.0, "is_limit": False}
    assert found["actor_hours"] == pytest.approx(60 / 0.5 / 3600)
    assert (found["gpu_hours"], found["price"]) == pytest.approx((60 / 0.5 / 3600, 1.0))


@pytest.mark.parametrize(("layout", "num_writes"), [("files", 60 + 5 + 3), ("webdataset", 5 + 5 + 3)])
def test_write_requests_are_counted_by_layout(command: Command, layout: str, num_writes: int) -> None:
    _, out, _ = command("plan", str(command.job_file), "--json", "--set", f"images.layout={layout}")

    assert json.loads(out)["estimate"]["num_writes"] == num_writes


def test_a_speed_can_be_measured_here(command: Command) -> None:
    _, out, _ = command("plan", str(command.job_file), "--json", "--measure", "--set", "workers.batch_size=3")
    found = json.loads(out)["estimate"]

    assert found["speed"]["source"] == "measured here: cpu, batches of 3, the median of 3"
    assert found["speed"]["images_per_second"] > 0
    assert found["bytes_source"] == "the mean of the images measured"
    assert 0 < found["num_bytes"] < 60 * 64 * 64 * 3
    assert not (command.folder / "out").exists()


def refused(command: Command, *arguments: str) -> str:
    """The message of a command that must fail with exit code 2 and change no file."""
    before = bytes_of(command.folder)

    code, out, err = command(*(arguments or ("plan", str(command.job_file))))

    assert (code, out) == (2, "")
    assert all(line.startswith("janus-batch: ") for line in err.splitlines())
    assert bytes_of(command.folder) == before
    return err


def test_no_prompts_are_refused(command: Command) -> None:
    command.write(prompts=str(command.folder / "nothing"))

    assert "prompts: no prompt files match " in refused(command)


def test_a_wrong_file_among_many_is_refused_by_name(command: Command) -> None:
    write_prompts(command.folder / "prompts/c.parquet", {"text": ["a"]})

    assert "/prompts/c.parquet has no column `prompt`; its columns are text" in refused(command)


def test_an_unknown_key_is_refused_with_the_nearest(command: Command) -> None:
    command.write(shard_row=4)

    assert refused(command) == "janus-batch: shard_row: unknown key; did you mean `shard_rows`?\n"


@pytest.mark.parametrize("output", ["https://host/out", "memory://out"])
def test_an_output_that_cannot_be_written_is_refused(command: Command, output: str) -> None:
    command.write(output=output)

    assert refused(command).startswith("janus-batch: output: ")


@pytest.mark.parametrize("key", ["prompts", "model.checkpoint"])
def test_a_web_server_that_does_not_answer_may_answer_later(command: Command, key: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/folder"

        code, _, err = command("plan", str(command.job_file), "--set", f"{key}={url}")

    assert code == 1
    assert f"janus-batch: {url} cannot be re" in err


def test_a_weight_out_of_range_is_refused(command: Command) -> None:
    command.write(sampling={"cfg_weight": 11})

    assert "sampling.cfg_weight: cfg_weight must be from 1 to 10 (1 is unguided), got 11; " in refused(command)


def test_several_faults_are_several_lines(command: Command) -> None:
    command.write(shard_rows=0, images={"format": "gif"})

    assert len(refused(command).splitlines()) == 2


def test_another_jobs_output_is_refused_with_the_field_and_both_values(command: Command) -> None:
    claim_output(resolve(read_job_file(str(command.job_file), []), num_gpus=0), {})
    command.write(sampling={**command.fields["sampling"], "seed": 7})

    refusal = "out belongs to a job with sampling.seed = 0, this job has 7; finish it with the old value"
    assert refusal in refused(command)


def test_the_same_job_on_other_devices_may_be_planned(command: Command) -> None:
    job = resolve(read_job_file(str(command.job_file), []), num_gpus=1)
    assert job.recipe.dtype == "bfloat16"
    claim_output(job, {})

    assert command("plan", str(command.job_file))[0] == 0


def test_a_changed_prompt_file_is_refused_by_name(command: Command) -> None:
    job = resolve(read_job_file(str(command.job_file), []), num_gpus=0)
    claim_output(job, {})
    render_shard(job, next(plan_job(job).remaining_shards()))
    write_prompts(command.folder / "prompts/a.parquet", {"prompt": ["another"]})

    assert "/prompts/a.parquet was changed after rows of it were rendered into this output" in refused(command)


def test_a_damaged_claim_is_refused(command: Command) -> None:
    (command.folder / "out").mkdir()
    (command.folder / "out/job.json").write_text('{"name": ')

    assert "/out/job.json is damaged: " in refused(command)


@pytest.mark.parametrize("arguments", [("plan",), ("plan", "job.yaml", "--nonsense"), ("pln",)])
def test_a_wrong_command_line_is_refused(command: Command, arguments: tuple[str, ...]) -> None:
    code, _, err = command(*arguments)

    assert code == 2
    assert "Usage: " in err


def test_a_plan_counts_the_candidates_of_a_judge(command: Command) -> None:
    judge = ("--set", "judge={best_of: 4, retry_below: 0.5}", "--images-per-second", "0.5")

    _, out, _ = command("plan", str(command.job_file), "--json", *judge)
    facts = json.loads(out)
    _, table, _ = command("plan", str(command.job_file), *judge)

    assert (facts["num_images"], facts["estimate"]["num_candidates"]) == (60, 240)
    assert facts["estimate"]["actor_hours"] == pytest.approx(240 / 0.5 / 3600)
    assert (facts["judge"]["best_of"], facts["judge"]["max_tries"]) == (4, 3)
    assert "candidates    240 to render, at most 720 with re-rolls" in table
    assert "looking       not counted; --measure measures it" in table


def test_a_measured_plan_also_times_looking(command: Command) -> None:
    _, out, _ = command("plan", str(command.job_file), "--json", "--measure", "--set", "judge={caption: true}")

    assert json.loads(out)["estimate"]["speed"]["seconds_per_look"] > 0
