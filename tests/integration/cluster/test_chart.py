"""The chart's life on a real control plane: Pods are played, everything that Kubernetes itself decides is real."""

from __future__ import annotations

import base64
import collections
import json
import os
import pathlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator

import pytest
import yaml
from click import testing
from cryptography import x509

from controller.cli import main as cli
from penstock.api import crds
from tests.cluster import binaries, control_plane, tools
from tests.support import charts, releases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = pathlib.Path(__file__).parents[3]
MODEL = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "tiny"},
    "spec": {"model": {"name": "tiny"}, "engine": {"kind": "sim"}},
}


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tools.Tools]:
    """kubectl and helm on a control plane of this module's own, empty but for what Kubernetes has."""
    extras = control_plane.Extras(controllers=True, fake_nodes=True)
    try:
        programs = binaries.find(os.environ)
        plane = control_plane.ControlPlane(programs, tmp_path_factory.mktemp("plane"), extras)
        programs.need("helm")
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    try:
        plane.start()
        yield tools.Tools(programs, plane.kubeconfig, tmp_path_factory.mktemp("home"))
    finally:
        plane.stop()


def secret(kube: tools.Tools, name: str) -> dict[str, str]:
    """What a Secret holds."""
    data = kube.get("secret", name)["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def uids(kube: tools.Tools, *kinds: str) -> dict[str, str]:
    """Uids by kind and name of what the release has."""
    found = kube.get(",".join(kinds), "-l", "app.kubernetes.io/part-of=penstock")
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["uid"] for each in found}


def test_a_release_lives_and_leaves_what_is_the_users(kube: tools.Tools, tmp_path: pathlib.Path) -> None:
    """Install, upgrade, roll back, uninstall, install again: workloads come and go, password, data and models stay."""
    here = releases.prepare(kube, "life")
    said = releases.install(here, "pen", chart=str(releases.older(tmp_path)))
    assert "kubectl -n life wait md/tiny" in said and "WARNING: every client" in said
    here.apply(MODEL)
    before = secret(here, "pen-penstock-redis")
    stays = uids(here, "pvc", "service", "secret")

    releases.install(here, "pen", "--set", "gateway.replicas=3", verb="upgrade")
    assert here.get("deployment", "pen-penstock-gateway")["status"]["readyReplicas"] == 3
    assert here.get("networkpolicy", "pen-penstock-redis")
    assert secret(here, "pen-penstock-redis") == before
    assert uids(here, "pvc", "service", "secret") == stays

    here.helm("rollback", "pen", "--wait", "--timeout", "120s")
    assert here.get("deployment", "pen-penstock-gateway")["spec"]["replicas"] == 2
    assert secret(here, "pen-penstock-redis") == before

    here.helm("uninstall", "pen", "--wait")
    assert here.get("deployments,statefulsets,services") == []
    assert [each["metadata"]["name"] for each in here.get("pvc")] == ["data-pen-penstock-redis-0"]
    assert secret(here, "pen-penstock-redis") == before
    assert here.get("md", "tiny")["spec"]["model"]["name"] == "tiny"
    assert len(here.get("crd")) == len(crds.KINDS)
    left = kube.kubectl(
        "get", "clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/part-of=penstock", "-o", "name"
    )
    assert left == ""

    releases.install(here, "pen")
    assert secret(here, "pen-penstock-redis") == before
    here.helm("uninstall", "pen", "--wait")


ROLES = ("clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/instance=pen")


