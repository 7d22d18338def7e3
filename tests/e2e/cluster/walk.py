"""`python -m tests.e2e.cluster.walk FILE`: walks through an installation as a new user would, breaks it five times, mends it.

Everything is really run, on two real nodes; what was said is written to FILE (docs/walkthrough.md). Nothing is made up.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import yaml

from controller.doctor import pods as states
from tests.cluster import binaries, tools
from tests.cluster.node import image, layers, session, storage
from tests.e2e.cluster import installed
from tests.support import examples

_HEAD = """# A walk through an installation

Install, serve a model, break five things on purpose, and mend each with what the tools say. Everything below was run by
`python -m tests.e2e.cluster.walk`, on two real nodes; long output is cut where `...` stands, and nothing else is changed.
The values of this machine (one local image for all components, little asked for) are in `values.yaml`.
"""


@dataclasses.dataclass
class Walk:
    """What is done, and the page of it."""

    kube: tools.Tools
    folder: pathlib.Path
    page: list[str] = dataclasses.field(default_factory=lambda: [_HEAD])

    def say(self, text: str) -> None:
        """Words between commands."""
        self.page.append(f"\n{text}\n")

    def run(self, command: str, *, keep: str = "", lines: int = 30, timeout_s: float = 240) -> str:
        """One command of a shell, with its output; of that the lines that match `keep`. Its exit status where it is not 0."""
        env = {**os.environ, **self.kube.env(), "COLUMNS": "140"}
        env["PATH"] = f"{layers.ROOT / '.venv' / 'bin'}:{self.kube.env()['PATH']}:{os.environ['PATH']}"
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        said = [line.rstrip() for line in (ran.stdout + ran.stderr).strip().splitlines()]
        shown = [line for line in said if re.search(keep, line)] if keep else said
        if len(shown) < len(said) or len(shown) > lines:
            shown = [*shown[:lines], "..."]
        status = [f"(exit status {ran.returncode})"] if ran.returncode else []
        text = "\n".join([f"$ {command}", *shown, *status]).replace(f"{layers.ROOT}/", "")
        self.page.append(f"\n```console\n{text}\n```\n")
        print(self.page[-1], flush=True)
        return ran.stdout

    def until(self, what: str, done: Callable[[], object]) -> None:
        """Waits for what the next command is to show."""
        tools.until(what, done, 180)


def doctor(walk: Walk) -> None:
    """What the doctor says now."""
    walk.run("penstock doctor -n penstock")


def install(walk: Walk) -> None:
    """Installation, a model, a request."""
    (walk.folder / "values.yaml").write_text(yaml.safe_dump(installed.VALUES))
    (walk.folder / "tiny.yaml").write_text(yaml.safe_dump(examples.example(), sort_keys=False))
    walk.page.append("\n## Install and serve\n")
    doctor(walk)
    walk.run(
        f"helm install penstock {installed.CHART} -n penstock --create-namespace --values values.yaml --wait",
        lines=12,
    )
    walk.run("kubectl -n penstock get pods")
    walk.run("helm test penstock -n penstock --logs")
    walk.run("cat tiny.yaml")
    walk.run("kubectl -n penstock apply -f tiny.yaml")
    walk.run("kubectl -n penstock wait md/tiny --for=condition=Ready --timeout=3m")
    walk.run("kubectl -n penstock get md,pods -l '!app.kubernetes.io/component'")
    walk.run(
        f"curl -sS {installed.gateway_url(walk.kube)}/v1/chat/completions -H 'Content-Type: application/json' "
        """-d '{"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}'"""
    )
    service = walk.kube.get("service", "penstock-controller")["spec"]
    walk.run(f"penstock status --controller {service['clusterIP']}:7070", lines=20)
    doctor(walk)


def status(walk: Walk) -> None:
    """`penstock status`, by the controllers' Service."""
    service = walk.kube.get("service", "penstock-controller")["spec"]
    walk.run(f"penstock status --controller {service['clusterIP']}:7070", lines=20)


def ask(walk: Walk) -> None:
    """One request."""
    walk.run(
        f"curl -sS -o /dev/null -w '%{{http_code}}\\n' {installed.gateway_url(walk.kube)}/v1/chat/completions "
        """-H 'Content-Type: application/json' -d '{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], """
        """"max_tokens": 8}'"""
    )


def no_room(walk: Walk) -> None:
    """Workers that no node has room for."""
    walk.page.append("\n## 1. Workers that no node has room for\n")
    big = examples.example() | {"metadata": {"name": "big"}}
    big["spec"] = {"model": {"name": "big"}, "engine": {"kind": "sim", "resources": {"cpu": "500"}}}
    (walk.folder / "big.yaml").write_text(yaml.safe_dump(big, sort_keys=False))
    walk.run("cat big.yaml; kubectl -n penstock apply -f big.yaml")
    walk.until("blocked", lambda: blocked(walk, "big"))
    walk.run("kubectl -n penstock get md")
    walk.run("kubectl -n penstock describe md big", keep="Message|Reason|Warning|Normal", lines=14)
    doctor(walk)
    walk.run(
        """kubectl -n penstock patch md big --type merge -p '{"spec": {"engine": {"resources": {"cpu": "250m"}}}}'"""
    )
    walk.run("kubectl -n penstock wait md/big --for=condition=Ready --timeout=3m")
    walk.run("kubectl -n penstock delete md big")


def blocked(walk: Walk, model: str) -> bool:
    """Whether a worker of the model waits for somebody to mend it."""
    pods = walk.kube.get("pods", "-l", f"penstock.dev/deployment={model}")
    return any(states.problem(each) for each in pods)


