"""The chart as helm renders it."""

from __future__ import annotations

import base64
import itertools
import re
import subprocess
from typing import Any

import pytest
import yaml
from cryptography import x509

from controller import settings as controller_settings
from operators import pods, rights
from operators import settings as operator_settings
from penstock.api import crds
from penstock.runtime import settings
from power import settings as node_settings
from router.server import settings as gateway_settings
from tests.support import charts

EVERYTHING = (
    "gateway.tls.mode=selfSigned",
    "gateway.apiKeysSecret=keys",
    "gateway.pickerPort=9002",
    "gateway.autoscaling.enabled=true",
    "nodeAgent.enabled=true",
    "controller.tlsSecret=mtls",
    "agents.tls.mode=selfSigned",
    "monitoring.serviceMonitor.enabled=true",
    "monitoring.rules.enabled=true",
    "monitoring.dashboards.enabled=true",
    'images.pullSecrets=["registry"]',
    'gateway.pods.tolerations=[{"key": "a", "operator": "Exists"}]',
    "bindAddress=::",
)


@pytest.mark.parametrize(
    ("sets", "number"), [((), 6), ((*EVERYTHING, "nodeAgent.cpus.enabled=false"), 7)], ids=["default", "everything"]
)
def test_every_pod_passes_the_restricted_standard(sets: tuple[str, ...], number: int) -> None:
    """Non-root, no escalation, no capability, seccomp, nothing of the host, a root that cannot be written."""
    specs = charts.pod_specs(charts.template(*sets))
    assert len(specs) == number, sorted(specs)
    for name, spec in specs.items():
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] and pod["runAsUser"] > 0 and pod["seccompProfile"]["type"] == "RuntimeDefault", name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert all(set(each) - {"name"} <= {"configMap", "secret", "emptyDir"} for each in spec.get("volumes", ())), (
            name
        )
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"], name


