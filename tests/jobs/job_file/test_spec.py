"""The job file: what is taken, and for each fault one line with the key, the rule, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields, read_job_file
from jobs.job_file.spec import JobSpec

SMALLEST = {"prompts": "prompts.parquet", "output": "renders", "model": {"checkpoint": "toy"}}
FULL = """
name: parti-janus-pro
prompts: s3://bucket/prompts/
output: s3://bucket/renders/parti
storage: {endpoint_url: "http://127.0.0.1:9000", client_kwargs: {region_name: eu-west-1}}
model: {checkpoint: deepseek-ai/Janus-Pro-1B, revision: main, dtype: bfloat16}
sampling:
  cfg_weight: [1, 3, 5.5]
  temperature: 1
  images_per_prompt: 4
  seed: 18446744073709551615
images: {format: webp, layout: webdataset}
workers: {min: 1, max: 8, gpus_per_actor: 1, batch_size: auto, max_tries: 5}
shard_rows: 64
"""


def fields(**changes: Any) -> dict[str, Any]:
    """The smallest job file, with changes; a section is changed by a dictionary."""
    return {key: changes.pop(key, value) for key, value in SMALLEST.items()} | changes


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(JobFileError) as refused:
        check_fields(changes)
    return str(refused.value)


def write(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "my-job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# ---- what is taken ---------------------------------------------------------------------------------------------------


def test_the_smallest_job_file_has_defaults_for_the_rest(tmp_path: Path) -> None:
    spec = read_job_file(write(tmp_path, yaml.safe_dump(SMALLEST)), [])

    assert spec.name == "my-job"
    assert (spec.sampling.cfg_weight, spec.sampling.images_per_prompt, spec.sampling.seed) == (None, 1, 0)
    assert (spec.images.format, spec.images.layout, spec.shard_rows) == ("png", "files", 256)
    assert (spec.workers.min, spec.workers.max, spec.workers.batch_size) == (1, None, "auto")


def test_a_full_job_file_is_taken_as_it_stands(tmp_path: Path) -> None:
    spec = read_job_file(write(tmp_path, FULL), [])

    assert spec.sampling.cfg_weight == [1.0, 3.0, 5.5]
    assert spec.sampling.seed == 2**64 - 1
    assert spec.storage == {"endpoint_url": "http://127.0.0.1:9000", "client_kwargs": {"region_name": "eu-west-1"}}
    assert JobSpec.model_validate(spec.model_dump()) == spec


def test_settings_of_the_command_line_lie_over_the_file(tmp_path: Path) -> None:
    settings = ["sampling.seed=7", "model.checkpoint=janus-shapes", "sampling.cfg_weight=[1, 5]", "images.format=jpeg"]

    spec = read_job_file(write(tmp_path, yaml.safe_dump(SMALLEST)), settings)

    assert (spec.sampling.seed, spec.model.checkpoint, spec.images.format) == (7, "janus-shapes", "jpeg")
    assert spec.sampling.cfg_weight == [1.0, 5.0]
    assert spec.prompts == "prompts.parquet"


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"promts": "x"}, "promts: there is no such key; did you mean `prompts`?"),
        ({"sampling": {"cfg_wieght": 5}}, "sampling.cfg_wieght: there is no such key; did you mean `cfg_weight`?"),
        ({"sampling": {"cfg": 5}}, "sampling.cfg: there is no such key; "),
        (
            {"workers": {"zzz": 5}},
            "workers.zzz: there is no such key; allowed are min, max, gpus_per_actor, batch_size, ",
        ),
        ({"model": {"checkpoint": "toy", "float": 1}}, "model.float: there is no such key; allowed are checkpoint, "),
        ({"images": {"size": 512}}, "images.size: a checkpoint renders pictures of one size"),
        ({"model": {}}, "model.checkpoint: this key is needed"),
        ({"model": "toy"}, "model: "),
        ({"prompts": 5}, "prompts: Input should be a valid string, got 5"),
        ({"prompts": None}, "prompts: Input should be a valid string, got None"),
        ({"shard_rows": 0}, "shard_rows: Input should be greater than or equal to 1, got 0"),
        ({"shard_rows": 2.5}, "shard_rows: Input should be a valid integer, got 2.5"),
        ({"shard_rows": True}, "shard_rows: Input should be a valid integer, got True"),
        ({"sampling": {"seed": -1}}, "sampling.seed: Input should be greater than or equal to 0, got -1"),
        ({"sampling": {"seed": 2**64}}, "sampling.seed: Input should be less than 18446744073709551616, got 184467"),
        ({"sampling": {"cfg_weight": "five"}}, "sampling.cfg_weight: Input should be a valid number, got 'five'"),
        (
            {"sampling": {"cfg_weight": []}},
            "sampling.cfg_weight: a sweep needs at least one weight and none of them twice",
        ),
        (
            {"sampling": {"cfg_weight": [5, 5.0]}},
            "sampling.cfg_weight: a sweep needs at least one weight and none of the",
        ),
        (
            {"sampling": {"cfg_weight": [5, 5.0000001]}},
            "sampling.cfg_weight: a sweep needs at least one weight and none",
        ),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature: Input should be a finite number, got nan"),
        ({"sampling": {"temperature": -1}}, "sampling.temperature: Input should be greater than or equal to 0, got -1"),
        (
            {"sampling": {"num_inference_steps": 0}},
            "sampling.num_inference_steps: Input should be greater than or equal t",
        ),
        (
            {"sampling": {"images_per_prompt": 0}},
            "sampling.images_per_prompt: Input should be greater than or equal to 1",
        ),
        (
            {"sampling": {"match_reference_demo": True, "solver": "heun"}},
            "sampling: match_reference_demo needs the demo's solver, euler, got solver heun",
        ),
        (
            {"sampling": {"cfg_interval": [0.5, 0.5]}},
            "sampling.cfg_interval: must be [t0, t1] with 0 <= t0 < t1 <= 1, got",
        ),
        ({"sampling": {"solver": "rk4"}}, "sampling.solver: Input should be 'euler', 'heun' or 'midpoint', got 'rk4'"),
        ({"images": {"format": "gif"}}, "images.format: Input should be 'png', 'webp' or 'jpeg', got 'gif'"),
        ({"images": {"layout": "zip"}}, "images.layout: Input should be 'files', 'webdataset' or 'parquet', got 'zip'"),
        (
            {"model": {"checkpoint": "toy", "dtype": "float16"}},
            "model.dtype: float16 is refused: the SDXL VAE overflows",
        ),
        (
            {"model": {"checkpoint": "toy", "dtype": "int8"}},
            "model.dtype: Input should be 'float32' or 'bfloat16', got",
        ),
        ({"workers": {"min": 0}}, "workers.min: Input should be greater than or equal to 1, got 0"),
        ({"workers": {"batch_size": 0}}, "workers.batch_size: must be at least 1, or auto, got 0"),
        ({"workers": {"batch_size": "big"}}, "workers.batch_size: "),
        ({"workers": {"gpus_per_actor": float("inf")}}, "workers.gpus_per_actor: Input should be a finite number"),
        ({"workers": {"gpus_per_actor": 0.5}}, "workers.gpus_per_actor: must be 0 or 1: an actor"),
        ({"workers": {"gpus_per_actor": 2}}, "memory it plans with, got 2"),
        (
            {"storage": {"expiry": {1, 2}}},
            "storage: options must be text, numbers, true or false, lists and sections (",
        ),
    ],
)
def test_a_fault_is_told_with_its_key_rule_and_value(changes: dict[str, Any], line: str) -> None:
    assert line in refusal(fields(**changes))


def test_every_fault_has_its_line() -> None:
    lines = refusal({"outptu": "x", "model": {"checkpoint": 3}, "sampling": {"seed": "a", "images_per_prompt": 0}})

    assert [line.split(":")[0] for line in lines.splitlines()] == [
        "prompts",
        "output",
        "model.checkpoint",
        "sampling.images_per_prompt",
        "sampling.seed",
        "outptu",
    ]


def test_a_fault_of_a_number_or_a_list_is_told_without_the_names_of_our_types() -> None:
    text = refusal(fields(sampling={"cfg_weight": ["a", 5]}))

    assert "sampling.cfg_weight" in text
    assert "list[" not in text


@pytest.mark.parametrize(
    "storage",
    [
        {"key": "AKIA-hidden"},
        {"secret": "hidden"},
        {"token": "hidden"},
        {"client_kwargs": {"aws_secret_access_key": "hidden"}},
        {"client_kwargs": {"aws_session_token": "hidden"}},
        {"account_key": "hidden"},
        {"connection_string": "hidden"},
        {"sasToken": "hidden"},
        {"Password": "hidden"},
        {"endpoint_url": "http://me:hidden@host"},
        {"client_kwargs": {"endpoint_url": "http://hidden@host/path"}},
    ],
)
def test_a_secret_in_storage_options_is_refused_and_not_shown(storage: dict[str, Any]) -> None:
    text = refusal(fields(storage=storage))

    assert text.startswith("storage: ")
    assert text.endswith("; credentials come from the environment")
    assert "hidden" not in text


@pytest.mark.parametrize("key", ["prompts", "output", "model.checkpoint", "model.vae"])
@pytest.mark.parametrize("address", ["s3://me:hidden@bucket/x", "https://hidden@host/x"])
def test_an_address_with_a_user_or_password_is_refused_and_not_shown(key: str, address: str) -> None:
    section, _, inner = key.partition(".")
    changes = {section: {"checkpoint": "toy", inner: address} if inner else address}

    assert refusal(fields(**changes)) == (
        f"{key}: an address with a user name or password in it is refused; credentials come from the environment"
    )


@pytest.mark.parametrize("address", ["s3://bucket/a@b/c.parquet", "prompts@home.parquet", "/data/x@y/"])
def test_an_at_sign_elsewhere_is_no_fault(address: str) -> None:
    assert check_fields(fields(prompts=address)).prompts == address


# ---- the file and the command line -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold keys and values, it holds NoneType"),
        ("- a\n- b", "must hold keys and values, it holds list"),
        ("just words", "must hold keys and values, it holds str"),
        ("prompts: [unclosed", "is not YAML: "),
        ("prompts: !!python/object:os.system x", "is not YAML: "),
        (b"\xff\xfe\x00", "cannot be read: "),
    ],
)
def test_a_file_that_is_no_job_file_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(JobFileError, match=rf"my-job.yaml {message}"):
        read_job_file(write(tmp_path, text), [])


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"none\.yaml cannot be read: .*No such file"):
        read_job_file(str(tmp_path / "none.yaml"), [])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampling.seed", r"--set takes key=value with a dotted key \(--set sampling.seed=7\), got 'sampling.seed'"),
        ("=7", "--set takes key=value with a dotted key"),
        ("prompts.x=7", "--set prompts.x=7: prompts is no section"),
        ("sampling.seed=[", r"--set sampling.seed=\[: the value is not YAML"),
        ("sampling.sede=7", "sampling.sede: there is no such key; did you mean `seed`"),
        ("sampling.cfg_weight=eleven", "sampling.cfg_weight: Input should be a valid number, got 'eleven'"),
    ],
)
def test_a_wrong_setting_is_refused(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(JobFileError, match=message):
        read_job_file(write(tmp_path, yaml.safe_dump(SMALLEST)), [setting])


@pytest.mark.parametrize("query", ["X-Amz-Signature=planted", "sig=planted", "X-Amz-Security-Token=planted"])
def test_a_presigned_address_is_refused_and_not_shown(query: str) -> None:
    with pytest.raises(JobFileError, match="prompts: an address with a signature or token") as refusal:
        check_fields({"prompts": f"https://host/p.parquet?{query}", "output": "out", "model": {"checkpoint": "toy"}})
    assert "planted" not in str(refusal.value)
