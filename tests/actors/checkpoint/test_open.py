"""How a folder on disk is identified, and what is refused before any weight is read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from actors.checkpoint.open import fetch_checkpoint, open_checkpoint, open_vae, weights_digest
from actors.errors import CheckpointError, NoSuchFolder
from tests.support.checkpoints import FLOW, TINY, published

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def edit(path: Path, **changes: object) -> None:
    """Set keys of a JSON file; a value of None removes the key."""
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def write_shards(folder: Path, index: str, *names: str) -> None:
    (folder / index).write_text(json.dumps({"weight_map": {f"tensor.{i}": name for i, name in enumerate(names)}}))
    for name in names:
        (folder / name).write_bytes(name.encode() * 100)


def test_an_original_janus_folder_is_recognized() -> None:
    checkpoint = open_checkpoint(str(TINY))
    assert checkpoint.name == str(TINY)
    assert checkpoint.revision is None
    assert (checkpoint.family, checkpoint.layout, checkpoint.prompt_format) == ("janus", "original", "janus-pro")
    assert checkpoint.config == json.loads((TINY / "config.json").read_text())
    assert checkpoint.weight_files == ("model.safetensors",)
    sizes = {file.name: file.size for file in checkpoint.files}
    assert sizes == {
        name: (TINY / name).stat().st_size
        for name in (
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "tokenizer_config.json",
            "preprocessor_config.json",
            "special_tokens_map.json",
        )
    }
    assert (checkpoint.shape.llama.context_length, checkpoint.image_size) == (1024, 96)
    assert fetch_checkpoint(checkpoint).path == TINY


def test_an_original_janusflow_folder_and_its_autoencoder_are_recognized() -> None:
    checkpoint = open_checkpoint(str(FLOW))
    assert (checkpoint.family, checkpoint.layout, checkpoint.prompt_format) == ("janusflow", "original", "janus")
    vae = open_vae(None, checkpoint)
    assert (vae.name, vae.family, vae.layout) == (f"{FLOW}/vae", "vae", "diffusers")
    assert vae.weight_files == ("diffusion_pytorch_model.safetensors",)
    assert open_vae(f"{FLOW}/vae", checkpoint) == vae
    assert fetch_checkpoint(vae).path == FLOW / "vae"


def test_a_transformers_folder_is_recognized(tiny: Path) -> None:
    config = {"model_type": "janus", "text_config": {"hidden_size": 64, "num_attention_heads": 4}}
    config["vq_config"] = {"projection_dim": 64, "image_token_embed_dim": 64}
    (tiny / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(str(tiny))
    assert (checkpoint.family, checkpoint.layout, checkpoint.prompt_format) == ("janus", "transformers", "janus-pro")
    assert checkpoint.shape.llama.context_length == 2048  # LlamaConfig's default


def test_toy_needs_no_files() -> None:
    checkpoint = open_checkpoint("toy")
    assert (checkpoint.family, checkpoint.files, checkpoint.weight_files) == ("toy", (), ())
    nothing = subprocess.run(["sha256sum", "/dev/null"], capture_output=True, text=True, check=True).stdout
    assert weights_digest(checkpoint) == nothing.split()[0]


@pytest.mark.parametrize(
    ("model", "prompt_format"),
    [
        ("Janus-1.3B", "janus"),
        ("Janus-Pro-1B", "janus-pro"),
        ("Janus-Pro-7B", "janus-pro"),
        ("JanusFlow-1.3B", "janus"),
    ],
)
def test_the_published_configs_determine_their_role_tags(model: str, prompt_format: str, tiny: Path) -> None:
    (tiny / "config.json").write_text(json.dumps(published(model)[0]))
    checkpoint = open_checkpoint(str(tiny))
    assert checkpoint.prompt_format == prompt_format
    assert checkpoint.shape.llama.context_length == 16384


def test_role_tags_follow_the_config_and_not_the_folder_name(tiny: Path) -> None:
    renamed = tiny.rename(tiny.parent / "Janus-1.3B")
    assert open_checkpoint(str(renamed)).prompt_format == "janus-pro"
    edit(renamed / "config.json", transformers_version="4.38.2")
    assert open_checkpoint(str(renamed)).prompt_format == "janus-pro"  # it names its architectures: saved by a user
    edit(renamed / "config.json", architectures=None)
    assert open_checkpoint(str(renamed)).prompt_format == "janus"
    assert open_checkpoint(str(renamed), prompt_format="janus-pro").prompt_format == "janus-pro"


def test_an_unknown_prompt_format_is_refused() -> None:
    with pytest.raises(CheckpointError, match="prompt_format must be one of janus, janus-pro, got 'chatml'"):
        open_checkpoint(str(TINY), prompt_format="chatml")


def test_the_digest_is_what_sha256sum_prints(tiny: Path) -> None:
    (tiny / "model.safetensors").unlink()
    shards = [f"pytorch_model-0000{i}-of-00003.bin" for i in (3, 1, 2)]
    write_shards(tiny, "pytorch_model.bin.index.json", *shards)
    listing = subprocess.run(["sha256sum", *sorted(shards)], cwd=tiny, capture_output=True, check=True).stdout
    expected = subprocess.run(["sha256sum"], input=listing, capture_output=True, check=True).stdout.decode().split()[0]
    assert weights_digest(open_checkpoint(str(tiny))) == expected


def test_the_digest_sees_a_changed_file_of_the_same_size(tiny: Path) -> None:
    before = weights_digest(open_checkpoint(str(tiny)))
    weights = bytearray((tiny / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tiny / "model.safetensors").write_bytes(bytes(weights))
    assert weights_digest(open_checkpoint(str(tiny))) != before


def test_safetensors_are_preferred_to_bin(tiny: Path) -> None:
    (tiny / "pytorch_model.bin").write_bytes(b"the same weights once more")
    assert open_checkpoint(str(tiny)).weight_files == ("model.safetensors",)
    (tiny / "model.safetensors").rename(tiny / "model-00001-of-00001.safetensors")
    write_shards(tiny, "model.safetensors.index.json", "model-00001-of-00001.safetensors")
    checkpoint = open_checkpoint(str(tiny))
    assert checkpoint.weight_files == ("model-00001-of-00001.safetensors",)
    assert "model.safetensors.index.json" in [file.name for file in checkpoint.files]


def test_a_missing_shard_is_named(tiny: Path) -> None:
    (tiny / "model.safetensors").unlink()
    write_shards(tiny, "pytorch_model.bin.index.json", "pytorch_model-1.bin", "pytorch_model-2.bin")
    (tiny / "pytorch_model-2.bin").unlink()
    message = "index.json names 2 weight files and 1 of them are missing: pytorch_model-2.bin$"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tiny))


def test_an_index_that_points_out_of_its_folder_is_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").unlink()
    (tiny / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other/model.safetensors"}}')
    with pytest.raises(
        CheckpointError, match=r"names '../other/model.safetensors', which is not a weight file of that"
    ):
        open_checkpoint(str(tiny))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "must hold a weight_map: an object of tensor and file names"),
        ('{"weight_map": ["model-1.safetensors"]}', "must hold a weight_map"),
        ('{"weight_map": "model-1.safetensors"}', "must hold a weight_map"),
        ('{"weight_map": {"a": 7}}', "names '7', which is not a weight file"),
        ('{"weight_map": {"a": ["model-1.safetensors"]}}', "which is not a weight file"),
        ('{"weight_map": {"a": null}}', "names 'None', which is not a weight file"),
        ('{"weight_map": {"a": "config.json"}}', "names 'config.json', which is not a weight file"),
        (
            json.dumps({"weight_map": {str(i): f"model-{i:05d}.safetensors" for i in range(1000)}}),
            r"names 1000 weight files and 1000 of them are missing: model-00000.safetensors, .* and 992 more$",
        ),
        ("<html>", "is a page of HTML"),
    ],
)
def test_an_index_of_an_odd_shape_is_refused(content: str, message: str, tiny: Path) -> None:
    (tiny / "model.safetensors").unlink()
    (tiny / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(tiny))
    assert len(str(caught.value)) < 600


def test_weights_that_cannot_be_read_are_passed_over_with_a_note(tiny: Path) -> None:
    shards = [f"pytorch_model-{i:05d}-of-00002.bin" for i in (1, 2)]
    (tiny / "model.safetensors").unlink()
    write_shards(tiny, "pytorch_model.bin.index.json", *shards)
    assert open_checkpoint(str(tiny)).note is None
    header = b'{"a":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]}}'  # as DeepSpeed leaves it
    for content in (b"", len(header).to_bytes(8, "little") + header):
        (tiny / "model.safetensors").write_bytes(content)
        checkpoint = open_checkpoint(str(tiny))
        assert checkpoint.weight_files == tuple(shards)
        note = f"model.safetensors of {tiny} is empty; pytorch_model.bin.index.json is used in its place"
        assert checkpoint.note == note


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), None),
        (("pytorch_model-00001-of-00001.bin",), None),
        (("model.fp16.safetensors",), None),
        (("pytorch_model.bf16.bin",), None),
        (("model.fp16-00001-of-00001.safetensors",), "model.safetensors.index.fp16.json"),
    ],
)
def test_shards_without_an_index_and_variants_are_found(names: tuple[str, ...], index: str | None, tiny: Path) -> None:
    (tiny / "model.safetensors").unlink()
    for name in names:
        (tiny / name).write_bytes(b"x")
    if index:
        (tiny / index).write_text(json.dumps({"weight_map": {name: name for name in names}}))
    assert open_checkpoint(str(tiny)).weight_files == names


def test_shards_without_an_index_must_all_be_there(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no weights: .*; it holds 1 of 2 shards"):
        open_checkpoint(str(tiny))


def test_shards_of_another_name_are_listed(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "weights-00001-of-00002.safetensors")
    (tiny / "weights-00002-of-00002.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"holds no weights: .*; it holds config.json, .*weights-00001-of-00002"):
        open_checkpoint(str(tiny))


def test_weights_of_another_name_are_no_weights(tiny: Path) -> None:
    (tiny / "training_args.bin").touch()
    (tiny / "model.safetensors").rename(tiny / "consolidated.00.pth")
    message = r"holds no weights: .*; if consolidated.00.pth holds them, name it pytorch_model.bin"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tiny))


def test_git_lfs_pointers_and_empty_files_are_not_weights(tiny: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2631454\n"
    (tiny / "model.safetensors").write_text(pointer)
    with pytest.raises(CheckpointError, match="is a Git LFS pointer, not the weights: run `git lfs pull`"):
        open_checkpoint(str(tiny))
    (tiny / "model.safetensors").write_text("")
    with pytest.raises(CheckpointError, match=r"model.safetensors of .* is empty"):
        open_checkpoint(str(tiny))


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_names_what_is_missing(missing: str, tiny: Path) -> None:
    (tiny / missing).unlink()
    with pytest.raises(CheckpointError, match=re.escape(str(tiny)) + f".*holds no .*{missing}|expected {missing}"):
        open_checkpoint(str(tiny))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            '{"model_type": "llama"}',
            "is a language model alone .*, without the parts for images; use the original, such as deepseek",
        ),
        ('{"model_type": "multi_modality"}', "of type 'multi_modality', not one of .* with a gen_vision_config"),
        ('{"_class_name": "AutoencoderKL"}', "is a model of type 'AutoencoderKL'"),
        ("{}", "is a model of type None"),
        ("[]", r"config.json of .* must hold a JSON object, got \[\], a list"),
        (
            '{"model_type": "multi_modality", "gen_vision_config": {}, "language_config": 7}',
            "an object language_config",
        ),
        ('{"model_type": ["janus"]}', r"is a model of type \['janus'\]"),
        ('{"model_type": "' + "x" * 5000 + '"}', "is a model of type 'x+\\.\\.\\.x*', not one"),
        ("{half", "config.json of .* is not valid JSON: Expecting property name"),
    ],
)
def test_another_kind_of_model_is_refused_by_its_type(config: str, message: str, tiny: Path) -> None:
    (tiny / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tiny))


def test_a_folder_with_no_model_in_it_lists_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config.json, so it is not a model folder; it holds no files"):
        open_checkpoint(str(tmp_path))
    for i in range(10):
        (tmp_path / f"picture{i}.png").touch()
    with pytest.raises(CheckpointError, match=r"it holds picture0.png, picture1.png, .*picture7.png and 2 more$"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["./nothing", "../nothing/here", "/nothing/here", "~/nothing", "~nobody-here/x", "nothing", "a/b/c"]
)
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(NoSuchFolder, match=r"does not exist; allowed are a folder, the URL of a folder, a hub id"):
        open_checkpoint(name)


def test_a_file_instead_of_a_folder_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"config.json is a file, not a folder"):
        open_checkpoint(str(TINY / "config.json"))


def test_an_existing_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(TINY, tmp_path / "deepseek-ai" / "Janus-Pro-1B")
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("deepseek-ai/Janus-Pro-1B").revision is None


@pytest.mark.parametrize("name", [str(TINY), "janus-shapes"])
def test_a_revision_needs_a_hub_id(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"model.revision needs a hub id .*, which {name} is not; got 'main'"):
        open_checkpoint(name, revision="main")


def test_opening_a_checkpoint_loads_no_torch_and_no_transformers() -> None:
    code = (
        "import sys; from actors.checkpoint.open import open_checkpoint, weights_digest; "
        f"weights_digest(open_checkpoint({str(TINY)!r})); "
        "print({'torch', 'transformers', 'tokenizers', 'huggingface_hub', 'fsspec'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