def test_a_node_agent_that_reads_cpus_is_root_and_nothing_more() -> None:
    """User 0 and one folder of the node, read-only; no capability, no escalation, not privileged, no token."""
    spec = charts.pod_specs(charts.template("nodeAgent.enabled=true"))["DaemonSet/rel-penstock-node-agent"]
    [container] = spec["containers"]
    own = container["securityContext"]
    assert own == {
        "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False, "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec) and spec["automountServiceAccountToken"] is False
    [volume] = [each for each in spec["volumes"] if "hostPath" in each]
    assert volume["hostPath"] == {"path": "/sys/devices/virtual", "type": "Directory"}
    [mount] = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
    assert mount["readOnly"] is True
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert mount["mountPath"] == env["PENSTOCK_NODE_SYS_DIR"] + "/devices/virtual"
    assert env["PENSTOCK_NODE_METERS"] == "nvml,rapl" and env["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert spec["tolerations"] == [{"operator": "Exists"}]


def test_a_node_agent_takes_what_it_measures() -> None:
    """Without GPUs no driver's library, without CPUs no root; the runtime class is that of the GPUs."""
    name = "DaemonSet/rel-penstock-node-agent"
    gpus = ("nodeAgent.enabled=true", "nodeAgent.cpus.enabled=false", "nodeAgent.gpus.runtimeClassName=nvidia")
    with_gpus = charts.pod_specs(charts.template(*gpus))[name]
    assert with_gpus["runtimeClassName"] == "nvidia" and not [
        each for each in with_gpus["volumes"] if "hostPath" in each
    ]
    without = charts.pod_specs(charts.template("nodeAgent.enabled=true", "nodeAgent.gpus.enabled=false"))[name]
    assert "runtimeClassName" not in without and "NVIDIA" not in str(without)
    assert [each["value"] for each in without["containers"][0]["env"] if each["name"] == "PENSTOCK_NODE_METERS"] == [
        "rapl"
    ]


def test_no_pod_gets_service_variables() -> None:
    """A Service `penstock-gateway` would set PENSTOCK_GATEWAY_PORT to an URL, which is a setting of ours."""
    for name, spec in charts.pod_specs(charts.template()).items():
        assert spec["enableServiceLinks"] is False, name


def test_only_the_operator_and_the_crd_job_get_a_token() -> None:
    """The others speak to Redis, and have no rights to give away."""
    objects = charts.template()
    accounts = {each["metadata"]["name"]: each for each in objects if each["kind"] == "ServiceAccount"}
    bound = {
        subject["name"]
        for each in objects
        if each["kind"] in ("RoleBinding", "ClusterRoleBinding")
        for subject in each["subjects"]
    }
    assert bound == {"rel-penstock-operator", "rel-penstock-crds"}
    with_token = {
        spec.get("serviceAccountName", "default")
        for spec in charts.pod_specs(objects).values()
        if spec.get(
            "automountServiceAccountToken",
            accounts.get(spec.get("serviceAccountName"), {}).get("automountServiceAccountToken", True),
        )
    }
    assert with_token == bound
    # Nor by another way.
    assert "serviceAccountToken" not in str(objects) and "kubeconfig" not in str(objects).lower()


@pytest.mark.parametrize(
    ("component", "cls"),
    [
        ("gateway", gateway_settings.GatewaySettings),
        ("controller", controller_settings.ControllerSettings),
        ("operator", operator_settings.OperatorSettings),
        ("node", node_settings.NodeSettings),
    ],
)
def test_a_component_takes_the_settings_that_its_pod_has(
    component: str, cls: type[settings.Settings], tmp_path: Any
) -> None:
    """File and environment of the Pod are settings that the component itself accepts."""
    objects = charts.template(
        *EVERYTHING,
        "gateway.settings.limits.max_inflight=5",
        "gateway.settings.policy=least-request",
        'nodeAgent.settings.expect=["nvml"]',
    )
    kind, workload = ("DaemonSet", "node-agent") if component == "node" else ("Deployment", component)
    container = charts.one(objects, kind, workload)["spec"]["template"]["spec"]["containers"][0]
    file = tmp_path / "settings.yaml"
    file.write_text(charts.one(objects, "ConfigMap", f"-{workload}")["data"][f"{component}.yaml"])
    given = {"metadata.name": "pod-0", "status.podIP": "10.0.0.7", "spec.nodeName": "node-1.example"}
    env = {}
    for each in container["env"]:
        source = each.get("valueFrom", {})
        if "fieldRef" in source:
            env[each["name"]] = given[source["fieldRef"]["fieldPath"]]
        else:
            env[each["name"]] = each.get("value", "redis://:secret@redis:6379/0")
    loaded = settings.load(cls, component, file=file, env=env)
    if isinstance(loaded, operator_settings.OperatorSettings):
        assert (loaded.id, loaded.redis_secret, loaded.metrics_port) == ("pod-0", "rel-penstock-redis", 9091)
        assert loaded.lease.name == rights.LEASE
    else:
        assert loaded.namespace == "ns"  # type: ignore[attr-defined]
    if isinstance(loaded, node_settings.NodeSettings):
        assert (loaded.id, loaded.meters, loaded.expect) == ("node-1.example", ["nvml", "rapl"], ["nvml"])
        assert (loaded.metrics_host, loaded.metrics_port) == ("::", 9092)
    if isinstance(loaded, gateway_settings.GatewaySettings):
        assert (loaded.limits.max_inflight, loaded.limits.drain_s, loaded.policy) == (5, 120, "least-request")
        assert (loaded.host, loaded.advertise_host, loaded.port, loaded.admin_port) == ("::", "10.0.0.7", 8080, 8081)


def test_an_operator_of_some_namespaces_has_rights_in_these_only() -> None:
    """With `namespaces` in its settings its main role is bound in each of them, and not in the cluster."""
    objects = charts.template('operator.settings.namespaces=["models", "more"]')
    bindings = [
        each for each in objects if each["kind"].endswith("RoleBinding") and "-operator" in each["metadata"]["name"]
    ]
    found = {(each["kind"], each["metadata"].get("namespace"), each["roleRef"]["name"]) for each in bindings}
    assert found == {
        ("RoleBinding", "models", "rel-penstock-operator-ns"),
        ("RoleBinding", "more", "rel-penstock-operator-ns"),
        ("RoleBinding", "ns", "rel-penstock-operator"),
        ("ClusterRoleBinding", None, "rel-penstock-operator-cluster-ns"),
    }
    wide = charts.one(objects, "ClusterRole", "-operator-cluster-ns")["rules"]
    assert {resource.partition("/")[0] for rule in wide for resource in rule["resources"]} == {
        "nodes",
        *(each.KIND.plural for each in crds.KINDS if not each.KIND.namespaced),
    }


def test_a_gateway_has_the_time_to_stop() -> None:
    """The Pod is killed only after its Services forgot it and its streams had their time."""
    spec = charts.one(charts.template("gateway.preStopSeconds=7", "gateway.drainSeconds=100"), "Deployment", "gateway")[
        "spec"
    ]["template"]["spec"]
    assert spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 7
    assert spec["terminationGracePeriodSeconds"] > 107


def test_ports_probes_and_policies_fit() -> None:
    """Every named port of a probe, Service, monitor or policy is one that a container of the component has."""
    objects = charts.template(*EVERYTHING)
    ports = {}
    workloads = [("Deployment", each) for each in ("gateway", "controller", "operator")]
    for kind, name in (*workloads, ("StatefulSet", "redis"), ("DaemonSet", "node-agent")):
        container = charts.one(objects, kind, name)["spec"]["template"]["spec"]["containers"][0]
        ports[name] = {each["name"] for each in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            how = container[probe].get("httpGet") or container[probe].get("tcpSocket") or container[probe]["grpc"]
            assert how["port"] in ports[name] or isinstance(how["port"], int), (name, probe)
    for each in objects:
        component = each["metadata"]["labels"].get("app.kubernetes.io/component")
        if each["kind"] == "Service":
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports[component]
        if each["kind"] == "NetworkPolicy" and component in ports:
            named = {port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]}
            assert named <= ports[component]


@pytest.mark.parametrize("operator", [True, False])
def test_a_service_monitor_finds_what_serves_metrics(operator: bool) -> None:
    """One for each component that is there, at a headless Service of its own that names the port with the metrics."""
    sets = ("monitoring.serviceMonitor.enabled=true", f"operator.enabled={str(operator).lower()}")
    objects = charts.template(*sets, "monitoring.serviceMonitor.labels.release=prom")
    monitors = [each for each in objects if each["kind"] == "ServiceMonitor"]
    assert len(monitors) == 2 + operator
    for each in monitors:
        component = each["metadata"]["labels"]["app.kubernetes.io/component"]
        assert each["metadata"]["labels"]["release"] == "prom"
        wanted = each["spec"]["selector"]["matchLabels"].items()
        services = [one for one in objects if one["kind"] == "Service" and wanted <= one["metadata"]["labels"].items()]
        [service] = services
        assert service["spec"]["clusterIP"] == "None" and service["metadata"]["name"].endswith(f"{component}-metrics")
        [port] = service["spec"]["ports"]
        [endpoint] = each["spec"]["endpoints"]
        assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")
        pods = charts.one(objects, "Deployment", component)["spec"]["template"]
        assert service["spec"]["selector"].items() <= pods["metadata"]["labels"].items()
        assert pods["metadata"]["annotations"]["prometheus.io/port"] == str(_number(pods, port["targetPort"]))


def test_pod_monitors_need_no_service() -> None:
    """The same components, read from their Pods; both at once would read everything twice."""
    objects = charts.template("monitoring.podMonitor.enabled=true")
    assert len([each for each in objects if each["kind"] == "PodMonitor"]) == 3
    for each in objects:
        if each["kind"] == "PodMonitor":
            component = each["metadata"]["labels"]["app.kubernetes.io/component"]
            pods = charts.one(objects, "Deployment", component)["spec"]["template"]
            assert _number(pods, each["spec"]["podMetricsEndpoints"][0]["port"])
        assert not each["metadata"]["name"].endswith("-metrics")
    with pytest.raises(ValueError, match="everything would be read twice"):
        charts.template("monitoring.podMonitor.enabled=true", "monitoring.serviceMonitor.enabled=true")


def _number(template: dict[str, Any], name: str) -> int:
    """A Pod's port by its name."""
    [container] = template["spec"]["containers"]
    return next(int(each["containerPort"]) for each in container["ports"] if each["name"] == name)


def test_selectors_choose_the_pods_of_their_component() -> None:
    """Services, budgets and policies select what a workload's Pods carry, and nothing of another component."""
    objects = charts.template()
    labels = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]["template"]["metadata"]["labels"]
        for each in objects
        if each["kind"] in ("Deployment", "StatefulSet")
    }
    for each in objects:
        spec = each.get("spec", {})
        wanted = spec.get("selector") if each["kind"] == "Service" else spec.get("selector", {}).get("matchLabels")
        if not wanted or each["kind"] == "Job":
            continue
        matching = [name for name, found in labels.items() if wanted.items() <= found.items()]
        assert matching == [each["metadata"]["labels"]["app.kubernetes.io/component"]], each["metadata"]["name"]