def test_the_first_chart_is_upgraded_and_rolled_back(kube: tools.Tools, tmp_path: pathlib.Path) -> None:
    """From the chart that was first to this one and back: what each lacks goes, what users have and clients ask stays."""
    here = releases.prepare(kube, "first")
    with tarfile.open(releases.FIRST) as archive:
        archive.extractall(tmp_path, filter="data")
    # The first definitions, as one who installed it then has them.
    here.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(tmp_path / "penstock" / "crds"))
    assert not definition_names_gateways(here)
    releases.install(here, "pen", chart=str(releases.FIRST))
    here.apply(MODEL)
    before, stays = secret(here, "pen-penstock-redis"), uids(here, "pvc", "service", "secret", "statefulset")
    policies, roles = names(here, "networkpolicies"), names(kube, *ROLES)
    model = here.get("md", "tiny")["metadata"]["uid"]
    assert "pen-penstock-operator" not in policies and "pen-penstock-operator-cluster-first" not in roles

    releases.install(here, "pen", "--reset-then-reuse-values", verb="upgrade")
    assert names(here, "networkpolicies") - policies == {"pen-penstock-operator"}
    assert names(kube, *ROLES) - roles == {"pen-penstock-operator-cluster-first"}
    assert secret(here, "pen-penstock-redis") == before
    assert uids(here, "pvc", "service", "secret", "statefulset") == stays
    # Jobs are played here; this is the program that the hook's runs.
    env = dict(kube.env()) | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "operators.definitions"], env=env, check=True, capture_output=True)
    assert definition_names_gateways(here)
    here.kubectl(
        "patch", "md/tiny", "--type=merge", "-p", '{"spec": {"gateway": {"parentRefs": [{"name": "shared"}]}}}'
    )

    here.helm("rollback", "pen", "--wait", "--timeout", "120s")
    assert names(here, "networkpolicies") == policies and names(kube, *ROLES) == roles
    for name in ("gateway", "controller", "operator"):
        here.wait("--for=condition=Available", f"deployment/pen-penstock-{name}")
    assert secret(here, "pen-penstock-redis") == before
    assert uids(here, "pvc", "service", "secret", "statefulset") == stays
    left = here.get("md", "tiny")
    assert left["metadata"]["uid"] == model and left["spec"]["gateway"], (
        "the newer definition stays, with what it knows"
    )
    here.helm("uninstall", "pen", "--wait")
    here.kubectl("delete", "md", "tiny")


def names(kube: tools.Tools, *of: str) -> set[str]:
    """Names of objects."""
    return {each["metadata"]["name"] for each in kube.get(*of)}


def definition_names_gateways(kube: tools.Tools) -> bool:
    """Whether the definition has `spec.gateway`, which the first chart's had not."""
    version = kube.get("crd", "modeldeployments.penstock.dev")["spec"]["versions"][0]
    return "gateway" in version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("gateway.tls.mode=selfSigned", "gateway.autoscaling.enabled=true", "monitoring.dashboards.enabled=true",
         "gateway.service.type=NodePort", "gateway.service.nodePort=30080", "gateway.apiKeysSecret=keys"),
        ("redis.bundled.storage.enabled=false", "serviceAccounts.create=false", "networkPolicies.enabled=false"),
    ],
    ids=["default", "more", "less"],
)  # fmt: skip
def test_the_api_server_knows_every_field(kube: tools.Tools, sets: tuple[str, ...]) -> None:
    """Strictly read, no object of the chart has a field that Kubernetes does not know, or a warning."""
    here = releases.prepare(kube, "strict", volumes=0)
    text = yaml.safe_dump_all(charts.template(*sets, namespace="strict"))
    ran = here.run("kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-", given=text)
    assert ran.returncode == 0, ran.stderr
    assert "arning" not in ran.stderr, ran.stderr


@pytest.mark.parametrize(
    ("sets", "kinds"),
    [
        (
            ("monitoring.serviceMonitor.enabled=true", "monitoring.rules.enabled=true", "nodeAgent.enabled=true",
             "nodeAgent.cpus.enabled=false", "gateway.tls.mode=certManager", "gateway.tls.issuer.name=ours"),
            {"ServiceMonitor": 4, "PrometheusRule": 1, "Certificate": 1, "DaemonSet": 1},
        ),
        (
            ("monitoring.podMonitor.enabled=true", "nodeAgent.enabled=true", "nodeAgent.cpus.enabled=false"),
            {"PodMonitor": 4, "DaemonSet": 1},
        ),
    ],
    ids=["service monitors", "pod monitors"],
)  # fmt: skip
def test_the_definitions_of_others_know_every_field(
    kube: tools.Tools, sets: tuple[str, ...], kinds: dict[str, int]
) -> None:
    """Strictly read by the API server with Prometheus Operator's and cert-manager's own definitions."""
    programs = binaries.find(os.environ)
    try:
        for files in ("prometheus-operator", "cert-manager"):
            kube.apply_folder(programs.path(files))
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    for each in ("servicemonitors", "podmonitors", "prometheusrules"):
        kube.wait("--for=condition=Established", f"crd/{each}.monitoring.coreos.com")
    kube.wait("--for=condition=Established", "crd/certificates.cert-manager.io")
    here = releases.prepare(kube, "others", volumes=0)
    objects = charts.template(*sets, namespace="others")
    found = collections.Counter(each["kind"] for each in objects)
    assert {kind: found[kind] for kind in kinds} == kinds
    ran = here.run(
        "kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-", given=yaml.safe_dump_all(objects)
    )
    assert ran.returncode == 0 and "arning" not in ran.stderr, ran.stderr


