"""Roll-outs on a real API server, with `penstock rollout` as a user calls it."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from typing import Any

import pytest
from click import testing

from controller.cli import rollout as command
from operators import deployments, pods, sight
from operators.policy import rollout as policy
from penstock.api import types
from tests.cluster import api
from tests.support.stage import Stage

ANSWERS_NOT = {"name": "worker", "image": "x", "imageID": "", "ready": False, "restartCount": 4, "started": False}


class Person:
    """Somebody with a kubeconfig."""

    def __init__(self, stage: Stage, access: api.Access, folder: pathlib.Path) -> None:
        self._file = folder / "kubeconfig"
        self._file.write_text(access.kubeconfig())
        self._stage = stage

    async def calls(self, *arguments: str) -> tuple[int, str]:
        """Exit status and what it prints."""
        argv = [*arguments, "m", "-n", self._stage.namespace, "--kubeconfig", str(self._file)]
        done = await asyncio.to_thread(testing.CliRunner().invoke, command.rollout, argv)
        return done.exit_code, done.output


async def play(stage: Stage, *, sick: str = "", passes: int = 25) -> int:
    """Passes with a kubelet and agents beside; workers of the revision `sick` crash. The most Pods that were there."""
    most = 0
    for _ in range(passes):
        await stage.once()
        found = stage.pods()
        most = max(most, len(found))
        known = {each.record.id: each.record for each in await stage.registry.snapshot()}
        for name, pod in found.items():
            if sick and pod["metadata"]["labels"][pods.REVISION_LABEL] == sick:
                stage.pod_says(name, "Running", containerStatuses=[ANSWERS_NOT])
            elif name in known and known[name].state is types.WorkerState.DRAINING:
                await stage.registry.deregister(name, known[name].incarnation)
            elif name not in known and pods.DRAIN_ANNOTATION not in pod["metadata"].get("annotations", {}):
                await stage.serve(name)
        for name in set(known) - set(found):
            await stage.registry.deregister(name, known[name].incarnation)
        await stage.clock.advance(1)
    return most


def image(stage: Stage, name: str) -> None:
    """Another image of the workers."""
    change = {"spec": {"engine": {"kind": "sim", "image": name}}}
    assert stage.server.merge(sight.DEPLOYMENT.path(stage.namespace, "m"), change).is_success


def images(stage: Stage) -> list[str]:
    """Images of the workers that are there."""
    return sorted(each["spec"]["containers"][0]["image"] for each in stage.pods().values())


@pytest.fixture
def person(stage: Stage, access: api.Access, tmp_path: pathlib.Path) -> Person:
    """With a kubeconfig of the test's server."""
    return Person(stage, access, tmp_path)


async def test_a_change_and_its_undo(stage: Stage, person: Person) -> None:
    """Every worker gets the new image within the surge; the history shows both; undo brings the first one back."""
    stage.create(replicas=3, engine={"kind": "sim", "image": "one"})
    await play(stage, passes=4)
    image(stage, "two")
    assert (await person.calls("status"))[0] == 4
    assert await play(stage) == 4
    assert images(stage) == ["two"] * 3
    code, text = await person.calls("status")
    assert code == 0 and text.startswith("Complete")
    code, text = await person.calls("history")
    assert code == 0 and "one" in text and "specified, serving" in text
    code, text = await person.calls("undo")
    assert code == 0, text
    assert await play(stage) == 4
    assert images(stage) == ["one"] * 3
    status = stage.deployment()["status"]
    assert status["revision"] == status["updateRevision"] and status["rollout"]["phase"] == "Complete"
    assert len(stage.server.get(sight.REVISION.path(stage.namespace)).json()["items"]) == 2
    assert "RolloutComplete" in stage.events()