@pytest.mark.parametrize("monitoring", ["[]", '[{"podSelector": {"matchLabels": {"app": "prom"}}}]'])
def test_nothing_but_the_client_port_is_open_to_all(monitoring: str) -> None:
    """Every rule of every policy names peers, but that of the client port; also where nobody reads metrics."""
    objects = charts.template(f"networkPolicies.monitoring={monitoring}")
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    assert len(policies) == 5
    for each in policies:
        assert each["spec"]["policyTypes"] == ["Ingress"]
        for rule in each["spec"]["ingress"]:
            assert rule.get("from") or rule == {"ports": [{"port": "http"}]}, each["metadata"]["name"]


def test_further_peers_reach_workers() -> None:
    """What is given is let through to workers, beside the release's own."""
    given = 'networkPolicies.workers=[{"podSelector": {"matchLabels": {"app": "envoy"}}}]'
    policy = charts.one(charts.template(given), "NetworkPolicy", "-workers")
    assert {"podSelector": {"matchLabels": {"app": "envoy"}}} in policy["spec"]["ingress"][0]["from"]


def test_the_gateways_certificate_names_its_service() -> None:
    """`selfSigned`: the certificate is the CA's, and names the Service and what was added."""
    secret = charts.one(
        charts.template("gateway.tls.mode=selfSigned", 'gateway.tls.dnsNames=["llm.example.com"]'), "Secret", "tls"
    )["data"]
    certificate, ca = (x509.load_pem_x509_certificate(base64.b64decode(secret[name])) for name in ("tls.crt", "ca.crt"))
    certificate.verify_directly_issued_by(ca)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = set(names.get_values_for_type(x509.DNSName))
    assert {"llm.example.com", "rel-penstock-gateway", "rel-penstock-gateway.ns.svc"} <= found


