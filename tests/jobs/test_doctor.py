"""`janus-batch doctor` prints a table and exits 1 on a fault."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from jobs.cli.main import cli
from jobs.job_file.errors import JobFileError
from tests.support.adapters import Q0, factors, write_adapter

DATA = Path(__file__).parents[1] / "data"


def changed_copy(tmp_path: Path, **settings: object) -> Path:
    """A copy of janus-tiny with other settings of its text model."""
    folder = Path(shutil.copytree(DATA / "janus-tiny", tmp_path / "changed"))
    config = json.loads((folder / "config.json").read_text())
    config["language_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["janus-tiny", "janusflow-tiny"])
def test_a_sound_checkpoint_passes(name: str) -> None:
    result = CliRunner().invoke(cli, ["doctor", str(DATA / name)], standalone_mode=False)
    assert result.return_value == 0
    assert "no fault found" in result.output
    assert "ok     guidance" in result.output


def test_a_wrong_pad_is_named_and_exits_1(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "janus-tiny", tmp_path / "broken"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "!"}), encoding="utf-8")
    result = CliRunner().invoke(cli, ["doctor", str(folder)], standalone_mode=False)
    assert result.return_value == 1
    assert "FAULT  pad settings           tokenizer_config.json calls '!' the pad token" in result.output


def test_a_folder_without_a_model_is_a_fault_of_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["doctor", str(tmp_path)], standalone_mode=False)
    assert result.return_value == 1
    assert "holds no config.json" in result.output


@pytest.mark.parametrize(
    ("name", "file", "tensor"),
    [
        ("janus-tiny", "model.safetensors", "gen_vision_model.decoder.conv_out.bias"),
        ("janus-tiny", "model.safetensors", "gen_vision_model.decoder.mid.1.q.weight"),
        ("janus-tiny", "model.safetensors", "gen_vision_model.quantize.embedding.weight"),
        ("janus-tiny", "model.safetensors", "gen_embed.weight"),
        ("janusflow-tiny", "vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias"),
        ("janusflow-tiny", "vae/diffusion_pytorch_model.safetensors", "post_quant_conv.weight"),
    ],
)
def test_one_nan_in_the_image_decoder_is_a_fault(name: str, file: str, tensor: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / name, tmp_path / "broken"))
    tensors = load_file(folder / file)
    tensors[tensor].view(-1)[-1] = float("nan")
    save_file(tensors, folder / file)
    result = CliRunner().invoke(cli, ["doctor", str(folder)], standalone_mode=False)
    assert result.return_value == 1
    assert "FAULT  image decoder          the numbers of an image become NaN or infinite" in result.output
    assert "1 fault found" in result.output


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("max_position_embeddings", 10**12),
        ("vocab_size", 10**12),
        ("hidden_size", 10**9),
        ("intermediate_size", -1),
        ("num_attention_heads", 0.5),
        ("rope_theta", float("nan")),
        ("rms_norm_eps", 10**400),
    ],
)
def test_an_absurd_size_is_one_sentence_at_once(setting: str, value: float, tmp_path: Path) -> None:
    folder = changed_copy(tmp_path, **{setting: value})
    result = CliRunner().invoke(cli, ["doctor", str(folder)], standalone_mode=False)
    assert result.return_value == 1
    (fault,) = (line for line in result.output.splitlines() if line.startswith("FAULT"))
    assert f"language_config.{setting}" in fault
    assert len(fault) < 300


def test_an_image_that_leaves_no_room_for_a_prompt_is_one_sentence(tmp_path: Path) -> None:
    folder = changed_copy(tmp_path, max_position_embeddings=37)
    result = CliRunner().invoke(cli, ["doctor", str(folder)], standalone_mode=False)
    assert "needs 36 tokens, and a prompt 64; together they must fit into the 37 positions" in result.output


@pytest.mark.parametrize(("num_heads", "message"), [(8, ""), (65, "65 attention heads do not fit into 64 channels")])
def test_the_number_of_heads_is_shown(num_heads: int, message: str, tmp_path: Path) -> None:
    """No tensor's shape proves it."""
    folder = changed_copy(tmp_path, num_attention_heads=num_heads, num_key_value_heads=num_heads)
    (folder / "tokenizer.json").write_text("{}")
    result = CliRunner().invoke(cli, ["doctor", str(folder)], standalone_mode=False)
    assert (message or "2 layers of 64 channels, 8 heads of 8, 1024 positions") in result.output


def test_a_setting_of_the_job_file_is_applied(tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora", factors(Q0, (64, 64)), base_model_name_or_path="deepseek-ai/Janus-Pro-1B")
    arguments = ["doctor", str(DATA / "janus-tiny"), "--set", f"model.adapter={lora}", "--set", "model.protocol=got-r1"]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert result.return_value == 0
    assert f"adapters               {lora}, weight 1, trained on 'deepseek-ai/Janus-Pro-1B'" in result.output
    assert "with texts of 600 tokens, the longest" in result.output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.adapter=[none, a]", "a sweep of 2 models has an output for each; .* Choose one with --set"),
        ("sampling.solver=heun", "sampling.solver: janus does not take it"),
        ("model.protocl=got-r1", "model.protocl"),
    ],
)
def test_a_setting_that_no_job_could_have_is_refused(setting: str, message: str) -> None:
    result = CliRunner().invoke(cli, ["doctor", str(DATA / "janus-tiny"), "--set", setting], standalone_mode=False)
    assert isinstance(result.exception, JobFileError)
    assert re.search(message, str(result.exception))


def test_a_name_with_spaces_around_it_is_understood() -> None:
    result = CliRunner().invoke(cli, ["doctor", "  toy "], standalone_mode=False)
    assert (result.return_value, "toy: it has no checkpoint to examine" in result.output) == (0, True)


def test_everything_is_in_the_json(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "janus-tiny", tmp_path / "mine"))
    result = CliRunner().invoke(cli, ["doctor", str(folder), "--json"], standalone_mode=False)
    found = json.loads(result.output)
    assert result.return_value == found["num_faults"] == 0
    assert (found["family"], found["layout"], found["model"], found["prompt_format"]) == (
        "janus",
        "original",
        None,
        "janus-pro",
    )
    assert (found["are_tags_known"], found["stored_dtypes"]) == (False, {"bfloat16": 420})
    assert found["images_per_second"] > 0
    assert (found["is_guidance_alive"], found["num_heads"], found["image_size"]) == (True, 4, 96)
    assert {"check": "role tags", "verdict": "note"}.items() <= next(
        one for one in found["checks"] if one["check"] == "role tags"
    ).items()


def test_a_fault_is_in_the_json_too(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["doctor", str(tmp_path), "--json"], standalone_mode=False)
    found = json.loads(result.output)
    assert (result.return_value, found["num_faults"]) == (1, 1)
    assert [one["verdict"] for one in found["checks"]] == ["fault"]


def test_a_known_model_is_named_with_its_protocol_and_license(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--gogoduan--GoT-R1-1B" / "snapshots" / ("0" * 40)
    shutil.copytree(DATA / "janus-tiny", snapshot)
    result = CliRunner().invoke(cli, ["doctor", str(snapshot)], standalone_mode=False)
    assert "model                  GoT-R1, trained from Janus-Pro; license: MIT; it writes a text" in result.output
    assert "ok     role tags              User and Assistant, by the hub id gogoduan/GoT-R1-1B" in result.output
    assert "recommended tags" not in result.output
