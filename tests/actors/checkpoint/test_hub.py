"""Checkpoints named by hub id, from a hub on this machine; the client reads its environment once, hence processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_server import COMMIT, TOKEN, HubServer

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"

ASK = """
import dataclasses, json, sys
from actors.checkpoint.open import fetch_checkpoint, open_checkpoint, open_vae, weights_digest
from actors.errors import CheckpointError

def tell(checkpoint):
    names = ("name", "revision", "family", "layout", "prompt_format")
    files = [dataclasses.asdict(file) for file in checkpoint.files]
    return {name: getattr(checkpoint, name) for name in names} | {"files": files, "digest": weights_digest(checkpoint)}

name, revision, fetch = json.loads(sys.argv[1])
answer = {}
try:
    checkpoint = open_checkpoint(name, revision=revision)
    answer["checkpoint"] = tell(checkpoint)
    if checkpoint.family == "janusflow":
        vae = open_vae(None, checkpoint)
        answer["vae"] = tell(vae)
        answer["vae_folder"] = str(fetch_checkpoint(vae).path)
    if fetch:
        answer["folder"] = str(fetch_checkpoint(checkpoint).path)
except CheckpointError as error:
    answer = {"error": str(error), "kind": type(error).__name__}
print(json.dumps(answer))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """org/tiny (with a second copy of the weights as .bin, and a readme), org/Janus-1.3B, org/flow and org/llama."""
    repositories = {}
    for name, source in {
        "org/tiny": "janus-tiny",
        "org/Janus-1.3B": "janus-tiny",
        "org/flow": "janusflow-tiny",
    }.items():
        repositories[name] = Path(shutil.copytree(DATA / source, tmp_path / "repositories" / name))
    (repositories["org/tiny"] / "pytorch_model.bin").write_bytes(b"the same weights once more")
    (repositories["org/tiny"] / "README.md").write_text("about the model")
    repositories["org/llama"] = tmp_path / "repositories" / "llama"
    repositories["org/llama"].mkdir()
    (repositories["org/llama"] / "config.json").write_text('{"model_type": "llama"}')
    with HubServer(repositories) as server:
        yield server