def test_the_endpoint_picker_is_open_where_it_is_asked_for() -> None:
    """With a port the Pod listens, the Service has it and the policy lets it in; without one there is none."""
    with_it = charts.template("gateway.pickerPort=9009", "gateway.tls.mode=selfSigned")
    container = charts.pod_specs(with_it)["Deployment/rel-penstock-gateway"]["containers"][0]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert (env["PENSTOCK_GATEWAY_PICKER__PORT"], env["PENSTOCK_GATEWAY_PICKER__HOST"]) == ("9002", "0.0.0.0")
    assert env["PENSTOCK_GATEWAY_PICKER__TLS_CERT"] == env["PENSTOCK_GATEWAY_TLS_CERT"]
    assert {"name": "picker", "containerPort": 9002} in container["ports"]
    [service] = [
        each for each in with_it if each["kind"] == "Service" and each["metadata"]["name"] == "rel-penstock-gateway"
    ]
    picker = {"name": "picker", "port": 9009, "targetPort": "picker"}
    assert service["spec"]["ports"][1:] == [picker | {"appProtocol": "https"}]
    plain = [each for each in charts.template("gateway.pickerPort=9009") if each["kind"] == "Service"]
    assert picker | {"appProtocol": "kubernetes.io/h2c"} in [port for each in plain for port in each["spec"]["ports"]]
    assert "PICKER" not in str(charts.template())


