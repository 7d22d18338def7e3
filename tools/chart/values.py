"""The values of the Helm chart: the one source of values.yaml, values.schema.json and the table in docs/install.md.

Names are those of Helm charts (camel case). Every field has a default and a description.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Name = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$")]
Image = Annotated[str, Field(pattern=r"^\S*$")]
Object = dict[str, Any]


class Values(pydantic.BaseModel):
    """Base: unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid")


class Amounts(Values):
    """CPU and memory."""

    cpu: Quantity | None = Field(None, description="CPUs")
    memory: Quantity | None = Field(None, description="Memory")


class Resources(Values):
    """What the container asks for, and its limits."""

    requests: Amounts = Field(Amounts(), description="Asked for")
    limits: Amounts = Field(Amounts(), description="Limits")


def resources(cpu: str, memory: str, limit: str) -> Resources:
    """CPU has no limit by default: throttling would show in the latency of other requests."""
    return Resources(requests=Amounts(cpu=cpu, memory=memory), limits=Amounts(memory=limit))


class Images(Values):
    """Where the images are. There is no public registry of them: images/README.md says how to build them."""

    registry: Image = Field(
        "", description="Put before the names of the project's images, as `registry.example.com/ai`"
    )
    tag: str = Field("", description="Tag of the project's images; empty: the chart's appVersion")
    single: Image = Field("", description="One image for all components, with its tag, in place of one each")
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="When images are pulled")
    pullSecrets: list[Name] = Field(
        [],
        description="Names of Secrets for the registry; needed in each namespace with workers, whose Pods name them too",
    )


class Pods(Values):
    """What every component's Pods take."""

    annotations: dict[str, str] = Field({}, description="Annotations of the Pods")
    labels: dict[str, str] = Field({}, description="Labels of the Pods")
    nodeSelector: dict[str, str] = Field({}, description="Labels of the nodes that they may run on")
    tolerations: list[Object] = Field([], description="Taints that they tolerate")
    affinity: Object = Field({}, description="Affinity")
    priorityClassName: Name = Field("", description="Priority class")


class Autoscaling(Values):
    """A HorizontalPodAutoscaler in place of the fixed number; needs the resource metrics API."""

    enabled: bool = Field(False, description="Whether the number follows the CPU that they use")
    minReplicas: int = Field(2, ge=1, description="Least number")
    maxReplicas: int = Field(10, ge=1, description="Most")
    targetCPUPercent: int = Field(60, ge=1, le=100, description="CPU used, of what is asked for, percent")


class DisruptionBudget(Values):
    """How many of them may be away at once when nodes are drained."""

    enabled: bool = Field(True, description="Whether there is a PodDisruptionBudget")
    maxUnavailable: int = Field(1, ge=0, description="Most that may be away")


