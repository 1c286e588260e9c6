"""From a recipe to a running engine: the files it reads, the requests it makes, and refused checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.checkpoint.models import open_models
from actors.checkpoint.open import weights_digest
from actors.engines import load_engine, open_engine, open_looker
from actors.errors import CheckpointError, DeviceFullError, OtherWeightsError
from actors.families import FAMILIES
from actors.janus.engine import JanusEngine
from actors.prompt.tokenizer import PromptTokenizer
from actors.recipe import Judge, Recipe
from actors.request import ImageRequest
from tests.support.checkpoints import FLOW, TINY, fetched
from tests.support.hub_server import COMMIT, HubServer

ROOT = Path(__file__).parents[2]

# What an actor does when it starts, in a process of its own that counts the files it opens for reading.
START = """
import json, os, sys
from actors.engines import open_engine
from actors.recipe import Recipe

opened = []

def count(event, arguments):
    if event == "open" and isinstance(arguments[0], str | os.PathLike) and "r" in (arguments[1] or "r"):
        opened.append(os.fspath(arguments[0]))

sys.addaudithook(count)
fields = json.loads(sys.argv[1])
open_engine(Recipe(**fields | {"cfg_weights": tuple(fields["cfg_weights"])}), {})
print(json.dumps([path for path in opened if path.endswith("config.json")]))
"""


def recipe_of(name: str) -> Recipe:
    """The recipe of a job that renders with this checkpoint."""
    checkpoint, vae = open_models(name)
    family = FAMILIES[checkpoint.family]
    return Recipe(
        family=checkpoint.family,
        checkpoint=name,
        revision=checkpoint.revision,
        weights_sha256=weights_digest(checkpoint),
        prompt_format=checkpoint.prompt_format,
        vae=vae and vae.name,
        vae_revision=vae and vae.revision,
        vae_sha256=vae and weights_digest(vae),
        dtype="float32",
        sampler=family.sampler,
        cfg_weights=(family.default_cfg_weight,),
        images_per_prompt=1,
        seed=0,
        **family.settings,
    )


def start_actor(recipe: Recipe, **env: str) -> list[str]:
    """Start an engine in another process; the config.json files it opened, in order."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    command = [sys.executable, "-c", START, json.dumps(recipe.to_dict())]
    done = subprocess.run(command, env=clean | env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def requests_for(repository: str, hub: HubServer) -> list[str]:
    """The requests about this repository, without their queries; the client also asks about itself."""
    return [path.split("?")[0] for path in hub.requests if repository in path]


# ---- files and requests ---------------------------------------------------------------------------------


def test_an_actor_start_reads_a_checkpoints_config_once() -> None:
    assert start_actor(recipe_of(str(TINY))).count(f"{TINY}/config.json") == 1


def test_an_actor_start_reads_the_configs_of_a_checkpoint_and_its_vae_once() -> None:
    opened = start_actor(recipe_of(str(FLOW)))

    assert opened.count(f"{FLOW}/config.json") == 1
    assert opened.count(f"{FLOW}/vae/config.json") in (1, 2)  # diffusers may read it again where it builds the VAE


@pytest.mark.parametrize(("name", "files"), [("org/tiny", TINY), ("org/flow", FLOW)])
def test_an_actor_start_resolves_a_hub_id_once(name: str, files: Path, tmp_path: Path) -> None:
    local = recipe_of(str(files))
    vae = {"vae": f"{name}/vae", "vae_revision": COMMIT} if local.vae else {}
    recipe = replace(local, checkpoint=name, revision=COMMIT, **vae)
    with HubServer({name: files}) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        first = start_actor(recipe, **env)
        asked = Counter(requests_for(name, hub))
        hub.requests.clear()
        start_actor(recipe, **env)

    assert sum(path.endswith(f"{COMMIT}/config.json") for path in first) == 1
    assert asked[f"GET /api/models/{name}/revision/{COMMIT}"] == 1
    assert asked[f"GET /api/models/{name}/tree/{COMMIT}"] == 1
    assert all(count == 1 for count in asked.values())
    # The next start finds every file in the cache.
    assert requests_for(name, hub) == [f"GET /api/models/{name}/revision/{COMMIT}"]


# ---- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [TINY, FLOW], ids=["janus", "janusflow"])
def test_a_prompt_is_tokenized_at_most_once_per_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenized: list[str] = []
    encode = PromptTokenizer._encode_text
    monkeypatch.setattr(
        PromptTokenizer, "_encode_text", lambda self, prompt: tokenized.append(prompt) or encode(self, prompt)
    )
    engine = open_engine(recipe_of(str(folder)), {}, allow_faults=True)
    prompts = [("a red cube", None), ("a blue ball", "green"), ("a red cube", None), ("a fox", None)]
    requests = [
        ImageRequest(
            image_id=str(index),
            prompt_id=str(index),
            image_index=0,
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=index,
            cfg_weight=2.0,
            **FAMILIES[fetched(folder).family].settings | {"num_inference_steps": 1},
        )
        for index, (prompt, negative_prompt) in enumerate(prompts)
    ]

    assert [engine.refusal(request) for request in requests] == [None] * len(requests)
    engine.render(requests[:3])
    engine.render(requests[3:])

    assert sorted(tokenized) == ["a blue ball", "a fox", "a red cube", "green"]


# ---- refused checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "changed"), [(TINY, "model"), (FLOW, "vae/diffusion_pytorch_model")])
def test_weights_other_than_the_recipes_are_refused(folder: Path, changed: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    recipe = recipe_of(str(copy))
    path = copy / f"{changed}.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + b"\0\1")

    with pytest.raises(OtherWeightsError, match=r"holds other weights now: their SHA-256 is \w{64}, the job was begun"):
        open_engine(recipe, {})


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (
            "gen_vision_model.decoder.conv_out.bias",
            r"is faulty \(numbers for rendering: gen_vision_model\.decoder\.conv_out",
        ),
        ("aligner.layers.0.bias", r"cannot look at images: aligner\.layers\.0\.bias has NaN or infinite numbers"),
    ],
)
def test_nan_in_a_part_that_renders_or_judges_is_refused_before_the_part_is_loaded(
    tensor: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first prediction has none, so a job would reject each image after it was rendered."""
    folder = Path(shutil.copytree(TINY, tmp_path / "faulty"))
    tensors = load_file(folder / "model.safetensors")
    tensors[tensor][-1] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    monkeypatch.setattr("actors.engines.load_engine", lambda *_: pytest.fail("an engine was loaded"))
    monkeypatch.setattr("actors.engines.check_guidance", lambda engine: [])
    recipe = recipe_of(str(folder))
    judge = Judge(
        question="Is this {prompt}?",
        family="janus",
        checkpoint=str(folder),
        revision=None,
        weights_sha256=recipe.weights_sha256,
        prompt_format=recipe.prompt_format,
        is_own=False,
        looker="look-1",
    )

    with pytest.raises(CheckpointError, match=told):
        open_looker(replace(recipe, judge=judge), {}) if "aligner" in tensor else open_engine(recipe, {})


def test_a_checkpoint_of_another_family_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"janusflow-tiny holds a janusflow model, the job was begun with one of"):
        load_engine(recipe_of(str(TINY)), fetched(FLOW))


def test_a_model_that_does_not_fit_into_memory_is_told_from_a_faulty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JanusEngine, "__init__", lambda *_: torch.empty(2**50, dtype=torch.uint8) and None)
    with pytest.raises(DeviceFullError, match="janus-tiny does not fit into the memory that is free on this machine"):
        load_engine(recipe_of(str(TINY)), fetched(TINY))