def test_no_account_and_no_right_is_made_where_none_is_wanted() -> None:
    """With `serviceAccounts.create` off every Pod has the account that is named, that of the upgrade too."""
    objects = charts.template("serviceAccounts.create=false", "serviceAccounts.existing=mine")
    kinds = {each["kind"] for each in objects}
    assert not kinds & {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    accounts = {name: spec.get("serviceAccountName") for name, spec in charts.pod_specs(objects).items()}
    assert {name for name, account in accounts.items() if account != "mine"} <= {"Pod/rel-penstock-test"}
    assert accounts["Job/rel-penstock-crds"] == "mine"


def test_redis_has_one_password() -> None:
    """The generated Secret's URL and the server's own configuration have the same one, and nothing else has it."""
    objects = charts.template()
    secret = charts.one(objects, "Secret", "redis")
    password = secret["stringData"]["password"]
    assert len(password) >= 32
    assert secret["stringData"]["url"] == f"redis://:{password}@rel-penstock-redis.ns.svc:6379/0"
    assert secret["stringData"]["auth.conf"].split() == ["requirepass", password]
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    others = [each for each in objects if each is not secret]
    assert password not in yaml.safe_dump_all(others)


def test_an_external_redis_brings_no_server() -> None:
    """Mode external makes no Redis, and wants the Secret with its URL."""
    with pytest.raises(ValueError, match="existingSecret: mode external needs a Secret"):
        charts.template("redis.mode=external")
    objects = charts.template("redis.mode=external", "redis.existingSecret=mine")
    assert not [each for each in objects if each["metadata"]["name"].endswith("-redis")]
    env = charts.one(objects, "Deployment", "gateway")["spec"]["template"]["spec"]["containers"][0]["env"]
    source = next(each for each in env if each["name"] == "PENSTOCK_GATEWAY_REDIS_URL")["valueFrom"]["secretKeyRef"]
    assert source == {"name": "mine", "key": "url"}


def test_the_ca_of_redis_reaches_everybody_who_speaks_to_it() -> None:
    """Gateways, controllers and operators mount it where the URL names it, and operators pass it on to workers."""
    objects = charts.template("redis.mode=external", "redis.existingSecret=mine", "redis.caSecret=ca")
    for component in ("gateway", "controller", "operator"):
        spec = charts.one(objects, "Deployment", component)["spec"]["template"]["spec"]
        mounts = {each["name"]: each["mountPath"] for each in spec["containers"][0]["volumeMounts"]}
        assert mounts["redis-ca"] == pods.REDIS_CA_FOLDER
        assert {"name": "redis-ca", "secret": {"secretName": "ca"}} in spec["volumes"]
        if component == "operator":
            assert {"name": "PENSTOCK_OPERATOR_REDIS_CA_SECRET", "value": "ca"} in spec["containers"][0]["env"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gateway.replcas=3", "/gateway.*'replcas' not allowed"),
        ("gateway.settings.polcy=x", "/gateway/settings.*'polcy' not allowed"),
        ("gateway.settings.limits.max_inflight=many", "max_inflight.*want integer"),
        ("gateway.settings.redis_url=x", "'redis_url' not allowed"),
        ("gateway.settings.limits.drain_s=5", "'drain_s' not allowed"),
        (
            "nodeAgent.enabled=true,nodeAgent.gpus.enabled=false,nodeAgent.cpus.enabled=false",
            "an agent measures something",
        ),
        ("redis.mode=cluster", "/redis/mode.*'bundled', 'external'"),
        ("gateway.tls.mode=on", "/gateway/tls/mode"),
        ("gateway.service.port=0", "/gateway/service/port"),
        ("redis.bundled.storage.size=lots", "/redis/bundled/storage/size"),
    ],
)
def test_a_wrong_value_is_refused_by_name(given: str, said: str) -> None:
    """An unknown key, or a value that is not allowed, ends the installation with a message that names it."""
    with pytest.raises(ValueError) as refused:
        charts.template(given)
    assert re.search(said, str(refused.value)), refused.value


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "gateway.autoscaling.enabled=true,gateway.autoscaling.minReplicas=20",
            "minReplicas: must be at most maxReplicas",
        ),
        ("gateway.tls.mode=secret", "gateway.tls.secretName: mode secret needs"),
        ("gateway.tls.mode=certManager", "gateway.tls.issuer.name: mode certManager needs"),
        ("gateway.service.nodePort=30080", "gateway.service.nodePort: a Service of type ClusterIP has none"),
        ("redis.mode=external", "redis.existingSecret: mode external needs"),
    ],
)
def test_values_that_do_not_go_together_are_refused(given: str, said: str) -> None:
    """What the schema cannot say is said by name before anything is made."""
    with pytest.raises(ValueError, match=said):
        charts.template(given)