async def test_a_change_that_fails_is_rolled_back(stage: Stage, person: Person) -> None:
    """Crashing workers end the roll-out; the old ones never stopped serving; the same revision is not tried again."""
    stage.create(replicas=3, engine={"kind": "sim", "image": "one"})
    await play(stage, passes=4)
    serving = set(stage.pods())
    image(stage, "bad")
    await stage.once()
    bad = stage.deployment()["status"]["updateRevision"]
    await play(stage, sick=bad)
    assert images(stage) == ["one"] * 3 and serving <= set(stage.pods())
    condition = stage.condition("Progressing")
    assert (condition["status"], condition["reason"]) == ("False", "RolloutRolledBack")
    assert "has been started 5 times" in condition["message"]
    assert stage.ready()["status"] == "True"
    code, text = await person.calls("status")
    assert code == 1 and text.startswith("RolledBack")
    assert "rejected" in (await person.calls("history"))[1]
    assert stage.events().count("RolloutRolledBack") == 1
    assert (await person.calls("undo"))[0] == 0
    await play(stage, passes=3)
    assert stage.deployment()["spec"]["engine"]["image"] == "one"
    assert stage.condition("Progressing")["reason"] == "RolloutComplete"


async def test_undo_goes_to_what_has_served(stage: Stage, person: Person) -> None:
    """Not to a revision that was rolled back, and not to the one that was undone before."""
    stage.create(replicas=1, engine={"kind": "sim", "image": "one"})
    await play(stage, passes=4)
    image(stage, "bad")
    await stage.once()
    await play(stage, sick=stage.deployment()["status"]["updateRevision"])
    image(stage, "three")
    await play(stage)
    assert images(stage) == ["three"]
    assert (await person.calls("undo"))[0] == 0
    await play(stage)
    assert images(stage) == ["one"]
    image(stage, "four")
    await play(stage)
    assert (await person.calls("undo"))[0] == 0
    await play(stage)
    assert images(stage) == ["one"]


async def test_in_place_needs_no_other_hardware(stage: Stage) -> None:
    """The new worker comes when the old one's Pod has gone: never more Pods than wanted."""
    stage.create(replicas=2, rollout={"strategy": "InPlace", "maxUnavailable": 1})
    await play(stage, passes=4)
    image(stage, "two")
    assert await play(stage) == 2
    assert images(stage) == ["two", "two"]


async def test_a_restart_is_a_roll_out(stage: Stage, person: Person) -> None:
    """The same specification with new Pods, one after the other."""
    stage.create(replicas=2)
    await play(stage, passes=4)
    before = {each["metadata"]["uid"] for each in stage.pods().values()}
    assert (await person.calls("restart"))[0] == 0
    assert await play(stage) == 3
    assert not before & {each["metadata"]["uid"] for each in stage.pods().values()}


async def test_a_canary_is_held_without_data(stage: Stage) -> None:
    """With latency targets and no request, the canary stays, and the condition says what to do."""
    targets: list[Any] = [{"name": "chat", "ttft": "500ms"}]
    stage.create(replicas=4, sloClasses=targets, rollout={"canary": {"percent": 25, "watchFor": "10s"}})
    await play(stage, passes=4)
    image(stage, "two")
    await play(stage, passes=40)
    assert len([each for each in images(stage) if each == "two"]) == 1
    assert "too few requests" in stage.condition("Progressing")["message"]


async def test_what_is_not_there_is_said(stage: Stage, person: Person) -> None:
    """A wrong name or revision is wrong use, with what there is."""
    code, text = await person.calls("status")
    assert code == 2 and "there is no ModelDeployment m" in text
    stage.create()
    await stage.once()
    code, text = await person.calls("undo", "--to", "7")
    assert code == 2 and "revision 7 is not kept; there are: 1 (" in text
    code, text = await person.calls("undo")
    assert code == 2 and "no revision before" in text


def test_a_cluster_that_is_away_has_its_own_exit_status(tmp_path: pathlib.Path) -> None:
    """3, as for the other commands."""
    away = api.Access("https://127.0.0.1:1", "", "x").kubeconfig()
    file = tmp_path / "kubeconfig"
    file.write_text(away.replace("certificate-authority-data: ''", "insecure-skip-tls-verify: true"))
    done = testing.CliRunner().invoke(command.rollout, ["status", "m", "--kubeconfig", str(file)])
    assert done.exit_code == 3, done.output


