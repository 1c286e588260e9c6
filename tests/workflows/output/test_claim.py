"""The claim on an output: free, resumed, of another job or version, and damaged."""

from __future__ import annotations

import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from actors.errors import InputError
from janus_batch import VERSION
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import bytes_of, make_job, recipe, render, write_prompts
from workflows.job import Images, PromptReading, RenderJob, Workers
from workflows.output.claim import (
    OtherJobError,
    OtherVersionError,
    check_claim,
    claim_output,
    mark_success,
    open_output,
    read_claim,
)
from workflows.storage.errors import StorageError
from workflows.storage.store import Storage


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    return make_job(write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]}), tmp_path / "out")


def changed(job: RenderJob, **changes: Any) -> RenderJob:
    """The same job, with changes to its recipe or its other fields."""
    fields = {name: changes.pop(name) for name in list(changes) if name in RenderJob.__slots__}
    return make_job(fields.pop("prompts", job.prompts), job.output, recipe=recipe(**changes), **fields)


def test_a_free_output_is_claimed_before_any_other_file_exists(job: RenderJob) -> None:
    assert claim_output(job, {"prompts": "as the person wrote it"}) is False

    claim = json.loads(Path(job.output, "job.json").read_text())
    assert list(bytes_of(job.output)) == ["job.json"]
    assert claim["job_file"] == {"prompts": "as the person wrote it"}
    assert claim["recipe"] == job.recipe.to_dict()
    assert {name: claim[name] for name in ("name", "prompts", "output", "shard_rows")} == {
        "name": "toy",
        "prompts": job.prompts,
        "output": job.output,
        "shard_rows": 4,
    }


def test_a_long_value_of_another_job_is_cut_in_the_message(job: RenderJob) -> None:
    claim_output(changed(job, weights_sha256="f" * 9000), {})

    with pytest.raises(OtherJobError, match=r"weights_sha256 = .*\.\.\., this job has") as refused:
        claim_output(job, {})
    assert len(str(refused.value)) < 800


def test_an_output_among_the_files_of_another_one_is_refused(job: RenderJob) -> None:
    claim_output(job, {})

    for folder in ("images", "manifest/x", "scores/clip"):
        with pytest.raises(StorageError, match=rf"out/{folder} is among the files of the output .*/out; name another"):
            claim_output(make_job(job.prompts, f"{job.output}/{folder}"), {})
    assert list(bytes_of(job.output)) == ["job.json"]
    assert claim_output(make_job(job.prompts, f"{job.output}/second"), {}) is False


def test_the_same_job_resumes_and_removes_the_mark_of_success(job: RenderJob) -> None:
    claim_output(job, {})
    first = Path(job.output, "job.json").read_bytes()
    mark_success(job, 2, 0)

    assert claim_output(job, {"written": "later"}) is True
    assert bytes_of(job.output) == {"job.json": first}


def test_many_drivers_that_claim_at_once_share_one_claim(job: RenderJob) -> None:
    start = threading.Barrier(8)

    def claim(driver: int) -> bool:
        start.wait()
        return claim_output(job, {"driver": driver})

    with ThreadPoolExecutor(8) as threads:
        is_resumed = list(threads.map(claim, range(8)))

    winner = json.loads(Path(job.output, "job.json").read_text())["job_file"]["driver"]
    assert [driver for driver, resumed in enumerate(is_resumed) if not resumed] == [winner]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another name"},
        {"shard_rows": 1},
        {"workers": Workers(min=2, max=9, batch_size=3, max_tries=7)},
        {"storage": {"endpoint_url": "http://elsewhere"}},
    ],
)
def test_settings_that_decide_no_pixel_may_change_on_resume(job: RenderJob, changes: dict[str, Any]) -> None:
    claim_output(job, {})

    assert claim_output(changed(job, **changes), {}) is True


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"seed": 7}, "sampling.seed = 0, this job has 7"),
        ({"cfg_weights": (5.0, 7.5)}, r"sampling.cfg_weight = \[5.0\], this job has \[5.0, 7.5\]"),
        ({"temperature": 0.0}, "sampling.temperature = 1.0, this job has 0.0"),
        ({"images_per_prompt": 4}, "sampling.images_per_prompt = 1, this job has 4"),
        (
            {"checkpoint": "deepseek-ai/Janus-Pro-1B"},
            'model.checkpoint = "toy", this job has "deepseek-ai/Janus-Pro-1B"',
        ),
        ({"revision": "abc"}, 'model.revision = null, this job has "abc"'),
        (
            {"weights_sha256": "00"},
            'recipe.weights_sha256 = "e3b0.*", this job has "00"; finish it with the files that the checkpoint had '
            r"then \(model.revision pins a commit\)",
        ),
        ({"vae_sha256": "00"}, r"recipe.vae_sha256 = null, .* the checkpoint had then \(model.vae_revision pins a .*"),
        ({"dtype": "bfloat16"}, 'model.dtype = "float32", this job has "bfloat16"'),
        (
            {"sampler": "toy-2"},
            'recipe.sampler = "toy-1", this job has "toy-2"; finish it with the version of janus-batch that started it '
            rf"\({VERSION}\)",
        ),
        ({"cfg_interval": (0.0, 0.5)}, r"sampling.cfg_interval = null, this job has \[0.0, 0.5\]"),
        ({"images": Images(layout="files", format="webp")}, 'images.format = "png", this job has "webp"'),
        ({"images": Images(layout="parquet")}, 'images.layout = "files", this job has "parquet"'),
        ({"images": Images(layout="files", keep_latents=True)}, "images.keep_latents = false, this job has true"),
        ({"prompts": "/data/others"}, 'prompts = ".*/prompts.parquet", this job has "/data/others"'),
    ],
)
def test_another_job_is_refused_with_the_field_and_both_values(
    job: RenderJob, changes: dict[str, Any], refusal: str
) -> None:
    render(job)
    before = bytes_of(job.output)

    with pytest.raises(
        OtherJobError, match=rf"/out belongs to a job with {refusal}.*, or render into another output folder$"
    ):
        claim_output(changed(job, **changes), {})
    with pytest.raises(OtherJobError, match=refusal):
        check_claim(changed(job, **changes))
    assert bytes_of(job.output) == before


