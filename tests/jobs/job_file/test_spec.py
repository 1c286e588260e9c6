"""Which job files are accepted, and one line per error: the key, the rule, the value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields

SMALLEST = {"prompts": "prompts.parquet", "output": "renders", "model": {"checkpoint": "toy"}}


def fields(**changes: Any) -> dict[str, Any]:
    """The fields of the smallest job file, with changes."""
    return {key: changes.pop(key, value) for key, value in SMALLEST.items()} | changes


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(JobFileError) as refused:
        check_fields(changes)
    return str(refused.value)


# ---- accepted ------------------------------------------------------------------------------------------------------


def test_the_smallest_job_file_has_defaults_for_the_rest() -> None:
    spec = check_fields(SMALLEST)

    assert (spec.sampling.cfg_weight, spec.sampling.images_per_prompt, spec.sampling.seed) == (None, 1, 0)
    assert (spec.images.format, spec.images.layout, spec.shard_rows) == ("png", "files", 256)
    assert (spec.workers.min, spec.workers.max, spec.workers.batch_size) == (1, None, "auto")


@pytest.mark.parametrize("section", ["sampling", "images", "judge", "workers", "storage", "schedule"])
def test_an_empty_section_has_its_defaults(section: str) -> None:
    """YAML reads a section whose keys are all commented out as null."""
    assert check_fields(fields(**{section: None})) == check_fields(fields())


@pytest.mark.parametrize("name", ["café", "夜間", "a b", "x" * 200, "50%"])
def test_a_job_has_any_name_that_can_be_printed(name: str) -> None:
    assert check_fields(fields(name=name)).name == name


# ---- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"promts": "x"}, "promts: unknown key; did you mean `prompts`?"),
        ({"sampling": {"cfg_wieght": 5}}, "sampling.cfg_wieght: unknown key; did you mean `cfg_weight`?"),
        ({"sampling": {"cfg_scale": 5}}, "sampling.cfg_scale: unknown key; did you mean `cfg_weight`?"),
        ({"cfg_weight": 5}, "cfg_weight: unknown key; did you mean `sampling.cfg_weight`?"),
        ({"revision": "x"}, "revision: unknown key; did you mean `model.revision` or `judge.revision`?"),
        ({"endpoint_url": "x"}, "endpoint_url: unknown key; did you mean `storage.endpoint_url`?"),
        (
            {"workers": {"zzz": 5}},
            "workers.zzz: unknown key; allowed are min, max, gpus_per_actor, batch_size, ",
        ),
        ({"model": {"checkpoint": "toy", "float": 1}}, "model.float: unknown key; allowed are checkpoint, "),
        ({"images": {"size": 512}}, "images.size: a checkpoint renders images of one size"),
        ({"model": {}}, "model.checkpoint: this key is required"),
        ({"model": "toy"}, "model: must be a section with keys and values, got 'toy'"),
        ({"prompts": 5}, "prompts: Input should be a valid string, got 5"),
        ({"prompts": None}, "prompts: has no value; Input should be a valid string"),
        ({"model": None}, "model.checkpoint: this key is required"),
        ({"shard_rows": 0}, "shard_rows: Input should be greater than or equal to 1, got 0"),
        ({"shard_rows": 2.5}, "shard_rows: Input should be a valid integer, got 2.5"),
        ({"shard_rows": True}, "shard_rows: Input should be a valid integer, got True"),
        ({"sampling": {"seed": -1}}, "sampling.seed: Input should be greater than or equal to 0, got -1"),
        ({"sampling": {"seed": 2**64}}, "sampling.seed: Input should be less than 18446744073709551616, got 184467"),
        (
            {"sampling": {"cfg_weight": "five"}},
            "sampling.cfg_weight: Input should be a valid number or a list in [brackets], got 'five'",
        ),
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
        ({"workers": {"min": 3, "max": 2}}, "workers.min: must be at most workers.max, 2, got 3"),
        ({"workers": {"min": 10**9}}, "workers.min: Input should be less than or equal to 100000, got 1000000000"),
        (
            {"columns": {"id": "prompt"}},
            "columns.id: the column prompt has the prompts; prompt_column can name another",
        ),
        ({"storage": {"x": float("nan")}}, "storage: options must be text, numbers, "),
        ({f"key{n}": 1 for n in range(20)}, "\nand 10 more"),
        ({"workers": {"batch_size": 0}}, "workers.batch_size: must be at least 1, or auto, got 0"),
        ({"workers": {"batch_size": "big"}}, "workers.batch_size: "),
        ({"workers": {"gpus_per_actor": float("inf")}}, "workers.gpus_per_actor: Input should be a finite number"),
        ({"workers": {"gpus_per_actor": 0.5}}, "workers.gpus_per_actor: must be 0 or 1: an actor"),
        ({"workers": {"gpus_per_actor": 2}}, "uses all memory of that GPU, got 2"),
        ({"name": ""}, "name: must have 1 to 200 characters, no line breaks and no other control characters, got ''"),
        ({"name": "x\n* * * * * touch owned #"}, r"control characters, got 'x\n* * * * * touch owned #'"),
        ({"name": "x" * 201}, "name: must have 1 to 200 characters"),
        ({"storage": {"config_kwargs": 7}}, "storage: config_kwargs must be a section with keys and values, got {"),
        ({"storage": {"endpoint_url": 9000}}, "storage: endpoint_url must be text: http://HOST:PORT, got {"),
        ({"storage": []}, "storage: must be a section with keys and values, got []"),
        ({"output": ""}, "output: must not be empty, got ''"),
        ({"prompts": "$HOME/prompts"}, "prompts: variables such as $HOME and ${NAME} are not expanded; write the path"),
        ({"output": "s3:/bucket/x"}, "output: a URL has two slashes after its scheme: s3://, got 's3:/bucket/x'"),
        (
            {"model": {"checkpoint": "/" + "a" * 5000}},
            "model.checkpoint: a path has at most 4,096 bytes, and a name in it ",
        ),
        (
            {"storage": {"expiry": {1, 2}}},
            "storage: options must be text, numbers, booleans, lists and sections (",
        ),
    ],
)
def test_an_error_names_the_key_the_rule_and_the_value(changes: dict[str, Any], line: str) -> None:
    assert line in refusal(fields(**changes))


def test_each_error_has_its_own_line() -> None:
    lines = refusal({"outptu": "x", "model": {"checkpoint": 3}, "sampling": {"seed": "a", "images_per_prompt": 0}})

    assert [line.split(":")[0] for line in lines.splitlines()] == [
        "prompts",
        "output",
        "model.checkpoint",
        "sampling.images_per_prompt",
        "sampling.seed",
        "outptu",
    ]


def test_an_error_in_a_list_does_not_name_our_types() -> None:
    text = refusal(fields(sampling={"cfg_weight": ["a", 5]}))

    assert "sampling.cfg_weight" in text
    assert "list[" not in text


@pytest.mark.parametrize("key", ["prompts", "output", "model.checkpoint", "model.vae"])
def test_an_address_with_a_password_is_refused_and_not_shown(key: str) -> None:
    """tests/workflows/storage/test_credentials.py has all the spellings."""
    section, _, inner = key.partition(".")
    address = "s3://me:hidden@bucket/x"
    changes = {section: {"checkpoint": "toy", inner: address} if inner else address}

    assert refusal(fields(**changes)) == (
        f"{key}: an address with a user name or password in it is refused, because job files are copied into job.json "
        "and logs; credentials come from the environment"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"prompt_template": "t2i-r2"},
            "model.prompt_template: must be a section with prefix and suffix, or one of janus,",
        ),
        ({"prompt_template": {"prefix": ""}}, "model.prompt_template.suffix: this key is required"),
        (
            {"prompt_template": {"prefix": "<begin_of_image>", "suffix": ""}},
            "model.prompt_template.prefix: must not hold <begin_of_image>, which the engine adds, got ",
        ),
        (
            {"prompt_template": {"prefix": "", "suffix": "", "unconditional": "none"}},
            "model.prompt_template.unconditional: Input should be 'pads' or 'empty', got 'none'",
        ),
        (
            {"prompt_template": "janus", "prompt_format": "janus"},
            "model: prompt_template is the whole text around a prompt: leave out prompt_format, got ",
        ),
        ({"prompt_template": {"prefix": "", "sufix": ""}}, "unknown key; did you mean `suffix`?"),
    ],
)
def test_a_template_that_is_none_is_refused(model: dict[str, Any], message: str) -> None:
    assert message in refusal(fields(model={"checkpoint": "toy", **model}))


# ---- the judge -----------------------------------------------------------------------------------------------------


def test_a_judge_only_scores_unless_the_job_file_says_more() -> None:
    judge = check_fields(fields(judge={})).judge

    assert judge is not None
    assert judge.question == "Does this image show {prompt}? Answer yes or no."
    assert (judge.best_of, judge.retry_below, judge.num_tries, judge.caption) == (1, None, 1, False)
    assert check_fields(fields(judge={"retry_below": 0.5})).judge.num_tries == 3


def test_a_job_file_without_a_judge_is_written_without_one() -> None:
    assert "judge" not in check_fields(fields()).model_dump()


@pytest.mark.parametrize(
    ("judge", "line"),
    [
        ({"question": " "}, "judge.question: must not be empty, got ' '"),
        ({"question": "Is it {promt}?"}, "judge.question: its only field is {prompt}, got {promt}"),
        (
            {"question": "<image_placeholder> {prompt}?"},
            "judge.question: must not contain a model's special token, got <image_placeholder>",
        ),
        ({"best_of": 0}, "judge.best_of: "),
        ({"retry_below": 0}, "judge.retry_below: "),
        ({"retry_below": 1.5}, "judge.retry_below: "),
        ({"max_tries": 3}, "judge.max_tries: needs judge.retry_below, got 3"),
        (
            {"best_of": 64, "retry_below": 0.5, "max_tries": 5},
            "judge.best_of: best_of x max_tries must be at most 256 candidates per image, got 64 x 5",
        ),
        ({"revision": "main"}, "judge.revision: needs judge.checkpoint, got 'main'; the job's own checkpoint has "),
        ({"checkpoint": "s3://key:secret@bucket/model"}, "judge.checkpoint: "),
        ({"chekpoint": "toy"}, "judge.chekpoint: "),
    ],
)
def test_a_judge_that_cannot_work_is_refused(judge: dict[str, Any], line: str) -> None:
    message = refusal(fields(judge=judge))

    assert message.startswith(line)
    assert "secret@" not in message


@pytest.mark.parametrize("question", ["Is it sharp?", "{prompt}? {prompt}?", "Is {a b} a set?"])
def test_a_question_needs_no_prompt(question: str) -> None:
    assert check_fields(fields(judge={"question": question})).judge.question == question
