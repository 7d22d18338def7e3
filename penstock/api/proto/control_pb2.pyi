from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetFleetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Worker(_message.Message):
    __slots__ = ("id", "incarnation", "deployment", "model", "role", "address", "state", "engine", "engine_version", "simulated", "lease_left_s", "running", "waiting", "kv_usage", "kv_blocks", "cached_blocks", "pid", "started_at_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_USAGE_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CACHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    incarnation: int
    deployment: str
    model: str
    role: str
    address: str
    state: str
    engine: str
    engine_version: str
    simulated: bool
    lease_left_s: float
    running: int
    waiting: int
    kv_usage: float
    kv_blocks: int
    cached_blocks: int
    pid: int
    started_at_s: float
    def __init__(self, id: _Optional[str] = ..., incarnation: _Optional[int] = ..., deployment: _Optional[str] = ..., model: _Optional[str] = ..., role: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[str] = ..., engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., simulated: _Optional[bool] = ..., lease_left_s: _Optional[float] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_usage: _Optional[float] = ..., kv_blocks: _Optional[int] = ..., cached_blocks: _Optional[int] = ..., pid: _Optional[int] = ..., started_at_s: _Optional[float] = ...) -> None: ...

class Gateway(_message.Message):
    __slots__ = ("id", "address", "admin_address", "pid", "version", "policy", "lease_left_s", "requests_total", "inflight", "index_blocks", "index_bytes", "endpoints", "degraded", "started_at_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADMIN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_FIELD_NUMBER: _ClassVar[int]
    INDEX_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    INDEX_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    admin_address: str
    pid: int
    version: str
    policy: str
    lease_left_s: float
    requests_total: int
    inflight: int
    index_blocks: int
    index_bytes: int
    endpoints: int
    degraded: _containers.RepeatedScalarFieldContainer[str]
    started_at_s: float
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ..., admin_address: _Optional[str] = ..., pid: _Optional[int] = ..., version: _Optional[str] = ..., policy: _Optional[str] = ..., lease_left_s: _Optional[float] = ..., requests_total: _Optional[int] = ..., inflight: _Optional[int] = ..., index_blocks: _Optional[int] = ..., index_bytes: _Optional[int] = ..., endpoints: _Optional[int] = ..., degraded: _Optional[_Iterable[str]] = ..., started_at_s: _Optional[float] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("id", "version", "lease_left_s", "silent_s", "gpus", "gpu_w", "cpu_w", "degraded", "started_at_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    SILENT_S_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    GPU_W_FIELD_NUMBER: _ClassVar[int]
    CPU_W_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: str
    lease_left_s: float
    silent_s: float
    gpus: int
    gpu_w: float
    cpu_w: float
    degraded: _containers.RepeatedScalarFieldContainer[str]
    started_at_s: float
    def __init__(self, id: _Optional[str] = ..., version: _Optional[str] = ..., lease_left_s: _Optional[float] = ..., silent_s: _Optional[float] = ..., gpus: _Optional[int] = ..., gpu_w: _Optional[float] = ..., cpu_w: _Optional[float] = ..., degraded: _Optional[_Iterable[str]] = ..., started_at_s: _Optional[float] = ...) -> None: ...

class Pool(_message.Message):
    __slots__ = ("role", "wanted", "ready", "starting", "draining")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    STARTING_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    role: str
    wanted: int
    ready: int
    starting: int
    draining: int
    def __init__(self, role: _Optional[str] = ..., wanted: _Optional[int] = ..., ready: _Optional[int] = ..., starting: _Optional[int] = ..., draining: _Optional[int] = ...) -> None: ...

class Deployment(_message.Message):
    __slots__ = ("name", "model", "engine", "policy", "generation", "pools")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    engine: str
    policy: str
    generation: int
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., engine: _Optional[str] = ..., policy: _Optional[str] = ..., generation: _Optional[int] = ..., pools: _Optional[_Iterable[_Union[Pool, _Mapping]]] = ...) -> None: ...

class Controller(_message.Message):
    __slots__ = ("id", "leader", "epoch", "lease_left_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    leader: bool
    epoch: int
    lease_left_s: float
    def __init__(self, id: _Optional[str] = ..., leader: _Optional[bool] = ..., epoch: _Optional[int] = ..., lease_left_s: _Optional[float] = ...) -> None: ...

class Degraded(_message.Message):
    __slots__ = ("component", "reason", "since_s")
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    component: str
    reason: str
    since_s: float
    def __init__(self, component: _Optional[str] = ..., reason: _Optional[str] = ..., since_s: _Optional[float] = ...) -> None: ...

class Fleet(_message.Message):
    __slots__ = ("workers", "gateways", "deployments", "controller", "degraded", "namespace", "version", "nodes")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    gateways: _containers.RepeatedCompositeFieldContainer[Gateway]
    deployments: _containers.RepeatedCompositeFieldContainer[Deployment]
    controller: Controller
    degraded: _containers.RepeatedCompositeFieldContainer[Degraded]
    namespace: str
    version: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ..., gateways: _Optional[_Iterable[_Union[Gateway, _Mapping]]] = ..., deployments: _Optional[_Iterable[_Union[Deployment, _Mapping]]] = ..., controller: _Optional[_Union[Controller, _Mapping]] = ..., degraded: _Optional[_Iterable[_Union[Degraded, _Mapping]]] = ..., namespace: _Optional[str] = ..., version: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: str
    def __init__(self, after: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "kind", "subject", "reason", "at_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    subject: str
    reason: str
    at_s: float
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., subject: _Optional[str] = ..., reason: _Optional[str] = ..., at_s: _Optional[float] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("deployment_json",)
    DEPLOYMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    deployment_json: str
    def __init__(self, deployment_json: _Optional[str] = ...) -> None: ...

class ApplyResponse(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("deployment", "role", "replicas")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    role: str
    replicas: int
    def __init__(self, deployment: _Optional[str] = ..., role: _Optional[str] = ..., replicas: _Optional[int] = ...) -> None: ...

class ScaleResponse(_message.Message):
    __slots__ = ("previous", "replicas")
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    previous: int
    replicas: int
    def __init__(self, previous: _Optional[int] = ..., replicas: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("worker", "replace", "timeout_s")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    worker: str
    replace: bool
    timeout_s: float
    def __init__(self, worker: _Optional[str] = ..., replace: _Optional[bool] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: str
    def __init__(self, state: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("gateway", "decision_json")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    DECISION_JSON_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    decision_json: str
    def __init__(self, gateway: _Optional[str] = ..., decision_json: _Optional[str] = ...) -> None: ...