async def test_worse_latencies_roll_back(stage: Stage) -> None:
    """A canary whose latencies are worse is taken back, and the rest never saw it."""
    verdict = deployments.Unknowing()
    stage.reconciler = stage.another(verdicts=verdict)
    targets: list[Any] = [{"name": "chat", "ttft": "500ms"}]
    stage.create(replicas=4, sloClasses=targets, rollout={"canary": {"percent": 25, "watchFor": "1h"}})
    await play(stage, passes=4)
    image(stage, "two")
    await play(stage, passes=10)
    assert sorted(set(images(stage))) != ["penstock:test"]
    verdict.verdict = policy.Verdict.WORSE
    await play(stage)
    assert images(stage) == ["penstock:test"] * 4
    assert "latencies are worse" in stage.condition("Progressing")["message"]


async def test_an_upgrade_of_the_operator_restarts_no_engine(stage: Stage, person: Person) -> None:
    """Workers with the default image of before go on and are counted; a restart of the roll-out brings the new one to all."""
    stage.create(replicas=2)
    await play(stage, passes=4)
    before = set(stage.pods())
    assert all(each["type"] != "UpToDate" for each in stage.deployment()["status"]["conditions"])
    stage.host = dataclasses.replace(stage.host, image="penstock:newer")
    stage.reconciler = stage.another()
    await play(stage, passes=3)
    assert set(stage.pods()) == before and images(stage) == ["penstock:test"] * 2
    said = stage.condition("UpToDate")
    assert (said["status"], said["reason"], stage.deployment()["status"]["olderImages"]) == ("False", "OlderImages", 2)
    restart = f"penstock rollout restart m -n {stage.namespace}"
    assert said["message"] == f"2 of 2 workers run penstock:test in place of penstock:newer -> {restart}"
    assert stage.ready()["status"] == "True" and stage.events().count("OlderImages") == 1
    stage.scale(3)
    await play(stage, passes=3)
    assert "2 of 3 workers" in stage.condition("UpToDate")["message"], "a worker that comes has the new one"
    assert (await person.calls("restart"))[0] == 0
    await play(stage)
    assert images(stage) == ["penstock:newer"] * 3
    assert stage.condition("UpToDate")["status"] == "True" and not stage.deployment()["status"].get("olderImages")


async def test_images_of_a_mirror_are_not_older(stage: Stage) -> None:
    """Where an admission has put a mirror's name before images, workers are still judged by what they were made with."""
    stage.create(1)
    await stage.once()
    [(name, pod)] = stage.pods().items()
    containers = [each | {"image": f"mirror.local/{each['image']}"} for each in pod["spec"]["containers"]]
    path = sight.POD.path(stage.namespace, name)
    assert stage.server.merge(path, {"spec": {"containers": containers}}).is_success
    for image, older in (("penstock:test", 0), ("penstock:newer", 1)):
        stage.host = dataclasses.replace(stage.host, image=image)
        stage.reconciler = stage.another()
        await stage.once()
        assert images(stage) == ["mirror.local/penstock:test"]
        assert stage.deployment()["status"].get("olderImages", 0) == older, image


async def test_an_image_of_the_users_is_not_older(stage: Stage) -> None:
    """Only agent and download follow the operator where the engine has an image of its own; a vLLM without one does too."""
    hub = {"name": "tiny", "source": {"hub": {"repo": "org/model"}}}
    stage.create(1, engine={"kind": "vllm", "image": "mine:1"}, model=hub)
    await stage.once()
    for change, older in (({"vllm_image": "vllm:newer"}, 0), ({"image": "penstock:newer"}, 1)):
        stage.host = dataclasses.replace(stage.host, **change)
        stage.reconciler = stage.another()
        await stage.once()
        await stage.once()
        assert stage.deployment()["status"].get("olderImages", 0) == older, change