class Service(Values):
    """The Service of the client port."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field("ClusterIP", description="Type")
    port: int = Field(80, ge=1, le=65535, description="Port")
    nodePort: int | None = Field(None, ge=1, le=65535, description="Port on the nodes, for type NodePort")
    annotations: dict[str, str] = Field({}, description="Annotations, as load balancers want them")


class Issuer(Values):
    """The cert-manager issuer."""

    name: Name = Field("", description="Name")
    kind: Literal["Issuer", "ClusterIssuer"] = Field("ClusterIssuer", description="Kind")
    group: str = Field("cert-manager.io", description="API group")


class Tls(Values):
    """TLS of the client port."""

    mode: Literal["off", "secret", "certManager", "selfSigned"] = Field(
        "off",
        description="`secret`: yours; `certManager`: a Certificate; `selfSigned`: by a CA that Helm makes and keeps",
    )
    secretName: Name = Field("", description="Secret of type kubernetes.io/tls, for mode `secret`")
    issuer: Issuer = Field(Issuer(), description="For mode `certManager`")
    dnsNames: list[str] = Field([], description="Names in the certificate, beside those of the Service")


class Gateway(Values):
    """The gateways: where clients send OpenAI requests."""

    replicas: int = Field(2, ge=0, description="Number of gateways, without autoscaling")
    autoscaling: Autoscaling = Field(Autoscaling(), description="Number by load")
    image: Image = Field("", description="Image, in place of the one that `images` gives")
    service: Service = Field(Service(), description="Service of the client port")
    tls: Tls = Field(Tls(), description="TLS of the client port")
    pickerPort: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of the endpoint picker (ext_proc), such as 9002; 0: none. With TLS where the client port has it",
    )
    apiKeysSecret: Name = Field(
        "", description="Secret whose key `keys` holds `tenant: sha256-of-key` lines; empty lets every client in"
    )
    testKeySecret: Name = Field(
        "",
        description="Secret whose key `key` holds an API key for `helm test`; empty: where keys are needed it asks nothing",
    )
    settings: Object = Field({}, description="Settings of the gateway, as in docs/configuration.md")
    preStopSeconds: int = Field(
        10, ge=1, le=300, description="Time for Services and load balancers to forget a stopping gateway, s"
    )
    drainSeconds: int = Field(120, ge=0, description="Time for streams to end after that, s")
    resources: Resources = Field(resources("500m", "512Mi", "2Gi"), description="Resources")
    disruptionBudget: DisruptionBudget = Field(DisruptionBudget(), description="PodDisruptionBudget")
    spreadOver: list[str] = Field(
        ["kubernetes.io/hostname", "topology.kubernetes.io/zone"],
        description="Labels of nodes over whose values gateways are spread, where possible",
    )
    pods: Pods = Field(Pods(), description="Placement and labels of the Pods")


class Controller(Values):
    """The controllers: status, gRPC API, calibration. One leads."""

    replicas: int = Field(2, ge=0, description="Number of controllers; more than one stand by")
    image: Image = Field("", description="Image, in place of the one that `images` gives")
    tlsSecret: Name = Field(
        "",
        description="Secret with tls.crt, tls.key and ca.crt: gRPC over TLS, for clients with a certificate of that CA",
    )
    settings: Object = Field({}, description="Settings of the controller, as in docs/configuration.md")
    resources: Resources = Field(resources("100m", "192Mi", "512Mi"), description="Resources")
    disruptionBudget: DisruptionBudget = Field(DisruptionBudget(), description="PodDisruptionBudget")
    pods: Pods = Field(Pods(), description="Placement and labels of the Pods")


class AgentTls(Values):
    """Certificates of the agents beside engines, and of who speaks to them."""

    mode: Literal["off", "secret", "selfSigned"] = Field(
        "off",
        description="`secret`: yours; `selfSigned`: by a CA that Helm makes and keeps; `off`: agents have no gRPC API",
    )
    secretName: Name = Field(
        "",
        description="Mode `secret`: Secret in each namespace with workers: tls.crt (for `penstock-agent`), tls.key, ca.crt",
    )
    clientSecretName: Name = Field(
        "", description="Mode `secret`: Secret with tls.crt (of another name), tls.key, ca.crt for controllers"
    )


class Agents(Values):
    """The agents beside engines: `penstock drain` asks them over gRPC."""

    tls: AgentTls = Field(AgentTls(), description="Certificates of their gRPC API, which is never without")


class Operator(Values):
    """The operators: they act on the custom resources. One leads."""

    enabled: bool = Field(True, description="Whether this release has an operator. A cluster needs one")
    replicas: int = Field(2, ge=0, description="Number of operators; more than one stand by")
    image: Image = Field("", description="Image, in place of the one that `images` gives")
    workerImage: Image = Field(
        "", description="Image of simulated workers and agents, in place of the one that `images` gives"
    )
    settings: Object = Field({}, description="Settings of the operator, as in docs/configuration.md")
    resources: Resources = Field(resources("200m", "256Mi", "1Gi"), description="Resources")
    disruptionBudget: DisruptionBudget = Field(DisruptionBudget(), description="PodDisruptionBudget")
    pods: Pods = Field(Pods(), description="Placement and labels of the Pods")


class NodeGpus(Values):
    """GPUs of the node, by NVML: the NVIDIA container toolkit brings the driver's library into the Pod."""

    enabled: bool = Field(True, description="Whether they are measured")
    runtimeClassName: Name = Field(
        "",
        description="Runtime class that brings the driver's library, on nodes that `pods.nodeSelector` names; empty: the "
        "nodes' default runtime does",
    )


