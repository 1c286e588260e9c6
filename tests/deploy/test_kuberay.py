"""The manifests of deploy/kuberay/ against the schemas of KubeRay's resources and Ray's own reader of a RayCluster."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from tests.support.command import ROOT, run

FOLDER = ROOT / "deploy" / "kuberay"
SCHEMAS = Path(__file__).parents[1] / "data" / "kuberay"
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}


def strict(schema: Any) -> Any:
    """A schema of Kubernetes as JSON Schema that refuses unknown keys, as `kubectl apply --validate=strict` does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if schema.pop("x-kubernetes-int-or-string", False):
        schema["type"] = ["integer", "string"]
    is_open = schema.pop("x-kubernetes-preserve-unknown-fields", False)
    if schema.get("type") == "object" and "properties" in schema and not is_open:
        schema.setdefault("additionalProperties", False)
    return schema


def schema_of(kind: str) -> dict[str, Any]:
    schema = json.loads(gzip.decompress((SCHEMAS / f"{KINDS[kind]}.json.gz").read_bytes()))
    schema["properties"]["metadata"] = {"type": "object", "additionalProperties": True}
    return strict(schema)


def documents(name: str) -> dict[str, dict[str, Any]]:
    return {found["kind"]: found for found in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))}


def cluster_specs() -> dict[str, dict[str, Any]]:
    job_template = documents("raycronjob.yaml")["RayCronJob"]["spec"]["jobTemplate"]
    return {
        "raycluster": documents("raycluster.yaml")["RayCluster"]["spec"],
        "rayjob": documents("rayjob.yaml")["RayJob"]["spec"]["rayClusterSpec"],
        "raycronjob": job_template["rayClusterSpec"],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_manifests_follow_the_schemas_of_kuberay(kind: str) -> None:
    manifest = documents(f"{kind.lower()}.yaml")[kind]
    jsonschema.validate(manifest, schema_of(kind))


def test_a_key_that_kuberay_does_not_know_is_refused_at_any_depth() -> None:
    manifest = copy.deepcopy(documents("rayjob.yaml")["RayJob"])
    spec = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    spec["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(jsonschema.ValidationError, match="imagePolicy"):
        jsonschema.validate(manifest, schema_of("RayJob"))


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "raycronjob"])
def test_the_autoscaler_reads_an_idle_head_and_one_gpu_per_worker(name: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    spec = cluster_specs()[name]
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "default"}, "spec": spec})
    validate_config(config)
    head = config["available_node_types"].pop(config["head_node_type"])
    assert (head["resources"]["CPU"], head["resources"].get("GPU", 0)) == (0, 0)
    for worker in config["available_node_types"].values():
        assert worker["resources"]["GPU"] == 1
        assert worker["min_workers"] == 0 < worker["max_workers"]
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}


def test_each_model_size_has_a_worker_group() -> None:
    groups = cluster_specs()["raycluster"]["workerGroupSpecs"]
    assert [group["resources"] for group in groups] == [
        {"accelerator_type:L4": "1"},
        {"accelerator_type:A100-80G": "1"},
    ]
    (group,) = cluster_specs()["raycronjob"]["workerGroupSpecs"]
    assert group["resources"] == {"accelerator_type:L4": "1"}


def test_the_ray_cron_job_is_the_export_of_the_example() -> None:
    answer = run("schedule", "examples/nightly.yaml", "--to", "kuberay")
    assert answer.returncode == 0
    first, _, rest = (FOLDER / "raycronjob.yaml").read_text(encoding="utf-8").partition("\n")
    assert first == "# Made by: janus-batch schedule examples/nightly.yaml --to kuberay"
    assert rest == answer.stdout
    config_map = documents("raycronjob.yaml")["ConfigMap"]
    assert config_map["data"] == {"nightly.yaml": (ROOT / "examples" / "nightly.yaml").read_text(encoding="utf-8")}
