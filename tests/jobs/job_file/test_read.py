"""Reading a job file and the settings laid over it: any file ends as a job, or as one short line for each fault."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

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
schedule: {cron: "0 2 * * 1-5", time_zone: Europe/Berlin}
"""


def write(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "my-job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_full_job_file_is_read_as_written(tmp_path: Path) -> None:
    spec = read_job_file(write(tmp_path, FULL), [])

    assert spec.sampling.cfg_weight == [1.0, 3.0, 5.5]
    assert spec.sampling.seed == 2**64 - 1
    assert spec.storage == {"endpoint_url": "http://127.0.0.1:9000", "client_kwargs": {"region_name": "eu-west-1"}}
    assert JobSpec.model_validate(spec.model_dump()) == spec


def test_a_job_without_a_name_has_that_of_its_file(tmp_path: Path) -> None:
    assert read_job_file(write(tmp_path, yaml.safe_dump(SMALLEST)), []).name == "my-job"


def test_a_job_file_is_read_on_a_system_without_non_blocking_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has neither."""
    monkeypatch.delattr(os, "O_NONBLOCK")
    monkeypatch.delattr(os, "set_blocking")

    assert read_job_file(write(tmp_path, yaml.safe_dump(SMALLEST)), []).name == "my-job"


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    assert read_job_file(write(tmp_path, b"\xef\xbb\xbf" + FULL.encode()), []).name == "parti-janus-pro"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must contain keys and values, it contains nothing"),
        ("- a\n- b", "must contain keys and values, it contains a list"),
        ("just words", "must contain keys and values, it contains text"),
        ("7", "must contain keys and values, it contains a number"),
        ("prompts: [unclosed", r": line 1: expected ',' or '\]'"),
        (b"\xff\xfep\x00", ": is not UTF-8 text: invalid start byte at byte 0"),
        (FULL.encode("utf-16"), ": is not UTF-8 text"),
        (FULL.encode("utf-16-le"), ": unacceptable character #x0000"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ": is not UTF-8 text"),
        ("# " + "x" * 2**20, r": a job file has at most 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_no_job_file_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(JobFileError, match=rf"my-job.yaml'?\s?{message}"):
        read_job_file(write(tmp_path, text), [])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"none\.yaml cannot be read: No such file"):
        read_job_file(str(tmp_path / "none.yaml"), [])
    with pytest.raises(JobFileError, match=r"cannot be read: Is a directory"):
        read_job_file(str(tmp_path), [])
    for name, text in (("captions.csv", "a fox\n"), ("captions.txt", "a: b: c\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(JobFileError, match=rf"{name}.*; a file of prompts is given as --prompts PATH"):
            read_job_file(str(tmp_path / name), [])
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(JobFileError, match=r"pipe\.yaml: is a pipe, not a file"):
        read_job_file(str(tmp_path / "pipe.yaml"), [])


# ---- settings of the command line ------------------------------------------------------------------------------------


def test_settings_of_the_command_line_beat_the_file(tmp_path: Path) -> None:
    settings = ["sampling.seed=7", "model.checkpoint=janus-shapes", "sampling.cfg_weight=[1, 5]", "images.format=jpeg"]

    spec = read_job_file(write(tmp_path, yaml.safe_dump(SMALLEST) + "sampling:\n"), settings)

    assert (spec.sampling.seed, spec.model.checkpoint, spec.images.format) == (7, "janus-shapes", "jpeg")
    assert spec.sampling.cfg_weight == [1.0, 5.0]
    assert spec.prompts == "prompts.parquet"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampling.seed", r"--set takes key=value with a dotted key: --set sampling.seed=7, got 'sampling.seed'"),
        ("=7", "--set takes key=value with a dotted key"),
        ("prompts.x=7", "--set prompts.x: prompts is not a section"),
        ("sampling.seed=[", r"--set sampling.seed: line 1: expected the node content"),
        (
            "sampling.seed={a: 1, a: 2}",
            r"--set sampling.seed: line 1: duplicate key `a`",
        ),
        ("sampling.sede=7", "sampling.sede: unknown key; did you mean `seed`"),
        (
            "sampling.cfg_weight=eleven",
            "sampling.cfg_weight: Input should be a valid number or a list in .brackets., got 'eleven'",
        ),
    ],
)
def test_a_wrong_setting_is_refused(setting: str, message: str) -> None:
    with pytest.raises(JobFileError, match=message):
        check_fields(SMALLEST, [setting])


@pytest.mark.parametrize("setting", ["storage.secret=hunter2", "storage.password=hunter2[", "storage.secret={hunter2"])
def test_a_secret_on_the_command_line_is_not_shown(setting: str) -> None:
    with pytest.raises(JobFileError) as refused:
        check_fields(SMALLEST, [setting])
    assert "hunter2" not in str(refused.value)


# ---- any file --------------------------------------------------------------------------------------------------------

ODD = [
    *(
        "null",
        "~",
        "",
        "''",
        "0",
        "-1",
        "1e999",
        ".nan",
        "[]",
        "{}",
        "true",
        "1:2:3",
        "2024-13-45",
        "2024-01-01 99:99:99",
    ),
    *(
        "!!int x",
        "!!binary x",
        "!x y",
        "*a",
        "&a x",
        "|",
        ">",
        "<<",
        "=",
        "@",
        "`",
        "%",
        "\t",
        "\u2028",
        "\x00",
        "\ufeff",
    ),
    *("9" * 5000, "0x" + "f" * 5000, "[" * 3000, "{a: " * 300, "- " * 1000, "? " * 100, "x" * 100_000, '"\\ud800"'),
    *("s3:/b", "::", "zip://x::/etc/passwd", "~nobody/x", "$HOME", "https://u:p@h", "{date:%Y}", "{date:", "/a" * 5000),
]
INSERTED = "{}[],:&*#?|-<>=!%@'\"\\\t\n\x00\x7f\xe9"


def mutated(text: str, dice: random.Random) -> bytes:
    """A job file in which a few lines, values or bytes are not what they should be."""
    for _ in range(dice.randint(1, 3)):
        lines = text.split("\n")
        line = dice.randrange(len(lines))
        kind = dice.randrange(6)
        if kind == 0:
            lines.insert(line, dice.choice(lines))
        elif kind == 1:
            lines[line] = f"{lines[line].partition(':')[0]}: {dice.choice(ODD)}"
        elif kind == 2:
            lines[line] = f"{dice.choice(ODD)}: {lines[line].partition(':')[2]}"
        elif kind == 3:
            lines[line] = " " * dice.randrange(5) + lines[line]
        elif kind == 4:
            place = dice.randrange(len(lines[line]) + 1)
            lines[line] = lines[line][:place] + dice.choice(INSERTED) + lines[line][place:]
        else:
            del lines[line]
        text = "\n".join(lines)
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if dice.random() < 0.2:
        data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_any_file_is_a_job_or_is_refused_in_short_lines(seed: int, tmp_path: Path) -> None:
    dice, num_jobs = random.Random(seed), 0
    for _ in range(250):
        data, start = mutated(FULL, dice), time.process_time()
        try:
            read_job_file(write(tmp_path, data), [])
            num_jobs += 1
        except JobFileError as error:
            lines = str(error).splitlines()
            assert len(lines) <= 30, data
            assert all(len(line) < 600 and line.isprintable() for line in lines), data
        assert time.process_time() - start < 5, data
    assert 10 < num_jobs < 240


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"storage": {"endpoint_url": "\ud83e"}}, "storage.endpoint_url"),
        ({"storage": {"\ud83e": "x"}}, r"storage.\?"),
        ({"on_done": "echo \udcff"}, "on_done"),
        ({"model": {"checkpoint": "org/name", "revision": "\ud83e"}}, "model.revision"),
        ({"schedule": {"cron": "0 0 * * *", "time_zone": "\ud83e"}}, "schedule.time_zone"),
        ({"model": {"checkpoint": "janus-shapes", "adapter": [{"name": "\udcff"}]}}, "model.adapter.0.name"),
        ({"\udcff": 1}, r"\?"),
    ],
)
def test_text_with_half_a_character_is_refused_by_its_key(fields: dict[str, object], key: str) -> None:
    with pytest.raises(JobFileError, match=rf"^{key}: must be Unicode text, without half a character"):
        check_fields({**SMALLEST, **fields})
