"""Keywords become the job file that a person would write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.api.job import JOB_KEYS, SAMPLING_KEYS, job_of
from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields


def test_settings_have_their_own_names_and_sections_are_dicts(tmp_path: Path) -> None:
    keys = {
        "cfg_weight": (1, np.float32(5)),
        "cfg_interval": range(2),
        "seed": np.int64(7),
        "images_per_prompt": 2,
        "workers": {"max": 2},
        "model": {"dtype": "float32"},
        "shard_rows": 64,
    }

    spec = job_of("prompts", tmp_path / "model", tmp_path / "foxes", keys)

    assert spec == check_fields(
        {
            "name": "foxes",
            "prompts": "prompts",
            "output": str(tmp_path / "foxes"),
            "model": {"checkpoint": str(tmp_path / "model"), "dtype": "float32"},
            "sampling": {"cfg_weight": [1, 5.0], "cfg_interval": [0, 1], "seed": 7, "images_per_prompt": 2},
            "workers": {"max": 2},
            "shard_rows": 64,
        }
    )


def test_a_name_and_a_sampling_section_can_be_given() -> None:
    spec = job_of("prompts", "toy", "out", {"name": "foxes", "sampling": {"seed": 3}, "temperature": 0.5})

    assert (spec.name, spec.sampling.seed, spec.sampling.temperature) == ("foxes", 3, 0.5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"cfg_weigth": 5}, "^cfg_weigth: unknown key; did you mean `cfg_weight`"),
        ({"guidance_scale": 5}, "^guidance_scale: unknown key; did you mean `cfg_weight`"),
        ({"worker": {"max": 2}}, "did you mean `workers`"),
        ({"zzz": 1}, r"allowed are the settings of sampling \(cfg_weight, .* keys of a job file \(name, "),
        ({"revision": "main"}, r"^revision: unknown key; did you mean model=\{'revision': \.\.\.\} or judge="),
        ({"endpoint_url": "http://x"}, r"did you mean storage=\{'endpoint_url': "),
        ({"cfg_weight": "x"}, "^sampling.cfg_weight: Input should be a valid number or a list .*, got 'x'$"),
        ({"cfg_weight": iter([1])}, "^sampling.cfg_weight: must be text, numbers, booleans, .* got <list_iterator"),
        ({"schedule": {"cron": "0 2 * * *"}}, "^schedule: unknown key"),
        ({"cfg_weight": 0.5, "seed": -1}, "sampling.seed: .* got -1"),
        ({"workers": {"maximum": 2}}, r"workers\.maximum: unknown key; did you mean `max`"),
        ({"workers": 2}, "workers: must be a section with keys and values"),
        ({"seed": 1, "sampling": {"seed": 2}}, "sampling.seed: given twice"),
        (
            {"model": {"checkpoint": "other"}},
            "model.checkpoint: given twice, in `model` and as an argument",
        ),
    ],
)
def test_a_wrong_key_is_refused(keys: dict, message: str) -> None:
    with pytest.raises(JobFileError, match=message):
        job_of("prompts", "toy", "out", keys)


def test_no_setting_has_the_name_of_a_key() -> None:
    assert set(SAMPLING_KEYS).isdisjoint(JOB_KEYS)
