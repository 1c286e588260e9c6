"""`janus-batch init` writes a job file that explains itself, that `plan` accepts, and that replaces no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.init import init
from jobs.job_file.errors import JobFileError
from jobs.job_file.read import read_job_file
from jobs.job_file.sections.model import ModelSection
from jobs.job_file.sections.running import WorkersSection
from jobs.job_file.sections.sampling import SamplingSection
from jobs.job_file.spec import JobSpec
from tests.support.command_line import Command
from tests.support.toy_job import bytes_of


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return Command(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("arguments", [[], ["foxes.yaml"], ["sub folder"], ["sub folder/#1: é.yaml"]])
def test_plan_accepts_the_job_file(command: Command, arguments: list[str]) -> None:
    (command.folder / "sub folder").mkdir()

    code, out, err = command("init", *arguments)

    assert (code, err) == (0, "")
    job_file = out.splitlines()[0].removeprefix("wrote ")
    code, out, err = command("plan", job_file)
    assert (code, err) == (0, "")
    assert "images        8 (4 per prompt)" in out


def test_the_comment_of_each_key_is_its_description(tmp_path: Path) -> None:
    init(str(tmp_path / "job.yaml"), num_gpus=0)

    text = " ".join((tmp_path / "job.yaml").read_text().replace("#", "").split())
    sections = {JobSpec: ("name", "prompts", "output"), ModelSection: ("checkpoint",)}
    sections |= {SamplingSection: ("cfg_weight", "images_per_prompt", "seed"), WorkersSection: ("gpus_per_actor",)}
    for section, keys in sections.items():
        for key in keys:
            assert f"{section.model_fields[key].description} {key}: " in text


@pytest.mark.parametrize(
    ("num_gpus", "checkpoint", "gpus_per_actor"), [(0, "janus-shapes", 0), (2, "deepseek-ai/Janus-Pro-1B", 1)]
)
def test_the_job_fits_the_machine(tmp_path: Path, num_gpus: int, checkpoint: str, gpus_per_actor: int) -> None:
    init(str(tmp_path), num_gpus=num_gpus)

    spec = read_job_file(str(tmp_path / "job.yaml"), [])
    assert (spec.model.checkpoint, spec.workers.gpus_per_actor) == (checkpoint, gpus_per_actor)
    assert spec.output == str(tmp_path / "renders/job")


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("mine\n")
    before = bytes_of(tmp_path)
    init(str(tmp_path), num_gpus=0)
    assert bytes_of(tmp_path).items() >= before.items()
    after = bytes_of(tmp_path)

    with pytest.raises(JobFileError, match=r"job\.yaml exists, and init overwrites no file; name another one"):
        init(str(tmp_path), num_gpus=0)
    assert bytes_of(tmp_path) == after


def test_a_file_that_cannot_be_written_is_named(command: Command) -> None:
    code, out, err = command("init", "no-such-folder/job.yaml")

    assert (code, out) == (2, "")
    assert err == "janus-batch: no-such-folder/job.yaml cannot be written: No such file or directory\n"
    assert bytes_of(command.folder) == {}
