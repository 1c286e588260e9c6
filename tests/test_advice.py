"""What a message advises exists, and helps: the command, option, key, file or variable, and the way out it promises."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from actors.recipe import Recipe
from jobs.cli.main import cli
from jobs.job_file.read import read_job_file
from jobs.job_file.resolve import resolve
from tests.support.advice import KEYS, ROOT, options_of, wrong_advice
from tests.support.command_line import Command
from tests.support.rooms import ROOMS
from tests.support.toy_job import judge, manifest_of, plan_job, render, render_shard, rows_of, write_prompts
from workflows.job import RenderJob
from workflows.output.claim import DERIVED_FIELDS, OtherJobError, check_claim, claim_output, mark_success
from workflows.storage import lease
from workflows.storage.lease import hold_output
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage

SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "janus_batch.py", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))]
}


def test_everything_that_the_messages_advise_exists() -> None:
    assert {"jobs/cli/main.py", "workflows/storage/lease.py", "actors/guidance.py"} <= set(SOURCES)
    assert wrong_advice(SOURCES) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('raise E(f"{url} is damaged; run `janus-batch repair {url}`")', "janus-batch has no verb repair"),
        ('raise E(f"`janus-batch verify {url} --measure` shows it")', "`janus-batch verify` has no --measure"),
        ('raise E("use `janus-batch report` " "--allow-empty --force")', "no verb has --force"),
        ('raise E("python evaluate.py --outfile x")', "no verb has --outfile"),
        ('raise E(f"set model.allow_errors: {value}")', "a job file has no model.allow_errors"),
        ('raise E("storage.retries is too low")', "a job file has no storage.retries"),
        ('raise E("lower `rows_per_shard`")', "`rows_per_shard` is no key or column"),
        ('raise E("see docs/faq.md")', "there is no docs/faq.md"),
        ('raise E("run python -m examples.nothing")', "there is no module examples.nothing"),
        ('raise E("JANUS_BATCH_HOME names another folder")', "no program reads JANUS_BATCH_HOME"),
        ('raise E("set HF_NOTHING")', "no program reads HF_NOTHING"),
        ('@cli.command()\ndef f():\n    """Render with --quickly."""', "no verb has --quickly"),
    ],
)
def test_advice_that_leads_nowhere_is_found(source: str, fault: str) -> None:
    assert [found.split(" ", 1)[1] for found in wrong_advice({"a.py": source})] == [fault]


def test_docstrings_and_right_advice_are_accepted() -> None:
    source = '''
"""Uses --nothing."""
def f():
    """See docs/nothing.md and `janus-batch nothing`."""
    home = os.environ.get("JANUS_BATCH_HOME")
    raise E(f"{x}: `janus-batch verify {url} --repair`, sampling.seed: 7 or JANUS_BATCH_HOME; see docs/output.md")
'''
    assert wrong_advice({"a.py": source}) == []


# ---- advice that is followed -----------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A toy job of three prompts, one of which cannot be rendered."""
    command = Command(tmp_path, monkeypatch, capsys)
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a red square", "a blue circle", "toy:nan"]})
    command.write(prompts=prompts, output=str(tmp_path / "out"), model={"checkpoint": "toy"}, shard_rows=2)
    return command


def job_of(command: Command, *settings: str) -> RenderJob:
    """The job, its output claimed."""
    spec = read_job_file(str(command.job_file), settings)
    job = resolve(spec, num_gpus=0)
    claim_output(job, spec.model_dump())
    return job


def advised_setting(message: str) -> str:
    """The `section.key: value` of a message, as an argument of --set."""
    return "=".join(re.search(r"(\w+\.\w+): (true|\d+)", message).groups())


def advised_commands(message: str) -> list[list[str]]:
    """The arguments of every command of this program in backticks."""
    return [shlex.split(words) for words in re.findall(r"`janus-batch ([^`]+)`", message)]


