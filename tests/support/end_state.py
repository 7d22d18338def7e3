"""All that is left of a deployment `m` in a namespace of its own, for comparison with an undisturbed life's."""

from __future__ import annotations

import copy
import json
from typing import Any

from operators import sight
from tests.cluster import api

# Fields that only say when.
_TIMES = ("lastTransitionTime", "progressTime", "canaryTime", "faultTime", "acceleratorSince")

# Workers that are more than one Pod.
_UNITS = (sight.UNIT, sight.SERVED)
_ROUTING = (sight.POOL, sight.ROUTE)


def of(server: api.Api, namespace: str) -> dict[str, Any]:
    """Objects of every kind that an operator makes, whoever owns them, without times, versions and the namespace's name."""

    def every(kind: sight.Kind) -> list[Any]:
        answer = server.get(kind.path(namespace))
        # Of a kind that the cluster may lack.
        found: list[Any] = answer.json()["items"] if answer.is_success or not kind.optional else []
        return sorted(found, key=lambda each: str(each["metadata"]["name"]))

    [deployment] = every(sight.DEPLOYMENT)
    status, uid = copy.deepcopy(deployment["status"]), deployment["metadata"]["uid"]
    for part in (status, status["rollout"], *status["roles"], *status["conditions"]):
        for name in _TIMES:
            part.pop(name, None)
    units = {each["metadata"]["uid"]: each["metadata"] for kind in _UNITS for each in every(kind)}
    for each in every(sight.POD):
        owners = [owner["uid"] for owner in each["metadata"]["ownerReferences"]]
        assert owners == [uid] or units.keys() >= set(owners), each["metadata"]
    for kind in (*_UNITS, sight.REVISION, sight.BUDGET, sight.SERVICE, sight.SLICE, sight.POOL, sight.ROUTE):
        for each in every(kind):
            assert [owner["uid"] for owner in each["metadata"]["ownerReferences"]] == [uid], each["metadata"]
    return {
        "pods": {each["metadata"]["name"]: each["metadata"]["labels"] for each in every(sight.POD)},
        "units": {each["name"]: each["labels"] for each in units.values()},
        "status": status,
        "revisions": [(each["metadata"]["name"], each["revision"]) for each in every(sight.REVISION)],
        "budgets": [(each["metadata"]["name"], each["spec"]) for each in every(sight.BUDGET)],
        "routing": [(each["metadata"]["name"], _without_namespace(each)) for kind in _ROUTING for each in every(kind)],
        "services": [(each["metadata"]["name"], each["spec"]["ports"]) for each in every(sight.SERVICE)],
        "slices": [
            (each["metadata"]["name"], [(one["addresses"], one["conditions"]) for one in each["endpoints"]])
            for each in every(sight.SLICE)
        ],
    }


def _without_namespace(found: Any) -> Any:
    return json.loads(json.dumps(found["spec"]).replace(found["metadata"]["namespace"], "here"))