@pytest.mark.parametrize("section", ["recipe", "images"])
def test_an_output_of_a_later_version_with_a_setting_of_its_own_is_refused(job: RenderJob, section: str) -> None:
    claim_output(job, {})
    path = Path(job.output, "job.json")
    claim = json.loads(path.read_text())
    claim[section]["sharpness"] = 3
    path.write_text(json.dumps({**claim, "janus_batch": "9.1.0"}))

    rule = rf"/out/job.json has {section}.sharpness = 3, which version \S+ of janus-batch does not know"
    for read in (lambda: claim_output(job, {}), lambda: check_claim(job), lambda: open_output(job.output, None)):
        with pytest.raises(OtherVersionError, match=rf"{rule}; use the version that started this output \(9.1.0\)$"):
            read()


def test_check_claim_can_ignore_fields_and_writes_nothing(job: RenderJob) -> None:
    check_claim(job)  # an output without job.json is free
    assert not Path(job.output).exists()
    claim_output(job, {})

    check_claim(changed(job, weights_sha256=""), ignore=("recipe.weights_sha256",))


def test_a_folder_with_a_manifest_that_is_not_ours_is_left_alone(job: RenderJob) -> None:
    write_prompts(Path(job.output, "manifest/part-0.parquet"), {"x": [1]})
    before = bytes_of(job.output)

    with pytest.raises(
        StorageError, match=r"/out holds a manifest and no job.json: it is not an output of janus-batch"
    ):
        claim_output(job, {})
    assert bytes_of(job.output) == before


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (b'{"name": "toy", "pro', "Invalid JSON: EOF while parsing a string"),
        (b'{"prompts": "p"}', "name is missing$"),
        (b'{"name": "toy"}', "prompts is missing$"),
        (b'{"name": "toy", "prompts": "p", "images": []}', r"images: Input should be .*, got \[\]$"),
        (
            b'{"name": "toy", "prompts": "p", "images": {}, "recipe": {}, "shard_rows": 4, "job_file": {}}',
            "images.layout is missing$",
        ),
    ],
)
def test_a_damaged_claim_is_refused_and_not_written_over(job: RenderJob, text: bytes, refusal: str) -> None:
    Storage(job.output).write("job.json", text)

    with pytest.raises(StorageError, match=rf"/out/job.json is damaged: .*{refusal}"):
        claim_output(job, {})
    with pytest.raises(StorageError, match=rf"/out/job.json is damaged: .*{refusal}"):
        read_claim(Storage(job.output))
    assert bytes_of(job.output) == {"job.json": text}


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"", "is empty or has more than 16 MiB"),
        (b" \n", "is empty or"),
        (b" " * (16 * 2**20 + 1), "is empty or has more than 16 MiB"),
        (b"[1, 2]", r"is no JSON object, it begins with b'\[1, 2\]'"),
        (b"<!DOCTYPE html><p>404</p>", "is no JSON object, it begins with b'<!DOCTYPE"),
        ('{"name": "x"}'.encode("utf-16"), "is UTF-16 text"),
        (b"null", "is no JSON object"),
    ],
)
def test_a_claim_that_is_something_else_is_named_as_what_it_is(job: RenderJob, data: bytes, refusal: str) -> None:
    Storage(job.output).write("job.json", data)

    with pytest.raises(StorageError, match=rf"/out/job.json {refusal}.*; it must be the JSON that janus-batch wrote$"):
        read_claim(Storage(job.output))


