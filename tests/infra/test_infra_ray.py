"""The cluster files of Ray and KubeRay say what the tools that read them understand, and ask for a token."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray import autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]

# Fields of RayJob and RayCluster that the API reference of KubeRay (ray.io/v1) names.
RAY_JOB_FIELDS = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "clusterSelector",
    "deletionStrategy",
    "entrypoint",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "entrypointResources",
    "jobId",
    "managedBy",
    "metadata",
    "rayClusterSpec",
    "runtimeEnvYAML",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterConfig",
    "submitterPodTemplate",
    "suspend",
    "ttlSecondsAfterFinished",
}
RAY_CLUSTER_FIELDS = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "headServiceAnnotations",
    "managedBy",
    "rayVersion",
    "suspend",
    "workerGroupSpecs",
}


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "infra/ray/cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ray_job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "infra/kuberay/rayjob.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pods(ray_job: dict[str, Any]) -> list[dict[str, Any]]:
    spec = ray_job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_cluster_follows_rays_own_schema(cluster: dict[str, Any]) -> None:
    schema = json.loads((Path(autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)
    # `ray up` itself fills the defaults in and then checks again.
    validate_config(prepare_config(dict(cluster)))
    with pytest.raises(jsonschema.ValidationError):  # the schema does refuse a misspelt key
        jsonschema.validate({**cluster, "worker_commands": []}, schema)


def test_cluster_nodes_share_a_token(cluster: dict[str, Any]) -> None:
    options = cluster["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in options
    token = next(option.split("=")[-1] for option in options if "RAY_AUTH_TOKEN_PATH" in option)
    assert any(option.endswith(f":{token}:ro") for option in options)


def test_cluster_head_listens_for_jobs_on_loopback_only(cluster: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_ray_job_has_known_fields_only(ray_job: dict[str, Any]) -> None:
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(ray_job["spec"]) <= RAY_JOB_FIELDS
    assert set(ray_job["spec"]["rayClusterSpec"]) <= RAY_CLUSTER_FIELDS
    assert ray_job["spec"]["submissionMode"] in {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}


def test_ray_job_cleans_up_retries_and_wants_a_token(ray_job: dict[str, Any]) -> None:
    spec = ray_job["spec"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0


def test_ray_version_is_the_tested_one(ray_job: dict[str, Any]) -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={ray_job['spec']['rayClusterSpec']['rayVersion']}" in pinned


def test_pods_run_one_image_without_root(pods: list[dict[str, Any]]) -> None:
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        container = pod["containers"][0]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        # Equal requests and limits: Ray sees the resources that Kubernetes will really give.
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}


def test_every_node_writes_to_the_shared_storage(pods: list[dict[str, Any]]) -> None:
    for pod in pods:
        container = pod["containers"][0]
        storage = next(item["value"] for item in container["env"] if item["name"] == "MEMVP_STORAGE")
        assert storage in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_ray_job_runs_files_of_the_repository(ray_job: dict[str, Any]) -> None:
    program, *words = ray_job["spec"]["entrypoint"].split()
    assert program == "python"
    for word in words:
        if not word.startswith("--"):
            assert (ROOT / word.removeprefix("/opt/memvp/")).is_file(), word