def no_image(walk: Walk) -> None:
    """A roll-out with an image that is not there."""
    walk.page.append("\n## 2. A roll-out with an image that is not there\n")
    walk.run(
        """kubectl -n penstock patch md tiny --type merge -p '{"spec": {"engine": {"image": "localhost/typo:1"}}}'"""
    )
    walk.until("blocked", lambda: blocked(walk, "tiny"))
    walk.run("kubectl -n penstock get md tiny; kubectl -n penstock get pods -l penstock.dev/deployment=tiny")
    walk.run("kubectl -n penstock describe md tiny", keep="Message|Reason|Warning|Normal", lines=14)
    doctor(walk)
    status(walk)
    walk.say("The workers that were there serve on:")
    ask(walk)
    walk.run("""kubectl -n penstock patch md tiny --type merge -p '{"spec": {"engine": {"image": null}}}'""")
    walk.until("the old revision again", lambda: len(walk.kube.get("pods", "-l", "penstock.dev/deployment=tiny")) == 2)
    walk.run("kubectl -n penstock get md tiny")


def no_redis(walk: Walk) -> None:
    """Redis is away."""
    walk.page.append("\n## 3. Redis is away\n")
    walk.run("kubectl -n penstock scale statefulset penstock-redis --replicas=0")
    walk.until("Redis is gone", lambda: not walk.kube.get("pods", "-l", "app.kubernetes.io/component=redis"))
    walk.until("gateways say so", lambda: True in lost(walk))
    doctor(walk)
    status(walk)
    walk.say("Gateways route on over the workers that they know:")
    ask(walk)
    walk.run("kubectl -n penstock scale statefulset penstock-redis --replicas=1")
    walk.run("kubectl -n penstock rollout status statefulset penstock-redis --timeout=2m")
    walk.until("every gateway reaches it", lambda: set(lost(walk)) == {False})
    doctor(walk)


def lost(walk: Walk) -> list[bool | None]:
    """Of each gateway, whether it says that it does not reach Redis; None where it says nothing."""
    found: list[bool | None] = []
    for pod in walk.kube.get("pods", "-l", "app.kubernetes.io/component=gateway"):
        path = f"/api/v1/namespaces/penstock/pods/{pod['metadata']['name']}:8081/proxy/debug/state"
        ran = walk.kube.run("kubectl", "get", "--raw", path)
        found.append("registry-lost" in ran.stdout if ran.returncode == 0 else None)
    return found


def no_rights(walk: Walk) -> None:
    """Somebody took the operator's rights away."""
    walk.page.append("\n## 4. The operator has lost its rights\n")
    walk.run("kubectl delete clusterrolebinding penstock-operator-penstock")
    walk.run("kubectl -n penstock scale md/tiny --replicas=3")
    doctor(walk)
    status(walk)
    walk.run(
        f"helm upgrade penstock {installed.CHART} -n penstock --reset-then-reuse-values --wait", keep="STATUS|REVISION"
    )
    walk.until("three workers", lambda: walk.kube.get("md", "tiny")["status"].get("workers") == "3/3")
    walk.run("kubectl -n penstock get md tiny")
    doctor(walk)


def wrong_setting(walk: Walk) -> None:
    """A setting that gateways do not take."""
    walk.page.append("\n## 5. A setting that gateways do not take\n")
    upgrade = f"helm upgrade penstock {installed.CHART} -n penstock --reset-then-reuse-values --wait --timeout 40s"
    walk.say("A name that is no setting is refused by the chart's schema:")
    walk.run(f"{upgrade} --set gateway.settings.polcy=round-robin")
    walk.say("A value that only the gateway can judge is not:")
    walk.run(f"{upgrade} --set gateway.settings.policy=rund-robin")
    doctor(walk)
    walk.run(
        "kubectl -n penstock logs -l app.kubernetes.io/component=gateway --tail 2 --prefix", keep="policy:", lines=3
    )
    walk.say("The gateways that were there stay until new ones are ready, so nothing is lost:")
    ask(walk)
    walk.run("helm rollback penstock -n penstock --wait")
    walk.until("two gateways", lambda: len(walk.kube.get("pods", "-l", "app.kubernetes.io/component=gateway")) == 2)
    doctor(walk)


def leave(walk: Walk) -> None:
    """Everything goes, but what is the user's."""
    walk.page.append("\n## Uninstall\n")
    walk.run("helm uninstall penstock -n penstock --wait", lines=20)
    walk.until("its Pods are gone", lambda: not walk.kube.get("pods", "-l", "app.kubernetes.io/component"))
    walk.run("kubectl -n penstock get md,pods,pvc,secrets")
    walk.run("penstock doctor -n penstock")


def main() -> int:
    """Entry point: 0 where the page is written."""
    target = pathlib.Path(sys.argv[1]).absolute()
    programs = binaries.find(os.environ)
    cluster = session.RealCluster(nodes=2)
    try:
        cluster.start(programs, image.project_images(cluster.folder / "images", print))
        work = cluster.folder / "walk"
        work.mkdir()
        with cluster.entered():
            made = tools.Tools(programs, cluster.kubeconfig, cluster.folder)
            made.apply(*storage.volumes(cluster.folder, 4))
            walk = Walk(made.within("penstock"), work)
            try:
                for step in (install, no_room, no_image, no_redis, no_rights, wrong_setting, leave):
                    step(walk)
            finally:
                target.write_text("".join(walk.page))
    finally:
        cluster.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
