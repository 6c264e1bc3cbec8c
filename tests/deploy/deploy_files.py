"""The deploy files, read: compose, units, and the Kubernetes manifests as ``kubectl kustomize`` would print them."""

import copy
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
KNOWN = {"apiVersion", "kind", "namespace", "nameSuffix", "resources", "labels", "images", "patches"}
SELECTED = {
    "Deployment": ("spec", "selector", "matchLabels"),
    "PodDisruptionBudget": ("spec", "selector", "matchLabels"),
}
CLUSTER_WIDE = {"Namespace"}


def kustomize(folder):
    """What a kustomization makes: the small part of kustomize that ours use, and a refusal of the rest.

    The real program cannot be had here; where ``kubectl`` is, test_kubernetes compares its output with this one's.
    """
    folder = (KUBERNETES / folder).resolve()
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(settings) <= KNOWN, f"{folder}: the tests' kustomize knows no {set(settings) - KNOWN}"
    made = []
    for resource in settings["resources"]:
        path = (folder / resource).resolve()
        made += kustomize(path) if path.is_dir() else documents(path)
    made = copy.deepcopy(made)
    for patch in settings.get("patches", []):
        targets = [one for one in made if one["kind"] == patch["target"]["kind"]]
        assert targets, f"{folder}: a patch meets nothing"
        for one in targets:
            for change in yaml.safe_load(patch["patch"]):
                _change(one, change)
    for one in made:
        _name(one, settings)
    return made


def documents(path):
    """The objects of a file."""
    return [one for one in yaml.safe_load_all(Path(path).read_text()) if one]


def pod(one):
    """The pod of a Deployment or Job; None of anything else."""
    return one["spec"]["template"]["spec"] if one["kind"] in ("Deployment", "Job") else None


def containers(one):
    """The containers of a Deployment or Job."""
    return (pod(one) or {}).get("containers", [])


def everything():
    """Every object of every manifest, as it would be applied."""
    folders = ["base", "migrate", "keda", *(f"overlays/{path.name}" for path in (KUBERNETES / "overlays").iterdir())]
    made = [one for folder in sorted(folders) for one in kustomize(folder)]
    text = (KUBERNETES / "job" / "run-job.yaml").read_text()
    text = text.replace("JOB_ID", "019a0000-0000-7000-8000-000000000000").replace("GPU_PRODUCT", "NVIDIA-L4")
    return [*made, *(one for one in yaml.safe_load_all(text) if one)]


def deploy_files():
    """Every file below deploy/ that people run, prose aside."""
    return [path for path in sorted(DEPLOY.rglob("*")) if path.is_file() and "secrets" not in path.parent.name]


def _name(one, settings):
    """Namespace, suffix, labels and images, as a kustomization sets them."""
    if "namespace" in settings and one["kind"] not in CLUSTER_WIDE:
        one["metadata"]["namespace"] = settings["namespace"]
    one["metadata"]["name"] += settings.get("nameSuffix", "")
    for labels in settings.get("labels", []):
        _label(one, labels)
    for image in settings.get("images", []):
        for container in containers(one):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"


def _label(one, labels):
    one["metadata"].setdefault("labels", {}).update(labels["pairs"])
    if labels.get("includeSelectors"):
        if one["kind"] in SELECTED:
            place = one
            for key in SELECTED[one["kind"]]:
                place = place[key]
            place.update(labels["pairs"])
        if pod(one):
            one["spec"]["template"]["metadata"]["labels"].update(labels["pairs"])


def _change(one, change):
    """One operation of a JSON patch (RFC 6902): add or replace."""
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in change["path"].split("/")[1:]]
    place = one
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place[part]
    assert change["op"] in ("add", "replace")
    assert (last in place) == (change["op"] == "replace"), f"{change['path']} of {one['metadata']['name']}"
    place[last] = change["value"]