def test_the_certificate_of_helm_is_kept(kube: tools.Tools) -> None:
    """`selfSigned`: an upgrade does not make clients trust a new CA."""
    here = releases.prepare(kube, "tls")
    releases.install(here, "pen", "--set", "gateway.tls.mode=selfSigned")
    before = secret(here, "pen-penstock-gateway-tls")
    releases.install(here, "pen", "--set", "gateway.tls.mode=selfSigned,gateway.replicas=1", verb="upgrade")
    assert secret(here, "pen-penstock-gateway-tls") == before
    here.helm("uninstall", "pen", "--wait")


def test_the_url_of_redis_goes_where_the_workers_are(kube: tools.Tools) -> None:
    """Made beside them where `fleet` says so, left alone where somebody has copied it there, kept with the release's end."""
    here = releases.prepare(kube, "places")
    for fleet, copied in (("theirs", False), ("copied", True)):
        kube.kubectl("create", "namespace", fleet)
        there = kube.within(fleet)
        if copied:
            there.kubectl("create", "secret", "generic", "pen-penstock-redis", "--from-literal=url=mine")
        for verb in ("install", "upgrade"):
            releases.install(here, "pen", "--set", f"fleet={fleet}", verb=verb)
            url = "mine" if copied else secret(here, "pen-penstock-redis")["url"]
            assert secret(there, "pen-penstock-redis")["url"] == url
        here.helm("uninstall", "pen", "--wait")
        assert secret(there, "pen-penstock-redis")["url"] == url


def rendered_secrets(kube: tools.Tools, *sets: str) -> dict[str, dict[str, str]]:
    """What an upgrade of the chart would write into Secrets, with what it finds in the cluster."""
    command = ["template", "pen", str(charts.CHART), "--dry-run=server", "--is-upgrade"]
    found = yaml.safe_load_all(kube.helm(*command, *(part for each in sets for part in ("--set", each))))
    return {
        each["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in each["data"].items()}
        for each in found
        if each and each["kind"] == "Secret" and "data" in each
    }


def test_a_certificate_of_agents_that_is_gone_is_issued_by_the_same_ca(kube: tools.Tools) -> None:
    """What is there stays, so that workers that run are reached as before; without the CA's key Helm refuses to guess."""
    here = releases.prepare(kube, "agents")
    names = [f"pen-penstock-agent-{each}" for each in ("tls", "client", "ca")]
    own = "agents.tls.mode=selfSigned"
    made = rendered_secrets(here, own)
    assert set(made) == set(names)
    for name, data in made.items():
        here.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
             "stringData": data}
        )  # fmt: skip
    assert rendered_secrets(here, own) == made
    for gone in names[:2]:
        here.kubectl("delete", "secret", gone)
        again = rendered_secrets(here, own)
        assert again[gone]["ca.crt"] == made[gone]["ca.crt"] == again[names[2]]["tls.crt"]
        assert again[gone]["tls.crt"] != made[gone]["tls.crt"]
        certificate = x509.load_pem_x509_certificate(again[gone]["tls.crt"].encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made[names[2]]["tls.crt"].encode()))
        assert {name: again[name] for name in names if name != gone} == {
            name: made[name] for name in names if name != gone
        }
        here.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": gone}, "type": "kubernetes.io/tls",
             "stringData": made[gone]}
        )  # fmt: skip
    here.kubectl("delete", "secret", names[2])
    assert rendered_secrets(here, own) == {name: made[name] for name in names[:2]}
    here.kubectl("delete", "secret", names[1])
    with pytest.raises(AssertionError, match=f"Secret {names[1]} is gone and the CA of {names[0]} was not kept; put"):
        rendered_secrets(here, own)


