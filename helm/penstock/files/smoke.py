"""`helm test`: a gateway is there and, where a model is served, answers a request; the controller says it is healthy."""

import json
import os
import socket
import ssl
import sys
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

GATEWAY, CONTROLLER = os.environ["GATEWAY"], os.environ["CONTROLLER"]
CA = os.environ.get("GATEWAY_CA")
CONTEXT = None
if CA and os.path.exists(CA):
    CONTEXT = ssl.create_default_context(cafile=CA)
elif CA:
    print("the Secret has no ca.crt: the gateway's certificate is not checked")
    CONTEXT = ssl._create_unverified_context()


def ask(path, body=None):
    """Status and body of an answer."""
    request = urllib.request.Request(GATEWAY + path, json.dumps(body).encode() if body else None)
    request.add_header("Content-Type", "application/json")
    if key := os.environ.get("API_KEY", "").strip():
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=60, context=CONTEXT) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        return exc.code, json.loads(exc.read() or b"{}")


status, body = ask("/readyz?exclude=endpoints")
print(f"gateway {GATEWAY}: {status} {body}")
if status != 200:
    sys.exit(1)
if os.environ.get("CONTROLLER_TLS"):
    # It asks for a certificate of a CA of yours, of which this Pod has none.
    host, _, port = CONTROLLER.rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()
    print(f"controller {CONTROLLER}: listens; its clients need a certificate, so its health is not asked for")
else:
    with grpc.insecure_channel(CONTROLLER) as channel:
        served = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status
    print(f"controller {CONTROLLER}: {health_pb2.HealthCheckResponse.ServingStatus.Name(served)}")
    if served != health_pb2.HealthCheckResponse.SERVING:
        sys.exit(1)
status, body = ask("/v1/models")
if status == 401 and os.environ.get("API_KEY"):
    print("the key of gateway.testKeySecret is none of gateway.apiKeysSecret")
    sys.exit(1)
if status == 401:
    print("API keys are on: no request is sent (gateway.testKeySecret names one)")
    sys.exit(0)
models = [each["id"] for each in body["data"] if each["endpoints"]]
if not models:
    print("no model is served yet: nothing to ask. Apply a ModelDeployment and run `helm test` again")
    sys.exit(0)
status, body = ask(
    "/v1/chat/completions",
    {"model": models[0], "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 8},
)
print(f"{models[0]}: {status} {json.dumps(body)[:400]}")
# A model that thinks first may have said nothing yet.
sys.exit(0 if status == 200 and body.get("usage", {}).get("completion_tokens") else 1)