@pytest.mark.parametrize(
    ("column", "settings", "setting"),
    [
        ({"cfg_weight": [12.0]}, [], "sampling.allow_any_cfg_weight=true"),
        ({"image_seed": [7]}, ["sampling.images_per_prompt=2"], "sampling.images_per_prompt=1"),
    ],
)
def test_a_rejected_row_is_accepted_with_the_setting_that_its_reason_advises(
    command: Command, tmp_path: Path, column: dict[str, list[float]], settings: list[str], setting: str
) -> None:
    command.write(prompts=write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a red square"], **column}))
    (rejected,) = rows_of(job_of(command, *settings))[0].rejected

    assert advised_setting(rejected.reason) == setting
    (shard,) = rows_of(job_of(command, *settings, setting, f"output={tmp_path}/other"))
    assert (shard.rejected, len(shard.requests)) == ([], 1)


def test_a_job_refused_for_its_guidance_weight_is_planned_with_the_advised_setting(command: Command) -> None:
    command.write(sampling={"cfg_weight": 12})
    code, _, refusal = command("plan", str(command.job_file))
    assert code == 2

    assert command("plan", str(command.job_file), "--set", advised_setting(refusal))[0] == 0


@pytest.mark.parametrize(
    "column",
    [
        *(
            "Caption",
            "prompt text",
            "it's prompt",
            "prompt, short",
            "prompt (en)",
            "2. prompt",
            "prompt: x",
            "# prompt",
        ),
        *(
            "123",
            "true",
            "Null",
            "[prompt]",
            "{prompt}",
            "- prompt",
            " prompt ",
            '"prompt"',
            "*prompt",
            "@prompt",
            "a\tb",
        ),
    ],
)
def test_the_column_that_a_refusal_advises_is_taken_whatever_its_name_is(
    command: Command, tmp_path: Path, column: str
) -> None:
    command.write(prompts=write_prompts(tmp_path / "prompts.parquet", {column: ["a red square"]}))
    code, _, refusal = command("plan", str(command.job_file))
    assert code == 2

    advised = shlex.split(re.search(r"did you mean `(.*)`\?", refusal)[1])
    assert command("plan", str(command.job_file), *advised)[0] == 0


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("sampling.cfg_weight=[3,7]", "sampling.cfg_weight"),
        ("sampling.seed=7", "sampling.seed"),
        ("sampling.cfg_interval=[0,0.5]", "sampling.cfg_interval"),
        ("images.format=webp", "images.format"),
    ],
)
def test_a_job_with_a_changed_setting_is_resumed_with_the_old_value_that_the_refusal_names(
    command: Command, setting: str, key: str
) -> None:
    job_of(command)
    plan = ["plan", str(command.job_file), "--set", setting]
    code, _, refusal = command(*plan)
    assert code == 2

    named, value = re.search(r"a job with (\S+) = (.*), this job has", refusal).groups()
    assert named == key
    assert command(*plan, "--set", f"{named}={value}")[0] == 0


OTHER_VALUES = {
    "cfg_interval": (0.0, 0.5),
    "temperature": 0.5,
    "num_inference_steps": 7,
    "match_reference_demo": True,
    "cfg_weights": (7.0,),
    "images_per_prompt": 9,
    "seed": 9,
    "allow_any_cfg_weight": True,
    "judge": judge(),
}


@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(Recipe) if field.name not in ("judge", "look")]
)
def test_a_refused_resume_names_a_key_of_the_job_file(command: Command, field: str) -> None:
    """Except for the fields that no key sets: they follow from the checkpoint and the version. `judge` and `look` have
    fields of their own."""
    job = job_of(command)
    other = dataclasses.replace(job.recipe, **{field: OTHER_VALUES.get(field, "other")})

    with pytest.raises(OtherJobError) as refusal:
        check_claim(dataclasses.replace(job, recipe=other))

    named = re.search(r"a job with (\S+) = ", str(refusal.value))[1]
    assert named == f"recipe.{field}" if field in DERIVED_FIELDS else named in KEYS


def test_an_incomplete_output_is_exported_with_the_advised_option(command: Command, tmp_path: Path) -> None:
    job = job_of(command)
    render_shard(job, next(plan_job(job).remaining_shards()))
    words = ["export", job.output, str(tmp_path / "dataset"), "--layout", "imagefolder"]
    code, _, refusal = command(*words)
    assert code != 0

    (option,) = re.findall(r"--[a-z-]+", refusal)
    assert command(*words, option)[0] == 0


def test_a_damaged_image_is_repaired_by_the_advised_command_and_rendered_by_the_next_run(
    command: Command, tmp_path: Path
) -> None:
    command.write(output=str(tmp_path / "my images"))
    job = job_of(command)
    render(job)
    mark_success(job, 2, 1)
    image = tmp_path / "my images" / manifest_of(job)[0]["image"]
    image.write_bytes(b"damaged")
    words = ["export", job.output, str(tmp_path / "dataset"), "--layout", "imagefolder"]
    code, _, refusal = command(*words)
    assert code != 0

    repair, next_run = advised_commands(refusal)
    command(*repair)
    assert next_run == ["render"]
    render(job)
    mark_success(job, 2, 1)
    assert command(*words)[0] == 0
    assert command("verify", job.output)[0] == 0


def test_a_command_for_an_output_names_the_endpoint_of_its_store(tmp_path: Path) -> None:
    address, endpoint = "s3://images/my renders", "http://127.0.0.1:9000"

    words = shlex.split(output_arguments(address, {"endpoint_url": endpoint, "anon": True}))

    given = cli.commands["verify"].make_context("verify", words).params
    assert (given["output"], given["endpoint_url"]) == (address, endpoint)
    assert output_arguments("/data/out", {}) == "/data/out"


@pytest.mark.parametrize("words", [["verify", "--repair"], ["verify", "--clean"], ["retry-rejected"]])
def test_a_refusal_of_an_output_in_use_names_the_verbs_that_can_wait(
    command: Command, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """These verbs cannot wait, so the refusal says which verbs can."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    job = job_of(command)
    render(job)
    with hold_output(Storage(job.output), "nightly"):
        code, _, refusal = command(*words, job.output)

    assert code == 1
    options = set(re.findall(r"--[a-z-]+", refusal))
    assert options == {"--wait-for-output", "--ignore-lease"}
    verbs = [verb for (verb,) in advised_commands(refusal)]
    assert verbs == ["render", "submit"]
    assert all(options <= options_of(verb) for verb in verbs)