def test_two_releases_share_nothing() -> None:
    """Two releases, in one namespace or in two, have no object of the same kind and name."""
    releases = [("a", "x"), ("b", "x"), ("a", "y")]
    seen = [
        {
            (
                each["kind"],
                "" if each["kind"].startswith("Cluster") else each["metadata"]["namespace"],
                each["metadata"]["name"],
            )
            for each in charts.template(release=release, namespace=namespace)
        }
        for release, namespace in releases
    ]
    for first, second in itertools.combinations(seen, 2):
        assert not first & second


def test_the_test_pod_runs_what_its_image_has() -> None:
    """The program of `helm test` compiles, and its container has what it reads of the environment."""
    pod = charts.one(charts.template("gateway.tls.mode=selfSigned"), "Pod", "-test")
    container = pod["spec"]["containers"][0]
    compile(container["args"][0], "smoke.py", "exec")
    assert {"GATEWAY", "CONTROLLER", "GATEWAY_CA"} <= {each["name"] for each in container["env"]}


def test_helm_itself_finds_nothing() -> None:
    """`helm lint --strict` passes, with the values of kustomize users too."""
    command = [charts.program(), "lint", "--strict", str(charts.CHART)]
    for more in ([], ["--values", str(charts.CHART.parents[1] / "tools" / "chart" / "kustomize-values.yaml")]):
        ran = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_agents_and_controllers_have_certificates_of_one_ca() -> None:
    """Made by Helm: one for every agent, another that controllers show; where anybody reaches controllers they get none."""
    objects = charts.template("agents.tls.mode=selfSigned", "controller.tlsSecret=mtls", "fleet=models")
    agent, client = charts.one(objects, "Secret", "-agent-tls"), charts.one(objects, "Secret", "-agent-client")
    assert agent["data"]["ca.crt"] == client["data"]["ca.crt"]
    assert (agent["metadata"]["namespace"], client["metadata"]["namespace"]) == ("models", "ns")
    names = {}
    for each in (agent, client):
        made = x509.load_pem_x509_certificate(base64.b64decode(each["data"]["tls.crt"]))
        names[each["metadata"]["name"]] = made.subject.rfc4514_string()
    assert names == {"rel-penstock-agent-tls": "CN=penstock-agent", "rel-penstock-agent-client": "CN=penstock-client"}
    assert variable(objects, "operator", "PENSTOCK_OPERATOR_AGENT_TLS_SECRET") == "rel-penstock-agent-tls"
    folder = variable(objects, "controller", "PENSTOCK_CONTROLLER_AGENT_TLS")
    pod = charts.one(objects, "Deployment", "-controller")["spec"]["template"]["spec"]
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == folder]
    assert {"name": mount["name"], "secret": {"secretName": "rel-penstock-agent-client"}} in pod["volumes"]
    opened = charts.template("agents.tls.mode=selfSigned")
    assert variable(opened, "controller", "PENSTOCK_CONTROLLER_AGENT_TLS") is None
    assert variable(charts.template(), "operator", "PENSTOCK_OPERATOR_AGENT_TLS_SECRET") is None
    with pytest.raises(ValueError, match="mode secret needs the name"):
        charts.template("agents.tls.mode=secret")


def variable(objects: list[charts.Object], component: str, name: str) -> str | None:
    """The value of a component's environment variable."""
    pod = charts.one(objects, "Deployment", f"-{component}")["spec"]["template"]["spec"]
    return next((each["value"] for each in pod["containers"][0]["env"] if each["name"] == name), None)


def test_workers_of_another_namespace_have_the_url_of_redis() -> None:
    """The same Secret in both; the server's own settings stay in the release's."""
    found = [
        each
        for each in charts.template("fleet=models", release="rel", namespace="ns")
        if each["kind"] == "Secret" and each["metadata"]["name"] == "rel-penstock-redis"
    ]
    assert [each["metadata"]["namespace"] for each in found] == ["ns", "models"]
    own, theirs = (each["stringData"] for each in found)
    assert own["url"] == theirs["url"] and own["password"] == theirs["password"]
    assert set(own) - set(theirs) == {"auth.conf"}
    assert "@rel-penstock-redis.ns.svc:6379" in own["url"]


def test_workers_pull_with_the_installations_secrets() -> None:
    """The operator is told of them."""
    pod = charts.pod_specs(charts.template('images.pullSecrets=["a", "b"]'))["Deployment/rel-penstock-operator"]
    variables = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert variables["PENSTOCK_OPERATOR_PULL_SECRETS"] == "a,b"
