"""From the job file to the resolved job: defaults by family, absolute locations, and refused settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.errors import CheckpointError
from actors.recipe import Judge
from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields
from jobs.job_file.resolve import remarks, resolve
from workflows.job import Images, RenderJob, Workers

JANUS = str(Path(__file__).parents[2] / "data" / "janus-tiny")
# Two files of weights would be two lines; printf '%s  model.safetensors\n' HASH | sha256sum
NO_WEIGHTS = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def job_of(*, num_gpus: int = 0, **changes: Any) -> RenderJob:
    """The job that the smallest job file, with changes, resolves to."""
    fields = {"prompts": "/data/prompts.parquet", "output": "/data/out", "model": {"checkpoint": "toy"}, **changes}
    return resolve(check_fields(fields), num_gpus=num_gpus)


def test_missing_settings_get_their_defaults() -> None:
    job = job_of()

    assert (job.name, job.prompts, job.output, job.shard_rows) == ("render", "/data/prompts.parquet", "/data/out", 256)
    assert (job.images, job.workers, job.storage) == (Images(layout="files"), Workers(), {})
    assert job.recipe.to_dict() == {
        "family": "toy",
        "checkpoint": "toy",
        "revision": None,
        "weights_sha256": NO_WEIGHTS,
        "prompt_format": None,
        "vae": None,
        "vae_revision": None,
        "vae_sha256": None,
        "dtype": "float32",
        "sampler": "toy-1",
        "cfg_weights": [5.0],
        "temperature": 1.0,
        "num_inference_steps": None,
        "images_per_prompt": 1,
        "seed": 0,
        "cfg_interval": None,
        "solver": None,
        "match_reference_demo": False,
        "allow_any_cfg_weight": False,
        "kv_cache": None,
    }


def test_the_job_files_settings_are_resolved() -> None:
    job = job_of(
        name="parti",
        sampling={
            "cfg_weight": [1, 7.5],
            "temperature": 0,
            "images_per_prompt": 3,
            "seed": 9,
            "cfg_interval": [0, 0.5],
        },
        images={"format": "jpeg", "layout": "parquet"},
        workers={"min": 2, "max": 5, "gpus_per_actor": 1, "batch_size": 12, "max_tries": 7},
        storage={"endpoint_url": "http://127.0.0.1:9"},
        shard_rows=10,
    )

    assert (job.recipe.cfg_weights, job.recipe.temperature, job.recipe.seed) == ((1.0, 7.5), 0.0, 9)
    assert (job.recipe.cfg_interval, job.recipe.images_per_row) == ((0.0, 0.5), 6)
    assert job.images == Images(format="jpeg", layout="parquet")
    assert job.workers == Workers(min=2, max=5, gpus_per_actor=1, batch_size=12, max_tries=7)
    assert (job.storage, job.shard_rows) == ({"endpoint_url": "http://127.0.0.1:9"}, 10)


@pytest.mark.parametrize(
    ("workers", "num_gpus", "expected"),
    [({}, 0, (0, "float32")), ({}, 8, (1, "bfloat16")), ({"gpus_per_actor": 0}, 8, (0, "float32"))],
)
def test_the_clusters_gpus_decide_the_defaults(
    workers: dict[str, Any], num_gpus: int, expected: tuple[int, str]
) -> None:
    job = job_of(workers=workers, num_gpus=num_gpus)

    assert (job.workers.gpus_per_actor, job.recipe.dtype) == expected


def test_the_job_files_dtype_wins_over_the_devices() -> None:
    assert job_of(model={"checkpoint": "toy", "dtype": "float32"}, num_gpus=1).recipe.dtype == "float32"


def test_a_plan_needs_no_digest() -> None:
    fields = {"prompts": "p", "output": "o", "model": {"checkpoint": JANUS}}

    without = resolve(check_fields(fields), num_gpus=0, with_digest=False).recipe
    with_digest = resolve(check_fields(fields), num_gpus=0).recipe

    assert without.weights_sha256 == ""
    assert len(with_digest.weights_sha256) == 64
    assert (without.family, without.prompt_format) == ("janus", with_digest.prompt_format)


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0, 0.5, 11, -3, float("nan"), float("inf"), [1, 11], [float("nan")]])
def test_a_weight_out_of_range_is_refused(weight: Any) -> None:
    rule = r"(must be from 1 to 10 \(1 is unguided\), got|must be a finite number, got)"

    with pytest.raises(JobFileError, match=rf"sampling.cfg_weight: cfg_weight {rule}"):
        job_of(sampling={"cfg_weight": weight})


def test_the_limits_of_the_weight_can_be_lifted_for_finite_numbers() -> None:
    assert job_of(sampling={"cfg_weight": [0, 25], "allow_any_cfg_weight": True}).recipe.cfg_weights == (0.0, 25.0)
    with pytest.raises(JobFileError, match=r"must be a finite number, got inf"):
        job_of(sampling={"cfg_weight": float("inf"), "allow_any_cfg_weight": True})


# ---- settings of other families --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"), [("num_inference_steps", 30), ("solver", "euler"), ("match_reference_demo", True)]
)
def test_a_setting_of_another_family_is_refused_with_this_familys_settings(key: str, value: Any) -> None:
    with pytest.raises(JobFileError) as refused:
        job_of(model={"checkpoint": JANUS}, sampling={key: value})

    assert str(refused.value) == (
        f"sampling.{key}: janus does not take it, got {value!r}; in addition to cfg_weight, cfg_interval, "
        "images_per_prompt and seed it takes temperature"
    )


def test_a_cache_in_fp8_belongs_to_janus() -> None:
    assert job_of(model={"checkpoint": JANUS, "kv_cache": "fp8"}).recipe.kv_cache == "fp8"
    assert job_of(model={"checkpoint": JANUS}).recipe.kv_cache is None
    with pytest.raises(JobFileError, match=r"model\.kv_cache: janusflow keeps no cache from step to step, got 'fp8'"):
        job_of(model={"checkpoint": "janusflow-shapes", "kv_cache": "fp8"})


def test_a_vae_and_latents_belong_to_janusflow() -> None:
    with pytest.raises(JobFileError, match=r"model\.vae: janus decodes without a VAE, got 'stabilityai/sdxl-vae'"):
        job_of(model={"checkpoint": JANUS, "vae": "stabilityai/sdxl-vae"})
    with pytest.raises(JobFileError, match=r"images\.keep_latents: images of toy have codes and no latents"):
        job_of(images={"keep_latents": True})


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the model folder .* does not exist"):
        job_of(model={"checkpoint": str(tmp_path / "nothing")})


def test_the_default_weight_of_another_family_is_remarked_on() -> None:
    assert remarks(job_of(sampling={"cfg_weight": 2})) == [
        "cfg_weight 2 is the default of janusflow; the default of toy is 5"
    ]
    assert remarks(job_of()) == []
    assert remarks(job_of(sampling={"cfg_weight": 3})) == []


# ---- locations -------------------------------------------------------------------------------------------------------


def test_a_location_is_the_same_before_and_after_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a job would not be taken for itself when it is resumed."""
    monkeypatch.chdir(tmp_path)
    before = job_of(prompts="prompts", output="renders/one")
    for folder in ("prompts", "renders/one"):
        Path(folder).mkdir(parents=True)

    after = job_of(prompts="prompts", output="renders/one")

    assert (before.prompts, before.output) == (after.prompts, after.output)


