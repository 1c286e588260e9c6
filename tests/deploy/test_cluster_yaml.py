"""cluster.yaml follows Ray's schema and its own promises: no keys, nothing on the head, spot before on-demand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"
)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """As `ray up` reads it, its schema checked."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(TEXT))
    validate_config(config)
    return config


@pytest.fixture(scope="module")
def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}


def test_a_key_that_ray_does_not_know_is_refused() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config({**yaml.safe_load(TEXT), "max_worker": 2}))


def test_ray_is_the_version_that_the_tests_ran_with() -> None:
    images = re.findall(r"rayproject/ray:(\S+?)-py311", TEXT + (ROOT / "deploy" / "Containerfile").read_text())
    assert set(images) == {PINS["ray"]} == {ray.__version__}
    assert len(images) == 4


def test_nothing_is_scheduled_on_the_head(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert head["max_workers"] == 0
    (start,) = (line for line in config["head_start_ray_commands"] if "ray start" in line)
    assert {"--num-cpus=0", "--num-gpus=0", "--dashboard-host=127.0.0.1"} <= set(start.split())


def test_workers_start_on_demand_and_stop_when_idle(config: dict[str, Any], workers: dict[str, Any]) -> None:
    assert config["idle_timeout_minutes"] > 0
    for kind in workers.values():
        assert kind["min_workers"] == 0 < kind["max_workers"] <= config["max_workers"]


def test_each_size_of_model_has_spot_workers_and_on_demand_workers_of_the_same_kind(workers: dict[str, Any]) -> None:
    for size in ("l4", "l40s"):
        spot, sure = workers.pop(f"{size}-spot"), workers.pop(f"{size}-on-demand")
        assert spot["priority"] > sure["priority"]
        assert spot["resources"] == sure["resources"]
        assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
        assert spot["node_config"] == sure["node_config"]
        assert spot["resources"]["GPU"] == 1
        assert f"accelerator_type:{size.upper()}" in spot["resources"]
    assert workers == {}


def test_nodes_have_roles_and_the_file_has_no_keys(config: dict[str, Any]) -> None:
    for name, kind in config["available_node_types"].items():
        role = "janus-batch-head" if name == "head" else "janus-batch-worker"
        assert kind["node_config"]["IamInstanceProfile"] == {"Name": role}
    assert "ssh_private_key" not in config["auth"]
    assert not re.search(r"AKIA|aws_secret|secret_access_key|BEGIN .*PRIVATE", TEXT, re.IGNORECASE)


@pytest.mark.parametrize("policy", ["head-policy.json", "worker-policy.json", "trust-policy.json"])
def test_policies_are_json_and_allow_no_wildcard_action(policy: str) -> None:
    statements = json.loads((ROOT / "deploy" / "aws" / policy).read_text())["Statement"]
    for statement in statements:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not {"*", "s3:*", "ec2:*", "iam:*"} & set(actions)


def test_every_node_installs_this_project_with_its_pins(config: dict[str, Any]) -> None:
    (target,) = (target for target, source in config["file_mounts"].items() if source.rstrip("/.") in ("", str(ROOT)))
    command = f"pip install -c {target}/constraints.txt -e {target}"
    assert all(command in config[key] for key in ("head_setup_commands", "worker_setup_commands"))