class NodeCpus(Values):
    """CPU packages and their memory, by Linux' powercap."""

    enabled: bool = Field(
        True,
        description="Whether they are measured. It takes user 0 in the Pod, as Linux shows these counters to no other, and the "
        "node's /sys/devices/virtual, read-only; no capability, and not privileged. A namespace with Pod Security `baseline` "
        "or `restricted` refuses it",
    )


class NodeAgent(Values):
    """The agent of each node: it measures what the node draws."""

    enabled: bool = Field(False, description="Whether this release has them")
    image: Image = Field("", description="Image, in place of the one that `images` gives")
    gpus: NodeGpus = Field(NodeGpus(), description="GPUs")
    cpus: NodeCpus = Field(NodeCpus(), description="CPUs and their memory")
    maxUnavailable: int = Field(
        10, ge=1, le=100, description="Share of the nodes whose agents are replaced at once in an upgrade, percent"
    )
    settings: Object = Field({}, description="Settings of the agent, as in docs/configuration.md")
    resources: Resources = Field(resources("20m", "64Mi", "128Mi"), description="Resources")
    pods: Pods = Field(Pods(tolerations=[{"operator": "Exists"}]), description="Placement and labels of the Pods")


class Storage(Values):
    """Where the bundled Redis keeps its data."""

    enabled: bool = Field(
        True, description="A volume that outlives the Pod; without it a restart begins empty, and heals"
    )
    size: Quantity = Field("2Gi", description="Size")
    className: Name = Field("", description="StorageClass; empty: the cluster's default")


class BundledRedis(Values):
    """A Redis of the release's own: one Pod, persistent, with a password."""

    image: Image = Field("docker.io/library/redis:7.2-alpine", description="Image; any Redis or Valkey from 6.2 on")
    command: list[str] = Field(["redis-server"], description="The server in that image; the configuration is added")
    storage: Storage = Field(Storage(), description="Volume")
    resources: Resources = Field(resources("100m", "128Mi", "1Gi"), description="Resources")
    pods: Pods = Field(Pods(), description="Placement and labels of the Pods")


class Redis(Values):
    """What gateways, controllers, operators and workers meet in."""

    mode: Literal["bundled", "external"] = Field("bundled", description="A Redis of this release, or one of yours")
    existingSecret: Name = Field(
        "",
        description="Secret with key `url` (one Redis, Sentinels or a cluster), needed for mode external; "
        "for `bundled` also `auth.conf`: `requirepass PASSWORD`",
    )
    caSecret: Name = Field(
        "", description="Secret with key `ca.crt`, for a URL with `?ssl_ca_certs=/etc/penstock-redis-ca/ca.crt`"
    )
    bundled: BundledRedis = Field(BundledRedis(), description="For mode `bundled`")


class Monitor(Values):
    """How Prometheus Operator finds what to read."""

    enabled: bool = Field(False, description="Whether to make it; needs its CRD")
    interval: str = Field("15s", pattern=r"^[0-9]+(ms|s|m)$", description="How often metrics are read")
    labels: dict[str, str] = Field({}, description="Labels by which a Prometheus chooses it")


class ServiceMonitor(Monitor):
    """Prometheus Operator's ServiceMonitor, and the Service that it looks at."""

    port: int = Field(9090, ge=1, le=65535, description="Port of the headless Services; Pods are asked on their own")


