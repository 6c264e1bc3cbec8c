"""The Kubernetes manifests: valid by the cluster's own schemas, restricted, and in step with the product."""

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from deploy_files import KUBERNETES, containers, everything, kustomize, pod

from celora.errors import CeloraError
from celora.settings.gpus import CATALOGUE, identify
from celora.settings.settings import Settings
from celora.workers.lifecycle import foreground

VERSIONS = ("1.31.0", "1.37.0")
OURS = {"Kustomization"}
UNKNOWN_HERE = {"ScaledObject", "TriggerAuthentication"}
"""KEDA's kinds: no package brings their schema (deploy/README.md says so)."""

TYPES = {gpu.name: gpu for gpu in CATALOGUE}
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
GIB = 2**30


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_by_the_schemas_of_kubernetes(manifests, version):
    seen = Counter()
    for one in manifests:
        if one["kind"] not in UNKNOWN_HERE:
            kubernetes_validate.validate(one, version, strict=True)
            seen[one["kind"]] += 1
    assert seen["Deployment"] >= 5 + len(OVERLAYS)
    assert seen["Job"] == 2
    assert seen["NetworkPolicy"] >= 4
    assert seen["PodDisruptionBudget"] >= 2 + len(OVERLAYS)


def test_a_mistake_would_be_seen(manifests):
    wrong = next(one for one in everything() if one["kind"] == "Deployment")
    wrong["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_no_object_is_defined_twice(manifests):
    names = Counter((one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in manifests)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_pod_is_restricted(manifests):
    pods = [(one["metadata"]["name"], pod(one)) for one in manifests if pod(one)]
    assert len(pods) >= 11
    for name, spec in pods:
        assert spec["automountServiceAccountToken"] is False, name
        context = spec["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 10001), name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume], name
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"]), name


def test_every_pod_has_more_time_to_leave_than_a_trainer_has_to_checkpoint(manifests):
    settings = next(one for one in manifests if one["kind"] == "ConfigMap")["data"]
    grace_s = float(settings.get("CELORA_GRACE_S", Settings.model_fields["grace_s"].default))
    for one in manifests:
        if pod(one) and {"worker", "run-job"} & set(containers(one)[0]["args"]):
            assert pod(one)["terminationGracePeriodSeconds"] >= 2 * grace_s, one["metadata"]["name"]


def test_secrets_are_only_ever_referred_to(manifests):
    assert "Secret" not in {one["kind"] for one in manifests}
    for one in manifests:
        for container in containers(one):
            for variable in container.get("env", []):
                assert "value" not in variable, f"{one['metadata']['name']}: {variable['name']}"
    settings = next(one for one in manifests if one["kind"] == "ConfigMap")["data"]
    assert not {"CELORA_DATABASE_URL", "CELORA_BROKER_URL", "CELORA_RESULT_BACKEND"} & set(settings)


def test_every_volume_is_mounted_and_every_mount_is_a_volume(manifests):
    claims = {one["metadata"]["name"] for one in manifests if one["kind"] == "PersistentVolumeClaim"}
    for one in manifests:
        if not pod(one):
            continue
        volumes = {volume["name"]: volume for volume in pod(one)["volumes"]}
        mounted = {mount["name"] for container in containers(one) for mount in container["volumeMounts"]}
        assert set(volumes) == mounted, one["metadata"]["name"]
        wanted = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values()
                  if "persistentVolumeClaim" in volume}  # fmt: skip
        assert wanted <= claims, one["metadata"]["name"]


def test_every_pod_may_reach_what_it_needs(manifests):
    """The default is to deny; the record, the broker and the names are for all, HTTPS for those that fetch."""
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for one in manifests:
        if pod(one):
            labels = one["spec"]["template"]["metadata"]["labels"]
            wanted = policies["record-and-broker"]["podSelector"]["matchLabels"]
            assert wanted.items() <= labels.items(), one["metadata"]["name"]
    (block,) = policies["fetch"]["egress"][0]["to"]
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(block["ipBlock"]["except"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_a_type_of_the_catalogue_and_its_label_is_that_device(name):
    made = {one["kind"]: one for one in kustomize(f"overlays/{name}")}
    deployment = made["Deployment"]
    spec = pod(deployment)
    product = spec["nodeSelector"]["nvidia.com/gpu.product"].replace("-", " ")
    assert identify(product, TYPES[name].memory_bytes, TYPES).name == name
    assert deployment["metadata"]["name"] == f"worker-{name}"
    assert deployment["spec"]["selector"]["matchLabels"]["celora/gpu-type"] == name
    assert made["PodDisruptionBudget"]["spec"]["selector"] == deployment["spec"]["selector"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "replicas" not in deployment["spec"]  # KEDA's, or the operator's
    shared = next(volume for volume in spec["volumes"] if volume["name"] == "shm")
    assert shared["emptyDir"]["medium"] == "Memory"
    assert {"mountPath": "/dev/shm", "name": "shm"} in container["volumeMounts"]  # noqa: S108  (it is the point)
    assert [toleration["key"] for toleration in spec["tolerations"]] == ["nvidia.com/gpu"]


def test_there_are_overlays_for_the_usual_types():
    assert {"t4", "l4", "a100-80", "h100"} <= set(OVERLAYS)
    assert set(OVERLAYS) <= set(TYPES)


def exit_codes():
    kinds, found = [CeloraError], set()
    while kinds:
        kind = kinds.pop()
        found.add(kind.exit_code)
        kinds += kind.__subclasses__()
    return found


def test_a_run_that_failed_ends_its_job_and_one_that_drained_does_not(manifests):
    (job,) = [one for one in manifests if one["kind"] == "Job" and one["metadata"]["name"].startswith("run-job")]
    assert pod(job)["restartPolicy"] == "Never"
    rules = job["spec"]["podFailurePolicy"]["rules"]
    by_action = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
    assert by_action["Ignore"] == [foreground.DRAINED]
    assert set(by_action["FailJob"]) == exit_codes() | {foreground.CANCELLED}
    assert not {137, 143} & set(by_action["FailJob"])  # killed: another pod goes on
    assert rules[0] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def test_each_type_is_scaled_by_a_query_about_itself(manifests):
    scaled = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "ScaledObject"}
    assert sorted(scaled) == sorted(f"worker-{name}" for name in OVERLAYS)
    lists = set()
    for name in OVERLAYS:
        spec = scaled[f"worker-{name}"]
        assert spec["scaleTargetRef"] == {"name": f"worker-{name}"}
        assert spec["minReplicaCount"] == 0
        query = spec["triggers"][0]["metadata"]["query"]
        assert query.count(f"'{name}' = CASE gpu") == query.count(f"gpu_type = '{name}'") == 1
        lists.add(query.split("SELECT")[0])
    assert len(lists) == 1, "the lists of types differ"


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not on the PATH")
@pytest.mark.parametrize("folder", ["base", "migrate", "keda", *(f"overlays/{name}" for name in OVERLAYS)])
def test_kubectl_makes_the_same_of_them(folder):
    done = subprocess.run(
        [shutil.which("kubectl"), "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=False
    )
    if "unknown field" in done.stderr:
        pytest.skip("this kubectl is older than 1.27 and does not know all fields")
    assert done.returncode == 0, done.stderr
    key = lambda one: (one["kind"], one["metadata"]["name"])  # noqa: E731
    assert sorted(yaml.safe_load_all(done.stdout), key=key) == sorted(kustomize(folder), key=key)


def test_the_ephemeral_home_holds_what_a_job_writes(manifests):
    for one in manifests:
        if pod(one):
            limits = containers(one)[0]["resources"]["limits"]["ephemeral-storage"]
            homes = sum(int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) for volume in pod(one)["volumes"]
                        if volume.get("emptyDir", {}).get("medium") != "Memory" and "emptyDir" in volume)  # fmt: skip
            assert homes <= int(limits.removesuffix("Gi")), one["metadata"]["name"]


def test_no_folder_is_forgotten():
    used = {"base", "migrate", "keda", "gpu", "job", "overlays"}
    assert {path.name for path in Path(KUBERNETES).iterdir()} == used
