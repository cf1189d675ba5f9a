"""What the manifests in knative/ must say, without a cluster: who runs as what, in what bounds, from which table."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ocf.functions.dispatcher.http_target import function_url
from ocf.functions.dispatcher.routes import ROUTES
from ocf.functions.settings.settings import Settings
from scripts.knative_apply import PRUNED
from scripts.kube import resource

ROOT = Path(__file__).parents[2]
KNATIVE = ROOT / "knative"
OVERLAYS = tuple(sorted(path.parent.name for path in KNATIVE.glob("overlays/*/kustomization.yaml")))
#: `make check` puts it there.
OURS = ROOT / ".tools/kube/kubectl"
KUBECTL = str(OURS) if OURS.is_file() else shutil.which("kubectl")
Manifest = dict[str, Any]


def manifests(folder: Path) -> list[Manifest]:
    """Every object written down below a folder, but kustomize's own and Helm values."""
    found: list[Manifest] = []
    for path in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if (
                isinstance(document, dict)
                and "kind" in document
                and document["kind"] not in ("Kustomization", "Component")
            ):
                found.append(document)
    return found


def built(folder: Path) -> list[Manifest]:
    """The objects of a folder, as kustomize builds them."""
    done = subprocess.run([str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pod_specs(document: Manifest) -> Iterator[Manifest]:
    """The pod specs in an object: Deployment, Job, Knative Service, JobSink."""
    spec = document.get("spec") or {}
    if "containers" in spec:
        yield spec
    for key in ("template", "job"):
        if isinstance(spec.get(key), dict):
            yield from pod_specs(spec[key])


PODS = [
    pytest.param(document, spec, id=f"{document['kind']}-{document['metadata']['name']}")
    for document in manifests(KNATIVE)
    if document["metadata"].get("namespace") != "knative-serving"
    for spec in pod_specs(document)
]


@pytest.mark.parametrize(("document", "spec"), PODS)
def test_a_container_is_not_root_and_cannot_become_it(document: Manifest, spec: Manifest) -> None:
    """Pod Security's `restricted`, a read-only root file system, and no token of the API server but for the one pod
    whose business are Kubernetes Events."""
    assert spec["automountServiceAccountToken"] is (document["metadata"]["name"] == "dispatch-kubernetes")
    for container in spec["containers"]:
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] >= 1000
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize(("document", "spec"), PODS)
def test_a_container_has_bounds_and_probes(document: Manifest, spec: Manifest) -> None:
    """Requests, limits, a size for every emptyDir; probes on whatever serves."""
    for container in spec["containers"]:
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
        assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
        if container.get("ports"):
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
            start = container["startupProbe"]
            assert start.get("periodSeconds", 10) * start.get("failureThreshold", 3) >= 300, "starts of an upgrade"
    for volume in spec.get("volumes", []):
        assert "emptyDir" not in volume or volume["emptyDir"].get("sizeLimit"), volume["name"]
        assert "hostPath" not in volume


@pytest.mark.parametrize(("document", "spec"), PODS)
def test_secrets_are_not_written_down(document: Manifest, spec: Manifest) -> None:
    """Every value that looks like a secret comes from a Secret."""
    for container in spec["containers"]:
        for variable in container.get("env", []):
            assert (
                not any(word in variable["name"] for word in ("KEY", "TOKEN", "SECRET", "SEED"))
                or "value" not in variable
            )
    assert document["kind"] != "Secret"


def knative_services() -> dict[str, Manifest]:
    """The Knative Services by name."""
    found = manifests(KNATIVE / "base")
    return {d["metadata"]["name"]: d for d in found if d["apiVersion"] == "serving.knative.dev/v1"}


def config(name: str = "base/config.env") -> dict[str, str]:
    """The environment that every function gets."""
    lines = (KNATIVE / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_only_the_gateway_is_seen_from_outside() -> None:
    """Every other service is cluster-local."""
    for name, service in knative_services().items():
        local = service["metadata"]["labels"].get("networking.knative.dev/visibility") == "cluster-local"
        assert local == (name != "gateway"), name


def test_execute_takes_as_many_runs_as_its_worker_has_slots_and_holds_them_as_long() -> None:
    """Knative's concurrency is MAX_CONCURRENT_TASKS; its timeouts and the drain cover a run and its ARTIFACT_WAIT."""
    spec = knative_services()["execute"]["spec"]["template"]["spec"]
    told = config()
    longest = int(told["TASK_TIMEOUT"]) + int(told["ARTIFACT_WAIT"])
    assert spec["containerConcurrency"] == int(told["MAX_CONCURRENT_TASKS"])
    for timeout in ("timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds"):
        assert spec[timeout] > longest
    assert spec["timeoutSeconds"] > int(told["DRAIN_SECONDS"]) >= longest
    [defaults] = [d for d in manifests(KNATIVE / "cluster") if d["metadata"]["name"] == "config-defaults"]
    assert int(defaults["data"]["max-revision-timeout-seconds"]) >= spec["timeoutSeconds"]


def test_limits_of_the_runs_of_a_pod_fit_into_the_pod() -> None:
    """Memory and disk: one greedy run must not take its neighbours along, by the OOM killer or by an eviction."""
    told = config()
    spec = knative_services()["execute"]["spec"]["template"]["spec"]
    runs = int(told["MAX_CONCURRENT_TASKS"])
    assert runs == 1
    assert size(agent_of(spec)["resources"]["limits"]["memory"]) >= 1.2 * int(told["MAX_MEMORY_BYTES"])
    [shared] = [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "agent"]
    assert size(shared["sizeLimit"]) >= 2.4 * int(told["MAX_WORKSPACE_BYTES"])
    [state] = [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "state"]
    assert size(state["sizeLimit"]) >= 1.2 * runs * int(told["MAX_WORKSPACE_BYTES"])
    [sink] = manifests(KNATIVE / "overlays/jobsink")
    [job] = list(pod_specs(sink))
    assert size(agent_of(job)["resources"]["limits"]["memory"]) >= 1.2 * int(told["MAX_MEMORY_BYTES"])
    [state] = [volume["emptyDir"] for volume in job["volumes"] if volume["name"] == "state"]
    assert size(state["sizeLimit"]) >= 1.2 * int(told["MAX_WORKSPACE_BYTES"])


def agent_of(spec: Manifest) -> Manifest:
    """The container of agents in a pod of execute."""
    [found] = [one for one in (*spec.get("initContainers", ()), *spec["containers"]) if one["name"] == "agent"]
    return dict(found)


def test_the_container_of_agents_has_nothing_to_take() -> None:
    """In the Service and in a Job alike: no secret, no configuration, no volume but the shared folder and its own /tmp;
    another user of execute's group; nothing that a probe or a request reaches; the same program and bounds."""
    service = knative_services()["execute"]["spec"]["template"]["spec"]
    [sink] = manifests(KNATIVE / "overlays/jobsink")
    [job] = list(pod_specs(sink))
    for spec in (service, job):
        agent, [execute] = agent_of(spec), [one for one in spec["containers"] if one["name"] == "execute"]
        assert not set(agent) & {"env", "envFrom", "ports", "livenessProbe", "readinessProbe", "startupProbe"}
        assert {mount["name"] for mount in agent["volumeMounts"]} == {"agent", "agent-tmp"}
        user, group = (agent["securityContext"][name] for name in ("runAsUser", "runAsGroup"))
        assert group == execute["securityContext"]["runAsGroup"]
        assert user != execute["securityContext"]["runAsUser"]
        assert agent["command"][-1] == str(execute["securityContext"]["runAsUser"])
        told = {one["name"]: one["value"] for one in execute["env"]}
        assert told["AGENT_HOST_SOCKET"] == agent["command"][-2]
        assert "shareProcessNamespace" not in spec
        assert "hostPID" not in spec
    same = ("command", "image", "resources", "securityContext", "volumeMounts")
    assert [agent_of(job)[name] for name in same] == [agent_of(service)[name] for name in same]
    assert agent_of(job)["restartPolicy"] == "Always"


def size(quantity: str) -> int:
    """Bytes of `8Gi`, `384Mi`."""
    return int(quantity[:-2]) * {"Mi": 1024**2, "Gi": 1024**3}[quantity[-2:]]


def test_settings_that_differ_between_installations_are_said() -> None:
    """What an operator must decide is in the file, not in a default that nobody sees."""
    assert set(config()) >= {"RETENTION", "SESSION_TTL", "STREAM_REPLICAS", "SANDBOX", "TASK_TIMEOUT", "S3_BUCKET"}
    assert set(config("overlays/production/config.env")) >= {
        "NATS_URL",
        "NATS_WS_URL",
        "S3_ENDPOINT_URL",
        "OCF_MODEL",
        "GATEWAY_JWKS_URL",
        "GATEWAY_JWT_ISSUER",
        "CORS_ORIGINS",
        "RETENTION",
        "NETWORK_ALLOW",
    }
    for name in ("base/config.env", "overlays/production/config.env"):
        Settings(**config(name))


def test_every_row_of_the_wiring_has_its_source_and_its_function() -> None:
    """The cluster delivers what the local stack delivers: the manifests come from the same table."""
    generated = subprocess.run(
        [sys.executable, str(ROOT / "scripts/knative_generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert generated.returncode == 0, generated.stderr
    wired = {row.function for row in ROUTES if row.consumer in dispatched(manifests(KNATIVE / "base"))}
    assert wired == {row.function for row in ROUTES if (ROOT / f"functions/{row.function}/main.py").is_file()}
    assert wired <= set(knative_services())


def dispatched(documents: list[Manifest]) -> list[str]:
    """The routes of the dispatcher."""
    [deployment] = [one for one in documents if one["metadata"]["name"] == "dispatcher" and one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [routes] = [one["value"] for one in container["env"] if one["name"] == "DISPATCH_CONSUMERS"]
    return str(routes).split(",")


@pytest.mark.parametrize("name", ["base/config.env", "overlays/production/config.env"])
def test_every_setting_is_one_that_functions_know(name: str) -> None:
    """A typing error in a name would be ignored silently by the process. OpenTelemetry reads its own."""
    known = {field.alias for field in Settings.model_fields.values()}
    assert {each for each in config(name) if not each.startswith("OTEL_")} <= known


def test_a_run_as_a_job_leaves_a_node_that_is_gone_soon() -> None:
    """Kubernetes adds 300 s where a pod says nothing; no other worker can take its event before."""
    [sink] = manifests(KNATIVE / "overlays/jobsink")
    [job] = list(pod_specs(sink))
    short = {t["key"]: t["tolerationSeconds"] for t in job["tolerations"] if t["effect"] == "NoExecute"}
    assert short == {"node.kubernetes.io/not-ready": 30, "node.kubernetes.io/unreachable": 30}


def test_a_run_as_a_job_has_its_grace() -> None:
    """Its pod is killed no sooner than the worker hands the run on."""
    [sink] = manifests(KNATIVE / "overlays/jobsink")
    [job] = list(pod_specs(sink))
    assert job["terminationGracePeriodSeconds"] >= int(config()["DRAIN_SECONDS"]) + 30


def test_the_installation_pushes_the_images_that_the_overlay_pulls() -> None:
    """What the page builds is what a pod is made of; its steps name every Secret that the manifests want."""
    page = (ROOT / "docs/how-to/install-on-a-cluster.md").read_text()
    overlay = yaml.safe_load((KNATIVE / "overlays/production/kustomization.yaml").read_text())
    version = re.findall(r"VERSION=(\S+)", page)[0]
    pushed = {
        f"registry.example.com/{name}:{version}" for name in re.findall(r"docker push \$REGISTRY/([\w-]+):", page)
    }
    assert pushed == {f"{image['newName']}:{image['newTag']}" for image in overlay["images"]}
    assert set(re.findall(r"docker build .* -t \$REGISTRY/([\w-]+):", page)) == {i["name"] for i in overlay["images"]}
    values = yaml.safe_load((KNATIVE / "overlays/production/nats-values.yaml").read_text())
    assert f"create secret tls {values['config']['websocket']['tls']['secretName']} " in page


def test_traces_can_leave_where_all_else_is_denied() -> None:
    """Whoever makes spans reaches a collector in the namespace from which the metrics are read."""
    found = [d for d in manifests(KNATIVE / "components/guards") if d["kind"] == "NetworkPolicy"]
    policies = {d["metadata"]["name"]: d["spec"] for d in found}
    out, read = policies["traces"], policies["metrics"]
    assert out["podSelector"] == read["podSelector"]
    [rule] = out["egress"]
    assert rule["to"] == read["ingress"][0]["from"]
    assert {port["port"] for port in rule["ports"]} == {4317, 4318}


def test_the_pod_with_a_token_may_create_events_and_nothing_else() -> None:
    """One account, one role, one verb; it has no secret of the functions but its NATS credentials."""
    found = manifests(KNATIVE / "components/kubernetes-events")
    by_kind = {one["kind"]: one for one in found}
    assert by_kind["Role"]["rules"] == [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
    assert by_kind["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": "dispatch-kubernetes"}]
    [spec] = list(pod_specs(by_kind["Deployment"]))
    assert spec["serviceAccountName"] == by_kind["ServiceAccount"]["metadata"]["name"]
    assert [list(one) for one in spec["containers"][0]["envFrom"]] == [["configMapRef"]]


def test_polls_have_all_that_they_need() -> None:
    """Ticks reach the function `trigger`, which opens credentials, asks the database for spends and reaches a forge."""
    wired = [*manifests(ROOT / "knative/base"), *manifests(ROOT / "knative/components/guards")]
    objects = {(one["kind"], one["metadata"]["name"]): one for one in wired}
    assert "poll" in dispatched(wired)
    [route] = [one for one in ROUTES if one.consumer == "poll"]
    assert (route.subjects, route.function) == (("ocf.poll.>",), "trigger")
    trigger = objects["Service", "trigger"]["spec"]["template"]
    [container] = trigger["spec"]["containers"]
    secrets = {one["secretRef"]["name"] for one in container["envFrom"] if "secretRef" in one}
    assert {"ocf-encryption", "ocf-database", "ocf-dispatch"} <= secrets
    component = trigger["metadata"]["labels"]["app.kubernetes.io/component"]
    policy = objects["NetworkPolicy", "functions-to-internet"]["spec"]
    assert component in policy["podSelector"]["matchExpressions"][0]["values"]
    assert {"protocol": "TCP", "port": 443} in policy["egress"][0]["ports"]


def test_whoever_has_the_databases_address_may_reach_it() -> None:
    """The policies of PostgreSQL let in, and out of their pods, those who have `DATABASE_URL`, and nobody else."""
    found = manifests(KNATIVE / "base")
    wanted = {
        document["metadata"]["name"]
        for document in found
        for spec in pod_specs(document)
        for container in spec["containers"]
        if {"secretRef": {"name": "ocf-database"}} in container.get("envFrom", [])
    }
    guards = manifests(KNATIVE / "components/guards")
    policies = {d["metadata"]["name"]: d["spec"] for d in guards if d["kind"] == "NetworkPolicy"}
    [out] = policies["history-to-postgres"]["podSelector"]["matchExpressions"]
    [rule] = policies["postgres"]["ingress"]
    [into] = rule["from"][0]["podSelector"]["matchExpressions"]
    assert set(out["values"]) == set(into["values"]) == wanted


@pytest.mark.skipif(KUBECTL is None, reason="needs kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_next_overlay_removes_all_that_this_one_has_alone(overlay: str) -> None:
    """`knative_apply.py` prunes each kind of what an overlay has and `local` has not, found by its label."""
    local = {(resource(one), one["metadata"]["name"]) for one in built(KNATIVE / "overlays/local")}
    for one in built(KNATIVE / "overlays" / overlay):
        kind = resource(one)
        if (kind, one["metadata"]["name"]) not in local and kind != "persistentvolumeclaim":
            assert kind in PRUNED, kind
            assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "ocf", one["metadata"]["name"]


@pytest.mark.skipif(KUBECTL is None, reason="needs kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_with_images_that_are_pinned(overlay: str) -> None:
    """`kubectl kustomize` takes it; every image has a tag that is not `latest`; every reference has its object."""
    documents = built(KNATIVE / "overlays" / overlay)
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        for spec in pod_specs(document):
            # A pod without one is the first that others push out of a full node: NATS was, once.
            assert document["kind"] == "Job" or spec["priorityClassName"].startswith("ocf-")
            for container in spec["containers"]:
                tag = container["image"].rsplit("/", 1)[-1].partition(":")[2]
                assert tag not in ("", "latest"), container["image"]
                for source in container.get("envFrom", []):
                    if "configMapRef" in source:
                        assert ("ConfigMap", source["configMapRef"]["name"]) in names


@pytest.mark.skipif(KUBECTL is None, reason="needs kubectl")
@pytest.mark.parametrize(("overlay", "kind"), [("production", "Service"), ("jobsink", "JobSink")])
def test_agents_can_have_a_kernel_of_their_own(overlay: str, kind: str, tmp_path: Path) -> None:
    """Component `sandboxed`: what runs agents gets the RuntimeClass, and nothing else does."""
    paths = [os.path.relpath(KNATIVE / name, tmp_path) for name in (f"overlays/{overlay}", "components/sandboxed")]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": paths[:1], "components": paths[1:]}))
    sandboxed = {
        (document["kind"], document["metadata"]["name"])
        for document in built(tmp_path)
        for spec in pod_specs(document)
        if spec.get("runtimeClassName") == "gvisor"
    }
    assert sandboxed == {(kind, "execute")}


def test_the_dispatcher_starts_with_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value in its manifest is read: a list in the form that a shell has, addresses of every route's function."""
    [deployment] = [one for one in manifests(KNATIVE / "base") if one["metadata"]["name"] == "dispatcher"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    for one in container["env"]:
        monkeypatch.setenv(one["name"], one.get("value", "ocf").replace("$(NAMESPACE)", "ocf"))
    settings = Settings()
    assert settings.dispatch_wake
    assert settings.dispatch_consumers == tuple(route.consumer for route in ROUTES)
    urls = {function_url(settings.function_urls, route.function) for route in ROUTES}
    assert urls == {f"http://{route.function}.ocf.svc.cluster.local" for route in ROUTES}
    assert function_url(f"{settings.function_urls},execute=http://sink/x", "execute") == "http://sink/x"