def test_a_models_name_is_a_folder_only_if_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(JANUS).parent)
    assert job_of(model={"checkpoint": "janus-tiny"}).recipe.checkpoint == JANUS

    monkeypatch.chdir(tmp_path)
    Path("toy").mkdir()
    assert job_of(model={"checkpoint": "toy"}).recipe.checkpoint == "toy"


@pytest.mark.parametrize(
    ("prompts", "output"),
    [
        ("/data", "/data"),
        ("/data", "/data/out"),
        ("/data/", "/data/x/../out"),
        ("s3://bucket/data/", "s3://bucket/data/out/"),
        ("/data/**/*.parquet", "/data/out"),
    ],
)
def test_an_output_inside_the_prompts_is_refused(prompts: str, output: str) -> None:
    """A resume would render its own manifest: it has a column `prompt`."""
    with pytest.raises(JobFileError, match=r"output: must not be inside the prompts \(.*data.*\), got .*data"):
        job_of(prompts=prompts, output=output)


@pytest.mark.parametrize(
    ("prompts", "output"),
    [("/data/prompts", "/data/prompts-out"), ("/data/*.parquet", "/data/out"), ("/data/p.parquet", "/data/out")],
)
def test_an_output_alongside_the_prompts_is_accepted(prompts: str, output: str) -> None:
    assert job_of(prompts=prompts, output=output).output == output


# ---- the text around a prompt ----------------------------------------------------------------------------------------


