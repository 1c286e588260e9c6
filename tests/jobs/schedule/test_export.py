"""`janus-batch schedule --to cron`: the line for a crontab. tests/deploy/test_kuberay.py checks `--to kuberay`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from janus_batch import ROOT
from jobs.job_file.plain_id import plain_id
from jobs.schedule.export import export
from jobs.schedule.scheduled_job import ScheduleError
from tests.support.command_line import Command
from tests.support.scheduled_job import write_scheduled


def test_the_crontab_has_the_time_zone_the_queue_and_no_bare_percent_sign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export([str(write_scheduled(tmp_path))], ["name=50%"], "cron", address="http://head:8265", image="x")

    _, zone, line = capsys.readouterr().out.splitlines()
    assert zone == "CRON_TZ=Europe/Berlin"
    assert line.startswith(f"0 2 * * 1-5 cd {os.getcwd()} && {sys.executable} -P {ROOT}/janus_batch.py submit ")
    assert " submit --address http://head:8265 --wait-for-output --set name=50\\% " in line


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("*/5 * * * * *", "takes five fields, without seconds, got"),
        ("0 2 L * *", "takes no L, W or #, got '0 2 L"),
        ("0 2 * jul 5L", "takes no L, W or #"),
        ("0 2 LW jul *", "takes no L, W or #"),
        ("0 2 * * mon#1", "takes no L, W or #"),
    ],
)
def test_an_expression_that_cron_does_not_know_is_not_exported(cron: str, message: str, tmp_path: Path) -> None:
    path = write_scheduled(tmp_path, schedule={"cron": cron})
    with pytest.raises(ScheduleError, match=f"schedule.cron: --to cron {message}"):
        export([str(path)], [], "cron", address=None, image="x")


def test_names_with_the_same_letters_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_scheduled(tmp_path, schedule={"cron": "0 2 * jul WED"})
    export([str(path)], [], "cron", address=None, image="x")
    assert "0 2 * jul WED cd " in capsys.readouterr().out


def test_a_job_is_logged_under_its_own_name_without_the_shells_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export([str(write_scheduled(tmp_path))], ["name='夜間 $(touch owned)'"], "cron", address=None, image="x")

    assert capsys.readouterr().out.endswith(' >> "$HOME/夜間-touch-owned-.log" 2>&1\n')


@pytest.mark.parametrize("setting", ["schedule.cron='0 2 * *\n\n  *'", "sampling.seed=7\n"])
def test_a_line_break_does_not_become_a_line_of_the_crontab(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ScheduleError, match="--to cron: the name, settings and paths cannot contain line breaks"):
        export([str(write_scheduled(tmp_path))], [setting], "cron", address=None, image="x")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"prompts": "prompts/x"}, "prompts"),
        ({"output": "~/out"}, "output"),
        ({"model": {"checkpoint": "./ck"}}, "model.checkpoint"),
        ({"model": {"checkpoint": "deepseek-ai/JanusFlow-1.3B", "vae": "./vae"}}, "model.vae"),
        ({"model": {"checkpoint": "janus-shapes", "adapter": ["none", "~/lora"]}}, "model.adapter 1"),
        ({"judge": {"checkpoint": "./judge"}}, "judge.checkpoint"),
        ({"task": "understand", "understand": {"root": "images"}}, "understand.root"),
    ],
)
def test_a_relative_path_is_not_exported_to_a_container(changes: dict[str, object], key: str, tmp_path: Path) -> None:
    path = write_scheduled(tmp_path, **changes)
    with pytest.raises(ScheduleError, match=f"^{key}: --to kuberay needs a URL or a path that is mounted"):
        export([str(path)], [], "kuberay", address=None, image="x")


@pytest.mark.parametrize("target", ["cron", "kuberay"])
def test_what_the_output_has_to_be_is_exported(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(tmp_path, monkeypatch, capsys)
    path = write_scheduled(tmp_path, prompts="s3://bucket/prompts")
    code, out, err = command("schedule", str(path), "--to", target, "--max-rejected", "5%", "--allow-empty")

    assert code == 0, err
    assert " --wait-for-output --max-rejected 5" in out
    assert " --allow-empty " in out


def test_a_job_without_a_name_is_called_after_its_file_in_a_container(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scheduled(tmp_path, name="my dogs")
    export([str(path)], [], "kuberay", address=None, image="x")

    config_map, manifest = yaml.safe_load_all(capsys.readouterr().out)
    (file_name,) = config_map["data"]
    assert file_name == f"{plain_id('my dogs')}.yaml"
    assert manifest["spec"]["jobTemplate"]["entrypoint"].endswith(f" /etc/janus-batch/{file_name}")


@pytest.mark.parametrize(("weekdays", "exported"), [("7", "0"), ("5-7", "0,5,6"), ("1-5", "1-5"), ("sun", "sun")])
def test_kuberay_counts_sunday_as_0(
    weekdays: str, exported: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scheduled(tmp_path, schedule={"cron": f"0 2 * * {weekdays}"})
    export([str(path)], [], "kuberay", address=None, image="x")
    *_, manifest = yaml.safe_load_all(capsys.readouterr().out)
    assert manifest["spec"]["schedule"] == f"0 2 * * {exported}"