def test_a_byte_order_mark_before_the_claim_is_ignored(job: RenderJob) -> None:
    claim_output(job, {})
    storage = Storage(job.output)
    before = read_claim(storage)

    storage.write("job.json", b"\xef\xbb\xbf" + storage.read("job.json"))

    assert read_claim(storage) == before


@pytest.mark.parametrize("value", ["0", "-4", "1000001", "9" * 30, "NaN", "true", "[4]"])
def test_shard_rows_outside_its_range_are_refused(job: RenderJob, value: str) -> None:
    claim_output(job, {})
    storage = Storage(job.output)
    storage.write("job.json", storage.read("job.json").replace(b'"shard_rows": 4', b'"shard_rows": ' + value.encode()))

    with pytest.raises(StorageError, match=r"job.json is damaged: shard_rows: "):
        read_claim(storage)


def test_a_family_that_this_version_does_not_know_is_refused(job: RenderJob) -> None:
    claim_output(job, {})
    storage = Storage(job.output)
    storage.write("job.json", storage.read("job.json").replace(b'"family": "toy"', b'"family": "janus-2"'))

    with pytest.raises(OtherVersionError, match=r'has recipe.family = "janus-2", which version .* does not know'):
        read_claim(storage)


@pytest.mark.parametrize("target", ["fifo", "/dev/zero"])
def test_a_claim_that_is_a_pipe_or_a_device_is_refused_at_once(job: RenderJob, target: str) -> None:
    path = Path(job.output, "job.json")
    path.parent.mkdir(parents=True)
    if target == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(target)

    with pytest.raises(StorageError, match=r"job.json is a pipe, a socket or a device; it must be a file"):
        read_claim(Storage(job.output))


def test_a_claim_mutated_at_random_is_read_or_refused_in_one_sentence(job: RenderJob) -> None:
    """A seeded fuzz test: bytes are changed, removed, repeated and replaced by what JSON readers stumble over."""
    claim_output(job, {})
    storage, chance, refusals = Storage(job.output), random.Random(0), []
    good = storage.read("job.json")
    for _ in range(500):
        Path(job.output, "job.json").write_bytes(mutated(good, chance))
        try:
            read_claim(storage)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 200
    assert [text for text in refusals if len(text) > 1000 or "\n" in text] == []