def test_a_template_is_recorded_as_data_also_if_the_job_file_names_it() -> None:
    named = job_of(model={"checkpoint": JANUS, "prompt_template": "t2i-r1"}).recipe
    section = {"prefix": "User: ", "suffix": "\n\nAssistant:"}
    assert (
        named.prompt_template == job_of(model={"checkpoint": JANUS, "prompt_template": section}).recipe.prompt_template
    )
    assert named.to_dict()["prompt_template"] == {**section, "system_prompt": "", "unconditional": "pads"}
    assert named.prompt_format is None


def test_a_family_without_a_template_takes_none() -> None:
    with pytest.raises(JobFileError, match=r"model.prompt_template: toy puts no text around a prompt"):
        job_of(model={"checkpoint": "toy", "prompt_template": "janus"})


def test_guessed_role_tags_are_a_remark_and_given_ones_are_not() -> None:
    (guess,) = remarks(job_of(model={"checkpoint": JANUS}))
    assert guess.startswith("the role tags <|User|> and <|Assistant|> are a guess")
    assert f"`janus-batch doctor {JANUS}`" in guess
    assert remarks(job_of(model={"checkpoint": JANUS, "prompt_format": "janus-pro"})) == []
    assert remarks(job_of(model={"checkpoint": "janus-shapes"})) == []


# ---- the text before an image ----------------------------------------------------------------------------------------


def test_a_protocol_is_recorded_and_none_is_left_out() -> None:
    assert job_of(model={"checkpoint": JANUS, "protocol": "got-r1"}).recipe.to_dict()["protocol"] == "got-r1"
    for model in ({"checkpoint": JANUS}, {"checkpoint": JANUS, "protocol": "none"}):
        assert "protocol" not in job_of(model=model).recipe.to_dict()


def test_a_known_model_reasons_as_it_was_trained_to_unless_told_otherwise(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--CaraJ--T2I-R1" / "snapshots" / ("0" * 40)
    shutil.copytree(JANUS, snapshot)
    assert job_of(model={"checkpoint": str(snapshot)}).recipe.protocol == "t2i-r1"
    assert job_of(model={"checkpoint": str(snapshot), "protocol": "none"}).recipe.protocol is None


@pytest.mark.parametrize("family", ["toy", "janusflow-shapes"])
def test_a_family_that_writes_no_text_takes_no_protocol(family: str) -> None:
    with pytest.raises(JobFileError, match=r"model.protocol: \w+ writes no text before an image, got 't2i-r1'"):
        job_of(model={"checkpoint": family, "protocol": "t2i-r1"})


# ---- the judge -----------------------------------------------------------------------------------------------------


def test_the_jobs_own_checkpoint_is_its_judge() -> None:
    job = job_of(model={"checkpoint": JANUS}, judge={"best_of": 2, "retry_below": 0.5, "caption": True})

    judge = job.recipe.judge
    assert judge == Judge(
        question="Does this image show {prompt}? Answer yes or no.",
        best_of=2,
        retry_below=0.5,
        max_tries=3,
        caption_tokens=64,
        family="janus",
        checkpoint=JANUS,
        revision=None,
        weights_sha256=job.recipe.weights_sha256,
        prompt_format="janus-pro",
        is_own=True,
        looker="look-1",
    )
    assert (
        judge
        == job_of(
            model={"checkpoint": JANUS},
            judge={"best_of": 2, "retry_below": 0.5, "caption": True, "checkpoint": JANUS},
        ).recipe.judge
    )


def test_another_checkpoint_can_be_the_judge() -> None:
    judge = job_of(judge={"checkpoint": JANUS}).recipe.judge

    assert judge is not None
    assert (judge.family, judge.checkpoint, judge.is_own, judge.caption_tokens) == ("janus", JANUS, False, None)


def test_a_judge_that_cannot_look_is_refused_with_the_key_and_the_reason(tmp_path: Path) -> None:
    blind = tmp_path / "blind"
    shutil.copytree(JANUS, blind)
    (blind / "preprocessor_config.json").unlink()
    reason = "blind: it has no preprocessor_config.json, so this model cannot look at images"

    with pytest.raises(CheckpointError, match=rf"judge: .*{reason}; judge.checkpoint must name a checkpoint"):
        job_of(judge={"checkpoint": str(blind)})
    with pytest.raises(CheckpointError, match=rf"judge: .*{reason}; model.checkpoint must name a checkpoint"):
        job_of(model={"checkpoint": str(blind)}, judge={})