class Rules(Values):
    """Prometheus Operator's PrometheusRule."""

    enabled: bool = Field(False, description="Whether to make it; needs its CRD")
    labels: dict[str, str] = Field({}, description="Labels by which a Prometheus chooses it")


class Dashboards(Values):
    """Dashboards of Grafana, in a ConfigMap that its sidecar finds."""

    enabled: bool = Field(False, description="Whether to make it")
    labels: dict[str, str] = Field({"grafana_dashboard": "1"}, description="Labels by which the sidecar finds it")


class Monitoring(Values):
    """For Prometheus and Grafana. Without these, Pods carry prometheus.io annotations only."""

    serviceMonitor: ServiceMonitor = Field(
        ServiceMonitor(),
        description="ServiceMonitors of gateways, controllers, operators and node agents, with a headless Service each",
    )
    podMonitor: Monitor = Field(Monitor(), description="PodMonitors of the same in their place: no Services are made")
    rules: Rules = Field(Rules(), description="Alerts")
    dashboards: Dashboards = Field(Dashboards(), description="Dashboards")


class Crds(Values):
    """The custom resource definitions. Helm installs them once and never changes or removes them."""

    upgrade: bool = Field(
        True,
        description="A Job before each upgrade applies those of the new version; it alone may change them. With "
        "`operator.enabled: false` there is none, unless `withoutOperator` says so: a cluster has one set of definitions, "
        "and it is of the release whose operator reads them",
    )
    withoutOperator: bool = Field(
        False,
        description="The Job also where `operator.enabled` is false: for a release that only brings definitions. Beside "
        "another release's operator, an older chart would take its definitions back",
    )


_PROMETHEUS: Object = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
}


class NetworkPolicies(Values):
    """Only those who need it reach Redis, controllers, admin ports and workers, where the network enforces it."""

    enabled: bool = Field(True, description="Whether to make them")
    monitoring: list[Object] = Field([_PROMETHEUS], description="Peers that read metrics")
    workers: list[Object] = Field(
        [], description="Peers that may reach workers beside gateways, controllers and KubeRay: other gateways, say"
    )


class ServiceAccounts(Values):
    """Accounts and rights."""

    create: bool = Field(True, description="Whether to make ServiceAccounts, Roles and their bindings")
    existing: Name = Field(
        "default",
        description="Account of all Pods where none are made; it needs the operator's rights, and those to get and patch the "
        "definitions for an upgrade",
    )
    annotations: dict[str, str] = Field({}, description="Annotations of the accounts")


class Chart(Values):
    """All values of the chart."""

    nameOverride: Name = Field("", description="In place of the chart's name in names of objects")
    fullnameOverride: Name = Field("", description="In place of release and chart in names of objects")
    fleet: Name = Field(
        "",
        description="Kubernetes namespace whose models the gateways serve, and the fleet's name in Redis; empty: the release's",
    )
    bindAddress: Literal["0.0.0.0", "::"] = Field("0.0.0.0", description="Address that servers listen on in their Pods")
    images: Images = Field(Images(), description="Images of the project")
    gateway: Gateway = Field(Gateway(), description="Gateways")
    controller: Controller = Field(Controller(), description="Controllers")
    operator: Operator = Field(Operator(), description="Operators")
    agents: Agents = Field(Agents(), description="Agents of workers")
    nodeAgent: NodeAgent = Field(NodeAgent(), description="Agents of nodes")
    redis: Redis = Field(Redis(), description="Redis")
    networkPolicies: NetworkPolicies = Field(NetworkPolicies(), description="Who may reach what")
    serviceAccounts: ServiceAccounts = Field(ServiceAccounts(), description="Accounts and rights")
    monitoring: Monitoring = Field(Monitoring(), description="Prometheus and Grafana")
    crds: Crds = Field(Crds(), description="Custom resource definitions")