def ask(hub_url: str, home: Path, name: str, revision: str | None = None, *, fetch: bool = False, **env: str) -> dict:
    """What a fresh process whose hub is `hub_url` finds out about `name`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    env = {**clean, "HF_ENDPOINT": hub_url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_TOKEN": TOKEN, **env}
    command = [sys.executable, "-c", ASK, json.dumps([name, revision, fetch])]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_hub_id_is_pinned_to_the_commit_and_described_without_its_weights(hub: HubServer, tmp_path: Path) -> None:
    checkpoint = ask(hub.url, tmp_path / "home", "org/tiny", "main")["checkpoint"]
    weights = (DATA / "janus-tiny" / "model.safetensors").read_bytes()
    line = f"{hashlib.sha256(weights).hexdigest()}  model.safetensors\n"
    assert checkpoint["name"] == "org/tiny"
    assert checkpoint["revision"] == COMMIT
    assert (checkpoint["family"], checkpoint["prompt_format"]) == ("janus", "janus-pro")
    assert {file["name"]: file["size"] for file in checkpoint["files"]}["model.safetensors"] == len(weights)
    assert checkpoint["digest"] == hashlib.sha256(line.encode()).hexdigest()
    assert hub.downloaded() == {"config.json"}
    assert f"Bearer {TOKEN}" in hub.tokens  # and `ask` checks that no output has it


def test_only_the_files_a_render_reads_are_downloaded_and_only_once(hub: HubServer, tmp_path: Path) -> None:
    folder = Path(ask(hub.url, tmp_path / "home", "org/tiny", fetch=True)["folder"])
    settings = {"tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"}  # not for a render
    assert hub.downloaded() == {"config.json", "tokenizer.json", "model.safetensors", *settings}
    assert (folder / "model.safetensors").read_bytes() == (DATA / "janus-tiny" / "model.safetensors").read_bytes()
    hub.requests.clear()
    assert Path(ask(hub.url, tmp_path / "home", "org/tiny", COMMIT, fetch=True)["folder"]) == folder
    assert hub.downloaded() == set()


def test_without_a_hub_its_cache_is_used(hub: HubServer, tmp_path: Path) -> None:
    online = ask(hub.url, tmp_path / "home", "org/tiny", fetch=True)
    offline = ask(hub.url, tmp_path / "home", "org/tiny", COMMIT, fetch=True, HF_HUB_OFFLINE="1")
    hub.error = (503, "")
    broken = ask(hub.url, tmp_path / "home", "org/tiny", COMMIT, fetch=True)
    for answer in (offline, broken):
        assert answer["folder"] == online["folder"]
        assert answer["checkpoint"]["revision"] == COMMIT
        assert answer["checkpoint"]["digest"] == online["checkpoint"]["digest"]


@pytest.mark.parametrize("written", ["org/tiny", "org/tiny/", "https://huggingface.co/org/tiny", "hf://org/tiny"])
def test_a_cache_that_a_run_filled_serves_the_same_name_offline(hub: HubServer, tmp_path: Path, written: str) -> None:
    online = ask(hub.url, tmp_path / "home", written, fetch=True)
    refs = tmp_path / "home" / "hub" / "models--org--tiny" / "refs"
    assert {path.name: path.read_text() for path in refs.iterdir()} == {"main": COMMIT}
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        offline = ask(hub.url, tmp_path / "home", written, fetch=True, **environment)
        assert offline["folder"] == online["folder"]
        assert offline["checkpoint"] == online["checkpoint"] | {"files": offline["checkpoint"]["files"]}


def test_a_cache_that_was_filled_by_commit_alone_serves_its_only_snapshot(hub: HubServer, tmp_path: Path) -> None:
    online = ask(hub.url, tmp_path / "home", "org/tiny", COMMIT, fetch=True)
    assert not (tmp_path / "home" / "hub" / "models--org--tiny" / "refs").exists()
    assert ask(hub.url, tmp_path / "home", "org/tiny", HF_HUB_OFFLINE="1")["checkpoint"]["revision"] == COMMIT
    cached = tmp_path / "home" / "hub" / "models--org--tiny"
    assert ask(hub.url, tmp_path / "home", str(cached), fetch=True)["folder"] == online["folder"]


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_a_cache_that_cannot_be_written_is_named_with_its_variable(
    hub: HubServer, tmp_path: Path, variable: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    answer = ask(hub.url, tmp_path / "home", "org/tiny", **{variable: str(tmp_path / "file")})
    assert answer["kind"] == "CheckpointError"
    assert f"the hub's cache {tmp_path / 'file'}" in answer["error"]
    assert answer["error"].endswith(f"cannot be written (Not a directory): {variable} names it")


def test_the_autoencoder_inside_a_repository_is_found_and_fetched_alone(hub: HubServer, tmp_path: Path) -> None:
    answer = ask(hub.url, tmp_path / "home", "org/flow")
    assert answer["vae"]["name"] == "org/flow/vae"
    assert answer["vae"]["revision"] == COMMIT
    assert hub.downloaded() == {"config.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    weights = Path(answer["vae_folder"]) / "diffusion_pytorch_model.safetensors"
    assert weights.read_bytes() == (DATA / "janusflow-tiny" / "vae" / weights.name).read_bytes()


def test_a_hub_id_of_janus_1_3b_means_its_role_tags(hub: HubServer, tmp_path: Path) -> None:
    assert ask(hub.url, tmp_path / "home", "org/Janus-1.3B")["checkpoint"]["prompt_format"] == "janus"


@pytest.mark.parametrize(
    ("name", "revision", "error", "kind", "message"),
    [
        ("org/nothing", None, None, "NoSuchFolder", "org/nothing is neither a local folder nor a hub repository"),
        ("org/vae", None, None, "NoSuchFolder", "org/vae is neither a local folder nor a hub repository"),
        ("org/tiny", "v9", None, "NoSuchFolder", "the hub repository org/tiny has no revision 'v9'"),
        ("org/tiny", None, (403, "GatedRepo"), "CheckpointError", "org/tiny is gated: accept its terms"),
        ("org/tiny", None, (403, ""), "CheckpointError", "refuses to show org/tiny to this machine's HF_TOKEN"),
        ("org/tiny", None, (500, ""), "CheckpointUnreachable", "the hub answered 500"),
        ("org/llama", None, None, "CheckpointError", "org/llama is a language model alone (model_type 'llama')"),
        ("org/ti--ny", None, None, "CheckpointError", "'org/ti--ny' is not a valid hub id"),
    ],
)
def test_the_hubs_refusals_become_one_sentence(
    hub: HubServer,
    tmp_path: Path,
    name: str,
    revision: str | None,
    error: tuple[int, str] | None,
    kind: str,
    message: str,
) -> None:
    hub.error = error
    answer = ask(hub.url, tmp_path / "home", name, revision)
    assert answer["kind"] == kind
    assert message in answer["error"]
    assert "\n" not in answer["error"]


def test_no_connection_and_offline_mode_have_different_messages(tmp_path: Path) -> None:
    with HubServer({}) as server:
        closed = server.url
    assert "the hub cannot be reached" in ask(closed, tmp_path / "home", "org/tiny")["error"]
    offline = ask(closed, tmp_path / "home", "org/tiny", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids requests to the hub, and its cache lacks it" in offline["error"]
    assert offline["kind"] == "CheckpointUnreachable"