TOKENS = (b"null", b"NaN", b"-1", b"1e999", b"9" * 400, b"[]", b"{}", b'""', b"[" * 500, b"\xff", b"\0", b'"\\ud800"')


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` after one to three random changes."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(data))
        stop = min(len(data), start + chance.choice([0, 1, 1, 8, 60]))
        middle = chance.choice([b"", data[start:stop] * 2, bytes([chance.randrange(256)]), chance.choice(TOKENS)])
        data = data[:start] + middle + data[stop:]
    return data


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"images_per_prompt": "2"}, r"damaged: recipe.images_per_prompt: .* got '2'"),
        ({"cfg_weights": [1.0, "x"]}, r"damaged: recipe.cfg_weights.1: .* got 'x'"),
        ({"family": None}, r"damaged: recipe.family: .* got None"),
        ({"family": ["x" * 99]}, rf"damaged: recipe.family: .* got \['{'x' * 78}$"),
    ],
)
def test_a_recipe_with_a_value_of_another_type_is_refused(
    job: RenderJob, changes: dict[str, Any], refusal: str
) -> None:
    claim_output(job, {})
    storage = Storage(job.output)
    claim = json.loads(storage.read("job.json"))
    storage.write("job.json", json.dumps(claim | {"recipe": claim["recipe"] | changes}).encode())

    with pytest.raises(StorageError, match=refusal):
        read_claim(storage)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cfg_weights": (1.0, 2.5, 5.0), "images_per_prompt": 4, "cfg_interval": (0.25, 0.75), "revision": "abc"},
        {"seed": 2**64 - 1, "temperature": None, "num_inference_steps": 30, "solver": "heun"},
    ],
)
def test_a_claim_is_read_as_it_was_written(job: RenderJob, changes: dict[str, Any]) -> None:
    job = changed(job, name="ünï 🦊", storage={"conditional_create": False}, **changes)
    claim_output(job, {"sampling": {"seed": "as written"}})

    claim = read_claim(Storage(job.output))

    assert (claim.name, claim.prompts, claim.output, claim.shard_rows) == (job.name, job.prompts, job.output, 4)
    assert (claim.recipe, claim.images) == (job.recipe, job.images)
    assert (claim.conditional_create, claim.job_file) == (False, {"sampling": {"seed": "as written"}})
    assert claim.version == VERSION
    assert datetime.fromisoformat(claim.created_at).tzinfo is not None


def test_keys_that_a_later_version_adds_around_the_settings_are_ignored(job: RenderJob) -> None:
    claim_output(job, {})
    storage = Storage(job.output)
    first = read_claim(storage)
    storage.write("job.json", json.dumps({**json.loads(storage.read("job.json")), "note": "later"}).encode())

    assert read_claim(storage) == first
    assert claim_output(job, {}) is True


def test_an_output_of_an_earlier_version_without_a_setting_has_its_default(job: RenderJob) -> None:
    claim_output(job, {})
    storage = Storage(job.output)
    claim = json.loads(storage.read("job.json"))
    del claim["recipe"]["cfg_interval"]
    storage.write("job.json", json.dumps(claim).encode())

    assert claim_output(job, {}) is True
    with pytest.raises(OtherJobError, match=r"a job with sampling.cfg_interval = null, this job has \[0.0, 0.5\]"):
        claim_output(changed(job, cfg_interval=(0.0, 0.5)), {})


def test_an_output_from_before_prompts_could_be_selected_is_resumed_and_read_as_a_whole(job: RenderJob) -> None:
    render(job)
    claim = json.loads(Path(job.output, "job.json").read_text())
    del claim["reading"]
    Path(job.output, "job.json").write_text(json.dumps(claim))

    assert claim_output(job, {}) is True
    with pytest.raises(OtherJobError, match=r"belongs to a job with limit = null, this job has 1"):
        claim_output(changed(job, reading=PromptReading(limit=1)), {})


def test_an_output_is_opened_with_the_storage_options_of_its_job(job: RenderJob) -> None:
    claim_output(job, {"storage": {"endpoint_url": "http://old", "anon": True}})

    storage, claim = open_output(f"{job.output}/", "http://new")

    assert claim == read_claim(storage)
    assert storage.url == job.output
    assert storage.options == {"endpoint_url": "http://new", "anon": True}


def test_a_folder_without_a_claim_is_not_an_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"/file is a file, and an output of janus-batch is a folder"):
        open_output(str(tmp_path / "file"), None)
    with pytest.raises(StorageError, match=r"/nothing has no job.json: it is not an output of janus-batch"):
        read_claim(Storage(f"{tmp_path}/nothing"))


@pytest.mark.parametrize("output", ["/proc/out", "{tmp_path}/prompts.parquet/out", "/dev/null/out"])
def test_an_output_that_cannot_be_written_is_refused(job: RenderJob, tmp_path: Path, output: str) -> None:
    output = output.format(tmp_path=tmp_path)

    with pytest.raises(StorageError, match=rf"^{output} (is not there|cannot be used|may not be used)"):
        claim_output(make_job(job.prompts, output), {})


def test_an_output_in_a_missing_bucket_is_refused(job: RenderJob, s3_server: S3Server) -> None:
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/out is not there"):
        claim_output(make_job(job.prompts, "s3://no-such-bucket/out", storage=s3_server.storage_options), {})


def test_an_output_that_these_credentials_may_not_write_is_refused(
    job: RenderJob, s3_server: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not s3_server.checks_signatures:
        pytest.skip(f"{s3_server.name} checks no signatures")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a stranger")
    options = {**s3_server.storage_options, "config_kwargs": {"user_agent_extra": "stranger"}}  # a client of its own

    with pytest.raises(StorageError, match=rf"{s3_folder}/out may not be used with the credentials given"):
        claim_output(make_job(job.prompts, f"{s3_folder}/out", storage=options), {})


def test_an_output_on_s3_is_claimed_and_resumed(job: RenderJob, s3_server: S3Server, s3_folder: str) -> None:
    remote = make_job(job.prompts, f"{s3_folder}/out", storage=s3_server.storage_options)

    assert claim_output(remote, {}) is False
    assert claim_output(remote, {}) is True
    assert Storage(remote.output, remote.storage).names("") == ["job.json"]