def test_kustomize_users_get_the_same(kube: tools.Tools) -> None:
    """The steps of docs/install.md without Helm lead to Pods that run."""
    here = releases.prepare(kube, "penstock")
    kube.kubectl(
        "annotate", "storageclass", releases.CLASS, "storageclass.kubernetes.io/is-default-class=true", "--overwrite"
    )
    url, auth = "redis://:p@penstock-redis.penstock.svc:6379/0", "requirepass p"
    here.kubectl(
        "create", "secret", "generic", "penstock-redis", f"--from-literal=url={url}", f"--from-literal=auth.conf={auth}"
    )
    here.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "manifests" / "crds"))
    here.kubectl("apply", "-k", str(ROOT / "manifests"))
    for name in ("gateway", "controller", "operator"):
        here.wait("--for=condition=Available", f"deployment/penstock-{name}")
    here.kubectl("rollout", "status", "statefulset/penstock-redis", "--timeout=60s")
    here.kubectl("delete", "-k", str(ROOT / "manifests"))


def as_account(kube: tools.Tools, account: str, folder: pathlib.Path) -> dict[str, str]:
    """Variables for a process that is to have a ServiceAccount's rights and no others."""
    config = yaml.safe_load(pathlib.Path(kube.env()["KUBECONFIG"]).read_text())
    config["users"] = [{"name": "test", "user": {"token": kube.kubectl("create", "token", account).strip()}}]
    file = folder / f"{account}.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": str(file), "PYTHONPATH": str(ROOT)}


def test_the_job_for_definitions_has_the_rights_for_it(kube: tools.Tools, tmp_path: pathlib.Path) -> None:
    """With the hook's own account, older definitions become those of this version, and one that is missing is made."""
    here = releases.prepare(kube, "jobs")
    hooks = [
        each
        for each in charts.template(release="pen", namespace="jobs")
        if each["kind"] in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")
        and "-crds" in each["metadata"]["name"]
    ]
    assert len(hooks) == 3
    here.apply(*hooks)
    here.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(releases.older(tmp_path) / "crds"))
    # Of a version that did not know it, or by hand.
    here.kubectl("delete", "crd", "tenants.penstock.dev")
    env = as_account(here, "pen-penstock-crds", tmp_path)
    command = [sys.executable, "-m", "operators.definitions"]
    first = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "modeldeployments.penstock.dev: changed" in first.stdout
    assert "tenants.penstock.dev: created" in first.stdout
    spec = here.get("crd", "modeldeployments.penstock.dev")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert "placement" in spec["properties"]["spec"]["properties"]
    second = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert second.stdout.count("unchanged") == len(crds.KINDS), second.stdout
    foreign = subprocess.run(
        ["kubectl", "get", "pods,secrets"],
        env=env | {"PATH": kube.env()["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert foreign.returncode != 0 and foreign.stderr.count("is forbidden") == 2
    here.kubectl("delete", "clusterrole,clusterrolebinding", "pen-penstock-crds-jobs")


def doctor(kube: tools.Tools, *args: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Exit status of `penstock doctor`, and its findings by check: level and message."""
    ran = testing.CliRunner().invoke(cli.main, ["doctor", "--json", *args], env=dict(kube.env()))
    found: dict[str, list[tuple[str, str]]] = {}
    for each in json.loads(ran.output)["findings"]:
        found.setdefault(each["check"], []).append((each["level"], each["message"]))
    return ran.exit_code, found


def test_doctor_sees_what_is_wrong_and_what_is_mended(kube: tools.Tools) -> None:
    """Before the installation, after it, and with a right taken away."""
    here = releases.prepare(kube, "ill")
    status, found = doctor(here, "-n", "ill")
    assert status == 1
    assert found["release"] == [("error", "Penstock is not installed in namespace ill")]

    releases.install(here, "pen")
    status, found = doctor(here, "-n", "ill")
    assert found["definitions"] == [("ok", "6 custom resources, of this version")]
    assert found["rights"][0][0] == "ok", found["rights"]
    assert [level for level, _ in found["release"]] == ["ok"] * 4
    assert ("ok", "Redis keeps its data on a volume") in found["redis"]
    # No operator process runs in a played Pod.
    assert found["operator"] == [("error", "no operator has ever led")]
    assert status == 1

    kube.kubectl("delete", "clusterrolebinding", "pen-penstock-operator-ill")
    _, found = doctor(here, "-n", "ill")
    ((level, message),) = found["rights"]
    assert level == "error" and message.startswith("the operator may not get modeldeployments.penstock.dev, ")
    assert "leases" not in message, "its own Role is still there"
    here.helm("uninstall", "pen", "--wait")
