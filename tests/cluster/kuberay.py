"""What KubeRay 1.7 refuses: its definitions, read strictly, and the rules of its operator that they do not hold."""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.commands import ROOT

DEFINITIONS = ROOT.parent / "shared" / "data" / "kuberay"
LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
TIME_ZONES = zoneinfo.available_timezones() | {"UTC", "Etc/UTC", "Local"}
SIZES = {"num-cpus", "num-gpus", "memory", "resources"}


@functools.cache
def schema_of(kind: str, *keys: str) -> dict[str, Any]:
    """Return the strict schema of a kind, or of what stands below these keys in it; without the definition, skip."""
    if keys:
        schema = schema_of(kind)
        for key in keys:
            schema = schema["properties"][key]
        return schema
    path = DEFINITIONS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"KubeRay's {path.name} is not on this machine")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the definitions are megabytes
    versions = yaml.load(path.read_text(encoding="utf-8"), loader)["spec"]["versions"]
    [schema] = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    return strict({**schema, "properties": {**schema["properties"], "metadata": {}, "status": {}}})


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that refuses unknown fields, as `kubectl apply` does."""
    for below in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(below, dict):
            strict(below)
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
    return schema


def refusals(document: dict[str, Any]) -> list[str]:
    """Return what KubeRay would say against a document; empty if it takes it."""
    kind, spec = document["kind"], document["spec"]
    validator = jsonschema.Draft7Validator(schema_of(kind))
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
    if errors:  # the operator does not see what the API server has refused
        return errors
    name = document["metadata"]["name"]
    if len(name) > LONGEST[kind] or not DNS_LABEL.fullmatch(name):
        errors.append(f"name: {name}")
    rules = {"RayCluster": of_cluster, "RayJob": of_job, "RayService": of_service, "RayCronJob": of_cron_job}
    return [*errors, *rules[kind](spec)]


def of_cluster(spec: dict[str, Any]) -> Iterator[str]:
    scales, autoscaler = spec.get("enableInTreeAutoscaling", False), spec.get("autoscalerOptions", {})
    second = scales and autoscaler.get("version") == "v2"
    groups = [("head", spec["headGroupSpec"]), *((group["groupName"], group) for group in spec["workerGroupSpecs"])]
    for name, group in groups:
        containers = group["template"]["spec"]["containers"]
        variables = {each["name"] for container in containers for each in container.get("env", [])}
        if group.get("resources") and SIZES & group["rayStartParams"].keys():
            yield f"{name}: sizes both in rayStartParams and in resources"
        if "labels" in group["rayStartParams"]:
            yield f"{name}: labels in rayStartParams"
        if second and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: restartPolicy with autoscaler v2"
        if {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"} & variables:
            yield f"{name}: Redis in the environment, not in gcsFaultToleranceOptions"
    for name, group in groups[1:]:
        if not scales and not {"minReplicas", "maxReplicas"} <= group.keys():
            yield f"{name}: minReplicas and maxReplicas without an autoscaler"
        if not 0 <= group.get("minReplicas", 0) <= group.get("maxReplicas", 2**31):
            yield f"{name}: minReplicas above maxReplicas"
        if (group.get("priority") or group.get("idleTimeoutSeconds") is not None) and not second:
            yield f"{name}: priority and idleTimeoutSeconds want autoscaler v2"
        if group.get("priority") and version(spec) < (2, 56):
            yield f"{name}: priority wants Ray 2.56"
    if spec.get("authOptions", {}).get("mode") == "token" and version(spec) < (2, 52):
        yield "authOptions: a token wants Ray 2.52"
    if "networkPolicy" in spec:
        yield "networkPolicy: behind a feature gate"


def version(spec: dict[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, spec.get("rayVersion", "0").split(".")[:2]))


def of_job(spec: dict[str, Any]) -> Iterator[str]:
    selected, own = spec.get("clusterSelector"), spec.get("rayClusterSpec")
    if not selected and own is None:
        yield "neither clusterSelector nor rayClusterSpec"
    if selected and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit with clusterSelector"
    if spec.get("submissionMode") == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit with InteractiveMode"
    yield from of_submitter(spec)
    for key, least in (("activeDeadlineSeconds", 1), ("preRunningDeadlineSeconds", 1), ("backoffLimit", 0)):
        if spec.get(key, least) < least:
            yield f"{key} is below {least}"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    yield from of_deletion(spec)
    if own is not None:
        yield from of_cluster(own)


def of_submitter(spec: dict[str, Any]) -> Iterator[str]:
    pod = spec.get("submitterPodTemplate")
    for key in ("submitterPodTemplate", "submitterConfig"):
        if key in spec and spec.get("submissionMode") == "SidecarMode":
            yield f"{key} with SidecarMode"
    policy = pod["spec"].get("restartPolicy", "Always") if pod else "Never"
    if policy not in ("Never", "OnFailure"):  # a rule of Kubernetes, for the Job that KubeRay makes of it
        yield f"the submitter's restartPolicy: {policy}"


def of_deletion(spec: dict[str, Any]) -> Iterator[str]:
    if "deletionStrategy" not in spec:
        return
    rules = spec["deletionStrategy"].get("deletionRules", [])
    old = {"onSuccess", "onFailure"} & spec["deletionStrategy"].keys()
    if not rules and len(old) != 2:
        yield "deletionStrategy without deletionRules, or without both of onSuccess and onFailure"
    if rules and (spec.get("shutdownAfterJobFinishes") or old):
        yield "deletionRules with shutdownAfterJobFinishes or onSuccess"
    policies_of_old = {spec["deletionStrategy"][key].get("policy") for key in old}
    if spec.get("shutdownAfterJobFinishes") and "DeleteNone" in policies_of_old:
        yield "DeleteNone with shutdownAfterJobFinishes"
    seen: dict[str, dict[str, int]] = {}
    for rule in rules:
        states = [str(value) for key, value in rule["condition"].items() if key != "ttlSeconds"]
        if len(states) != 1:
            yield "a deletion rule with another number of states than one"
        policies = seen.setdefault("".join(states), {})
        if rule["policy"] in policies:
            yield f"two rules for {rule['policy']} at {states}"
        policies[rule["policy"]] = rule["condition"].get("ttlSeconds", 0)
        if spec.get("clusterSelector") and rule["policy"] in ("DeleteCluster", "DeleteWorkers"):
            yield f"{rule['policy']} with clusterSelector"
        if rule["policy"] == "DeleteWorkers" and (spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling"):
            yield "DeleteWorkers with an autoscaler"
    for policies in seen.values():
        after = [policies[policy] for policy in DELETION_ORDER if policy in policies]
        if after != sorted(after):
            yield "a part is deleted after the whole"


def of_cron_job(spec: dict[str, Any]) -> Iterator[str]:
    if "TZ" in spec["schedule"] or len(spec["schedule"].split()) != 5:
        yield f"schedule: {spec['schedule']}"
    if spec.get("timeZone", "UTC") not in TIME_ZONES:
        yield f"timeZone: {spec['timeZone']}"
    yield from of_job(spec["jobTemplate"])


def of_service(spec: dict[str, Any]) -> Iterator[str]:
    cluster, strategy = spec["rayClusterConfig"], spec.get("upgradeStrategy", {})
    if strategy.get("type", "NewCluster") not in ("None", "NewCluster", "NewClusterWithIncrementalUpgrade"):
        yield f"upgradeStrategy: {strategy['type']}"
    if strategy.get("type") == "NewClusterWithIncrementalUpgrade":
        options = strategy.get("clusterUpgradeOptions", {})
        surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
        if not cluster.get("enableInTreeAutoscaling"):
            yield "an incremental upgrade wants an autoscaler"
        if not 0 <= step <= surge <= 100 or options.get("intervalSeconds", 0) <= 0:
            yield f"clusterUpgradeOptions: {options}"
        if not options.get("gatewayClassName"):
            yield "clusterUpgradeOptions: no gatewayClassName"
    if cluster["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
        yield "a name for the head's service"
    yield from of_cluster(cluster)
