"""The Kubernetes files as kustomize renders them: KubeRay takes them, and no pod has more rights than it needs."""

from __future__ import annotations

import copy
import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from rrad_ray import cli
from rrad_ray.config import JudgeConfig, load
from rrad_ray.patches import ray_haproxy, ray_serve_headers
from tests.cluster.kuberay import refusals, schema_of
from tests.commands import ROOT

FILES = ROOT / "cluster" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "spot")
EVERY = pytest.mark.parametrize("overlay", OVERLAYS)
KEEP = {"onSuccess": {"policy": "DeleteNone"}, "onFailure": {"policy": "DeleteCluster"}}
RAY_KINDS = ("RayCluster", "RayJob", "RayCronJob", "RayService")


@functools.cache
def rendered(overlay: str, everything: bool = False) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the documents of an overlay, by kind and name; with `everything`, its commented components too."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl, which brings kustomize, is not on this machine")
    with tempfile.TemporaryDirectory() as folder:
        files = Path(shutil.copytree(FILES, f"{folder}/kubernetes"))
        path = files / "overlays" / overlay / "kustomization.yaml"
        if everything:
            path.write_text(path.read_text().replace("  # - ../../", "  - ../../"))
        command = ["kubectl", "kustomize", str(path.parent)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def clusters(overlay: str) -> dict[str, dict[str, Any]]:
    """Return the spec of each kind's Ray cluster."""
    return {
        "RayCluster": rendered(overlay)["RayCluster", "rrad"]["spec"],
        "RayJob": rendered(overlay)["RayJob", "rrad-judge"]["spec"]["rayClusterSpec"],
        "RayCronJob": rendered(overlay)["RayCronJob", "rrad-nightly"]["spec"]["jobTemplate"]["rayClusterSpec"],
        "RayService": rendered(overlay)["RayService", "rrad-rerank"]["spec"]["rayClusterConfig"],
    }


def pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def jobs(overlay: str) -> dict[str, dict[str, Any]]:
    """Return the spec of each kind's Ray job."""
    documents = rendered(overlay)
    return {
        "RayJob": documents["RayJob", "rrad-judge"]["spec"],
        "RayCronJob": documents["RayCronJob", "rrad-nightly"]["spec"]["jobTemplate"],
    }


def submitters(overlay: str) -> list[dict[str, Any]]:
    """Return the pods that call `ray job submit`; KubeRay's own has no security context."""
    return [job["submitterPodTemplate"]["spec"] for job in jobs(overlay).values()]


@EVERY
@pytest.mark.parametrize("everything", [False, True])
def test_kuberay_takes_every_document(overlay: str, everything: bool) -> None:
    documents = rendered(overlay, everything)
    kinds = {kind for kind, _ in documents}
    assert kinds >= {*RAY_KINDS, "NetworkPolicy", "ServiceAccount"} - {"RayCluster"}
    assert ("RayCluster" in kinds) is not everything, "no-raycluster is one of the components"
    for (kind, _), document in documents.items():
        assert document["metadata"]["namespace"] == "rrad"
        if kind in RAY_KINDS:
            assert refusals(document) == []


def test_without_the_cluster_that_stays_jobs_have_its_spec_all_the_same() -> None:
    job = rendered("spot", True)["RayJob", "rrad-judge"]
    assert job["spec"]["rayClusterSpec"] == clusters("spot")["RayCluster"]


def test_redis_and_the_network_policies_are_taken_by_the_schemas_of_what_kuberay_embeds() -> None:
    documents = rendered("gpu", True)
    pod = schema_of("RayCluster", "spec", "headGroupSpec", "template", "spec")
    jsonschema.validate(documents["StatefulSet", "rrad-redis"]["spec"]["template"]["spec"], pod)
    rules = schema_of("RayCluster", "spec", "networkPolicy", "head", "ingressRules")
    policies = [document for (kind, _), document in documents.items() if kind == "NetworkPolicy"]
    assert len(policies) == 2
    for policy in policies:
        jsonschema.validate(policy["spec"]["ingress"], rules)
    service = documents["RayService", "rrad-rerank"]["spec"]
    assert service["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"] == "rrad-redis:6379"
    assert service["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"


@EVERY
def test_all_kinds_have_one_cluster(overlay: str) -> None:
    first, *others = clusters(overlay).values()
    assert others == [first] * 3


def test_overlays_differ_in_their_workers() -> None:
    groups = {overlay: clusters(overlay)["RayJob"]["workerGroupSpecs"] for overlay in OVERLAYS}
    names = {overlay: [group["groupName"] for group in each] for overlay, each in groups.items()}
    assert names == {"cpu": ["workers"], "gpu": ["gpu"], "spot": ["gpu", "spot"]}
    limits = {
        overlay: [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in each]
        for overlay, each in groups.items()
    }
    assert ["nvidia.com/gpu" in limit for each in limits.values() for limit in each] == [False, True, True, True]
    assert all(group["minReplicas"] == 0 for each in groups.values() for group in each), "nothing runs for nothing"
    on_demand, spot = groups["spot"]
    assert spot["template"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert len(spot["template"]["spec"]["tolerations"]) == 1 + len(on_demand["template"]["spec"]["tolerations"])


@EVERY
def test_a_head_does_no_work_and_workers_do(overlay: str) -> None:
    for cluster in clusters(overlay).values():
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert not any("num-cpus" in group["rayStartParams"] for group in cluster["workerGroupSpecs"])


@EVERY
def test_no_pod_is_roots_or_writes_its_image_or_has_keys_in_its_environment(overlay: str) -> None:
    cluster = clusters(overlay)["RayService"]
    autoscaler = cluster["autoscalerOptions"]
    for pod in (*pods(cluster), *submitters(overlay)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod["containers"], autoscaler):
            security = container["securityContext"]
            assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
            assert security["capabilities"] == {"drop": ["ALL"]}
            mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/scratch"} <= mounted.keys(), "what may be written"
            assert {*mounted.values()} <= volumes
            assert {"name": "HOME", "value": "/scratch"} in container["env"]
            assert not any("secretRef" in each for each in container.get("envFrom", []))
            assert not any("valueFrom" in each for each in container["env"])
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert [pod.get("automountServiceAccountToken", True) for pod in pods(cluster)][1:] == [False] * (
        len(cluster["workerGroupSpecs"])
    )
    assert [pod["automountServiceAccountToken"] for pod in submitters(overlay)] == [False] * 2


@EVERY
def test_a_job_is_submitted_by_a_pod_with_the_image_and_the_rights_of_the_clusters_pods(overlay: str) -> None:
    head = next(pods(clusters(overlay)["RayJob"]))
    tag = {"cpu": "0.1.0-cpu", "gpu": "0.1.0-gpu", "spot": "0.1.0-gpu"}[overlay]
    for pod in submitters(overlay):
        [container], [ray] = pod["containers"], head["containers"]
        assert container["image"] == ray["image"] == f"registry.example/rrad-ray:{tag}"
        assert container["securityContext"] == ray["securityContext"]
        assert pod["securityContext"] == head["securityContext"]
        assert "command" not in container, "KubeRay adds its own only where there is none"
        assert "serviceAccountName" not in pod, "it asks the head alone"


def test_only_the_endpoints_port_is_open_to_everyone() -> None:
    policy = rendered("gpu")["NetworkPolicy", "rrad-ray"]["spec"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    anyone = [rule for rule in policy["ingress"] if {"namespaceSelector": {}} in rule["from"]]
    assert [rule["ports"] for rule in anyone] == [[{"port": 8000}]]
    assert all("from" in rule for rule in policy["ingress"])


@pytest.mark.parametrize(
    ("labels", "ports"),
    [
        ({"name": "kuberay-operator", "component": "kuberay-operator"}, {8265, 8000}),  # by Helm
        ({"name": "kuberay", "component": "kuberay-operator"}, {8265, 8000}),  # by kustomize
        ({"name": "kuberay"}, {8000}),  # KubeRay's label of Ray's pods, of all namespaces
        ({"name": "prometheus"}, {8080, 8000}),
        ({}, {8000}),
    ],
)
def test_the_operator_reaches_the_dashboard_however_it_is_installed(labels: dict[str, str], ports: set[int]) -> None:
    pod = {f"app.kubernetes.io/{key}": value for key, value in labels.items()}
    rules = rendered("gpu")["NetworkPolicy", "rrad-ray"]["spec"]["ingress"]
    reached = {
        port["port"]
        for rule in rules
        for peer in rule["from"]
        if "namespaceSelector" in peer and peer.get("podSelector", {}).get("matchLabels", {}).items() <= pod.items()
        for port in rule["ports"]
    }
    assert reached == ports


@EVERY
def test_haproxy_sends_again_what_that_of_a_local_cluster_does(overlay: str) -> None:
    for pod in pods(clusters(overlay)["RayService"]):
        variables = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        wanted = ray_haproxy.RETRIES | ray_haproxy.PATIENCE | ray_haproxy.ONE_LOOP | ray_serve_headers.VARIABLES
        assert wanted.items() <= variables.items()
        assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


@EVERY
def test_serve_takes_the_application_and_finds_its_keys_where_they_are_mounted(overlay: str) -> None:
    service = rendered(overlay)["RayService", "rrad-rerank"]["spec"]
    [app] = ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"])).applications
    assert app.args["resources"] == ({"CPU": 2} if overlay == "cpu" else {"GPU": 1})
    mounts = next(pods(service["rayClusterConfig"]))["containers"][0]["volumeMounts"]
    assert app.args["api_keys"].rpartition("/")[0] in {mount["mountPath"] for mount in mounts}


def test_jobs_run_commands_with_configs_that_the_wheel_holds() -> None:
    _, judge, config, *overrides = rendered("gpu")["RayJob", "rrad-judge"]["spec"]["entrypoint"].split()
    assert judge == "judge"
    assert isinstance(load.load_config(JudgeConfig, config, overrides), JudgeConfig)


def test_the_cron_jobs_night_is_the_day_by_which_a_retry_finds_it_again() -> None:
    job = rendered("gpu")["RayCronJob", "rrad-nightly"]["spec"]["jobTemplate"]
    words = subprocess.run(  # KubeRay's submitter gives the entrypoint to bash
        ["bash", "-c", f"printf '%s\\n' {job['entrypoint']}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[:2] == ["rrad", "run"]
    steps = {step.name: cfg for step, cfg in cli.build_steps(words[2], words[3:])}
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", steps["publish"].night)
    assert steps["publish"].output == f"s3://bucket/nights/{steps['publish'].night}/published"
    store = yaml.safe_load(rendered("gpu")["RayService", "rrad-rerank"]["spec"]["serveConfigV2"])
    assert store["applications"][0]["args"]["input"] == steps["publish"].store, "what it publishes is what is served"


def test_all_tries_of_a_night_end_before_the_next_one_and_the_last_begins_on_its_day() -> None:
    spec = rendered("gpu")["RayCronJob", "rrad-nightly"]["spec"]
    job = spec["jobTemplate"]
    minute, hour, *days = spec["schedule"].split()
    assert (days, spec["timeZone"]) == (["*"] * 3, "Etc/UTC")
    of_a_try, tries = job["activeDeadlineSeconds"], job["backoffLimit"] + 1  # KubeRay sets StartTime anew on a retry
    assert tries > 1
    assert tries * of_a_try < 86400
    assert 3600 * int(hour) + 60 * int(minute) + (tries - 1) * of_a_try < 18 * 3600


def test_the_files_name_the_ray_that_is_locked() -> None:
    lock = (ROOT / "locks" / "cpu.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={clusters('gpu')['RayCluster']['rayVersion']}" in lock


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clusterSelector": {"ray.io/cluster": "rrad"}}, "backoffLimit with clusterSelector"),
        ({"shutdownAfterJobFinishes": True}, "deletionRules with shutdownAfterJobFinishes"),
        ({"deletionStrategy": {}}, "deletionStrategy without deletionRules"),
        ({"activeDeadlineSeconds": 0}, "activeDeadlineSeconds is below 1"),
        ({"backoffLimit": -1}, "backoffLimit is below 0"),
        ({"shutdownAfterJobFinishes": True, "deletionStrategy": KEEP}, "DeleteNone with shutdownAfterJobFinishes"),
        ({"backoffLimits": 3}, "backoffLimits"),
        ({"backoffLimit": "3"}, "'3' is not of type 'integer'"),
        ({"rayClusterSpec": None, "clusterSelector": {}}, "None is not of type 'object'"),
        ({"submissionMode": "SidecarMode"}, "submitterPodTemplate with SidecarMode"),
        ({"submitterPodTemplate": {"spec": {"containers": []}}}, "the submitter's restartPolicy: Always"),
    ],
)
def test_what_kuberay_would_refuse_is_seen(change: dict[str, Any], words: str) -> None:
    document = copy.deepcopy(rendered("gpu")["RayJob", "rrad-judge"])
    document["spec"].update(change)
    assert words in "; ".join(refusals(document))


def test_a_time_zone_that_kuberay_would_refuse_is_seen() -> None:
    document = copy.deepcopy(rendered("gpu")["RayCronJob", "rrad-nightly"])
    problems = {}
    for zone in ("Etc/UTC", "Mars/Olympus", ""):
        document["spec"]["timeZone"] = zone
        problems[zone] = refusals(document)
    del document["spec"]["timeZone"]
    assert refusals(document) == problems["Etc/UTC"] == []
    assert problems["Mars/Olympus"] == ["timeZone: Mars/Olympus"]
    assert problems[""] == ["$.spec.timeZone: '' should be non-empty"]


def test_a_priority_that_the_version_of_ray_does_not_know_is_seen() -> None:
    document = copy.deepcopy(rendered("spot")["RayCluster", "rrad"])
    for version, problems in (("2.56.0", []), ("2.55.1", ["spot: priority wants Ray 2.56"])):
        document["spec"]["rayVersion"] = version
        assert refusals(document) == problems


def test_what_kuberay_would_refuse_of_a_cluster_and_a_service_is_seen() -> None:
    document = copy.deepcopy(rendered("spot", True)["RayService", "rrad-rerank"])
    assert refusals(document) == []
    cluster = document["spec"]["rayClusterConfig"]
    cluster["rayVersion"] = "2.51.0"
    cluster["autoscalerOptions"]["version"] = "v1"
    cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"].append({"name": "REDIS_PASSWORD"})
    cluster["workerGroupSpecs"][0]["minReplicas"] = 9
    document["spec"]["upgradeStrategy"]["clusterUpgradeOptions"]["stepSizePercent"] = 20
    assert [problem.partition(":")[0] for problem in refusals(document)] == [
        "clusterUpgradeOptions",
        "head",
        "gpu",
        "spot",
        "spot",
        "authOptions",
    ]
