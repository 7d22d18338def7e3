"""The controller's loop: look, decide, act, remember. One tick does all of it, so that a test can drive it by hand."""

from __future__ import annotations

import asyncio
import dataclasses

from controller import agents, leader, scrape, store
from controller import settings as controller_settings
from controller.hosts import none, port
from controller.policy import fleet
from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import errors, grpcs, logs, registry, tasks
from workers.hosting import spec


@dataclasses.dataclass
class Degraded:
    """Why the control plane does not do all of its work, by component; since when."""

    clock: clocks.Clock
    reasons: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)

    def set(self, component: str, reason: str) -> bool:
        """Notes a reason; True where there was none."""
        new = component not in self.reasons
        since_s = self.clock.now_s() if new else self.reasons[component][1]
        self.reasons[component] = (reason, since_s)
        return new

    def clear(self, component: str) -> bool:
        """Forgets a reason; True where there was one."""
        return self.reasons.pop(component, None) is not None


class Loop:
    """Keeps deployments as wanted while this controller leads; only watches while it does not."""

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        lead: leader.Leader,
        kept: store.Store,
        watcher: registry.RegistryWatcher,
        reg: registry.Registry,
        host: port.WorkerHost,
        scraper: scrape.Scraper,
        clock: clocks.Clock,
        initial: tuple[types.ModelDeployment, ...] = (),
    ) -> None:
        self._settings, self._leader, self._store, self._watcher = settings, lead, kept, watcher
        self._registry, self._host, self._scraper, self._clock = reg, host, scraper, clock
        self._log = logs.get("controller")
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        # Between looking and writing, nobody else of this process may change what is wanted.
        self.lock = asyncio.Lock()
        self._last_reason = ""
        self._acted = False
        self._looked_s = 0.0
        self._led_epoch = 0
        self._written: store.Memory | None = None
        self.memory = store.Memory()
        self.deployments = {item.name: item for item in initial}
        self.hosting: dict[str, fleet.Hosting] = {}
        self.degraded = Degraded(clock)

    async def start(self) -> None:
        """Starts ticking."""
        self._task = asyncio.create_task(self._run(), name="controller-loop")

    async def stop(self) -> None:
        """Stops ticking and gives up the lease; workers stay as they are."""
        if self._task is not None:
            await tasks.cancel([self._task])
        if self._leader.leading:
            try:
                await self._leader.release()
            except errors.PenstockError as exc:
                self._log.warning("lease_not_released", reason=str(exc))

    def wake(self) -> None:
        """Makes the next tick come now."""
        self._wake.set()

    async def _run(self) -> None:
        renewing = asyncio.create_task(self._renew(), name="leader-lease")
        try:
            while True:
                await self.tick()
                waiting = [
                    asyncio.create_task(self._wake.wait()),
                    asyncio.create_task(self._clock.sleep(self._settings.tick_s)),
                ]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                await tasks.cancel(waiting)
                self._wake.clear()
        finally:
            await tasks.cancel([renewing])

    async def _renew(self) -> None:
        """Beside the loop: a slow host must not cost the lease."""
        while True:
            try:
                await self._leader.tick()
            except errors.PenstockError as exc:
                self._log.debug("lease_not_renewed", reason=str(exc))
            await self._clock.sleep(self._settings.lease_s / 5)

    async def tick(self) -> None:
        """One look at everything. Never raises."""
        try:
            async with self.lock:
                await self._tick()
            if self.degraded.clear("redis"):
                await self._emit("recovered", "redis", "Redis answers again")
        except errors.FencedError as exc:
            self._log.warning("fenced", reason=str(exc))
        except errors.RetryableError as exc:
            if self.degraded.set("redis", f"{exc}; workers and gateways stay as they are"):
                self._log.warning("degraded", component="redis", reason=str(exc))
        except Exception:
            self._log.exception("tick_failed")

    async def _tick(self) -> None:
        self._scraper.follow(self._watcher.workers)
        await self._look_at_host()
        if not self._leader.leading:
            self._led_epoch = 0
            self.deployments = await self._store.deployments() or self.deployments
            return
        if self._led_epoch != self._leader.epoch:
            await self._take_over()
        await self._tell_speeds()
        if self._settings.host == "none":
            # The operator writes the deployments and keeps their workers.
            self.deployments = await self._store.deployments()
            return
        await self._load_deployments()
        decision = fleet.reconcile(self._desired(), self._observed(), self.memory.state, self._clock.now_s())
        if decision.reason != self._last_reason:
            self._last_reason = decision.reason
            self._log.info("decision", reason=decision.reason, commands=len(decision.commands))
        gone = {name for name in self.memory.drains if name not in self.hosting and name not in self._watcher.workers}
        self.memory = store.Memory(decision.state, self.memory.drains - gone)
        # Before acting, so that a successor never gives the same id again.
        if self.memory != self._written:
            await self._store.put_memory(self.memory)
            self._written = self.memory
        self._acted = bool(decision.commands)
        await self._act(decision)

    async def _tell_speeds(self) -> None:
        """What was learned of a worker's speed, where its registration is clearly wrong about it."""
        if not self._settings.learn_speeds:
            return
        for record in list(self._watcher.workers.values()):
            found = self._scraper.calibrations.improved(record)
            if found is not None and await self._registry.set_speed(record.id, record.incarnation, found):
                before = record.speed.model_dump() if record.speed is not None else {}
                changed = {name: (before.get(name), value) for name, value in found if before.get(name) != value}
                self._log.info("speed_learned", worker=record.id, changed=changed)

    async def _take_over(self) -> None:
        """A new epoch: adopts what the last leader knew, and every worker that is there."""
        self._written = await self._store.memory()
        # A Redis that came back empty is no reason to forget what we know.
        self.memory = self._written or self.memory
        self._led_epoch = self._leader.epoch
        self._last_reason = ""
        await self._emit("leader", self._leader.id, f"leads with epoch {self._leader.epoch}")

    async def _load_deployments(self) -> None:
        """Redis is the truth; where it came back empty, what we last knew is written again."""
        stored = await self._store.deployments()
        if stored or not self.deployments:
            self.deployments = stored
            return
        for deployment in self.deployments.values():
            await self._store.put_deployment(deployment)
            await self._emit("deployment", deployment.name, "created")

    async def _look_at_host(self) -> None:
        """Each tick while something is on its way, else every `host_s`: asking Ray costs CPU on both sides."""
        now_s = self._clock.monotonic_s()
        settled = all(self._watcher.workers.get(name) for name in self.hosting) and self._last_reason == "as wanted"
        if settled and not self._acted and now_s - self._looked_s < self._settings.host_s:
            return
        self._looked_s = now_s
        try:
            self.hosting = await self._host.list()
        except errors.RetryableError as exc:
            if self.degraded.set("host", str(exc)):
                self._log.warning("degraded", component="host", reason=str(exc))
            return
        if self.degraded.clear("host"):
            self._log.info("recovered", component="host")

    def _desired(self) -> fleet.Desired:
        pools = [
            fleet.PoolTarget(item.name, pool.role, pool.replicas)
            for item in self.deployments.values()
            for pool in item.pools
        ]
        return fleet.Desired(tuple(pools), self.memory.drains, self._settings.surge, self._settings.unregistered_s)

    def _observed(self) -> fleet.Observed:
        records = self._watcher.workers
        workers = []
        for name in sorted({*records, *self.hosting}):
            record = records.get(name)
            deployment, role = (record.deployment, record.role) if record else self.pool_of(name)
            workers.append(
                fleet.Seen(
                    id=name,
                    deployment=deployment,
                    role=role,
                    hosting=self.hosting.get(name),
                    registered=record.state.value if record else None,
                    load=self._scraper.load(name),
                    started_at_s=record.started_at_s if record else 0.0,
                )
            )
        return fleet.Observed(
            hosted="host" not in self.degraded.reasons, registry=self._watcher.synced, workers=tuple(workers)
        )

    def pool_of(self, worker_id: str) -> tuple[str, str]:
        """Deployment and role by the id alone, for a worker that is hosted and not registered."""
        base = worker_id.rpartition("-")[0]
        for item in self.deployments.values():
            for pool in item.pools:
                if base == (item.name if pool.role == types.ROLE_UNIFIED else f"{item.name}-{pool.role}"):
                    return item.name, pool.role
        return base, types.ROLE_UNIFIED

    async def _act(self, decision: fleet.Decision) -> None:
        starts = [item for item in decision.commands if isinstance(item, fleet.Start)]
        stops = [item for item in decision.commands if isinstance(item, fleet.Stop)]
        for stop in stops:
            if not self._leader.leading:
                return
            if stop.drain:
                await self._registry.set_state(stop.worker_id, None, types.WorkerState.DRAINING)
            await self._on_host(self._host.stop_worker(stop.worker_id))
            await self._emit("stop", stop.worker_id, stop.reason)
        if starts and self._leader.leading:
            await self._on_host(self._host.start_workers([self._spec(item) for item in starts]))
            for start in starts:
                await self._emit("start", start.worker_id, decision.reason)

    async def _on_host(self, call: object) -> None:
        try:
            await call  # type: ignore[misc]
        except errors.RetryableError as exc:
            self.degraded.set("host", str(exc))
            self._log.warning("host_call_failed", reason=str(exc))

    def _spec(self, start: fleet.Start) -> spec.WorkerSpec:
        deployment = self.deployments[start.deployment]
        return spec.WorkerSpec(
            id=start.worker_id,
            deployment=deployment.name,
            model=deployment.model,
            role=start.role,
            engine=deployment.engine,
            host=self._settings.worker_host,
            namespace=self._settings.namespace,
            redis_url_file=self._settings.worker_redis_url_file,
            temp_dir=self._settings.worker_temp_dir,
            drain_s=self._settings.worker_drain_s,
        )

    async def _emit(self, kind: str, subject: str, reason: str) -> None:
        self._log.info("fleet_event", kind=kind, subject=subject, reason=reason)
        await self._store.emit(kind, subject, reason)

    async def scale(self, name: str, role: str, replicas: int) -> int:
        """Sets a pool's wanted number; the one before. Raises `TerminalError` for what is not there or not allowed."""
        self._refuse_without_host()
        async with self.lock:
            deployment = self._known(name)
            pools, previous = [], None
            for pool in deployment.pools:
                if pool.role == role:
                    previous = pool.replicas
                    if not pool.min_replicas <= replicas <= pool.max_replicas:
                        raise errors.TerminalError(
                            f"replicas: {replicas} is not allowed for {name}/{role}: "
                            f"{pool.min_replicas} to {pool.max_replicas}"
                        )
                    pool = pool.model_copy(update={"replicas": replicas})
                pools.append(pool)
            if previous is None:
                roles = ", ".join(pool.role for pool in deployment.pools)
                raise errors.TerminalError(f"role: {role!r} is no pool of {name}; it has: {roles}")
            await self._put(deployment.model_copy(update={"pools": tuple(pools)}))
            await self._emit("scale", f"{name}/{role}", f"{previous} to {replicas}")
        self.wake()
        return previous

    async def apply(self, deployment: types.ModelDeployment) -> int:
        """Creates or replaces a deployment; its generation."""
        self._refuse_without_host()
        async with self.lock:
            generation = await self._put(deployment)
            await self._emit("deployment", deployment.name, f"generation {generation}")
        self.wake()
        return generation

    async def drain(self, worker_id: str, replace: bool) -> str:
        """Chooses a worker to go; its state. Raises `TerminalError` where there is none."""
        self._refuse_without_host()
        async with self.lock:
            self._looked_s = float("-inf")
            await self._look_at_host()
            record = self._watcher.workers.get(worker_id)
            if record is None and worker_id not in self.hosting:
                known = ", ".join(sorted({*self._watcher.workers, *self.hosting})) or "none"
                raise errors.TerminalError(f"worker: {worker_id!r} is not there; there are: {known}")
            if worker_id not in self.hosting:
                raise errors.TerminalError(
                    f"worker: {worker_id!r} was not started by this fleet's host; stop it where it runs"
                )
            leaving = record is not None and record.state is types.WorkerState.DRAINING
            if worker_id not in self.memory.drains and not leaving:
                if not replace:
                    await self._one_less(worker_id)
                self.memory = store.Memory(self.memory.state, self.memory.drains | {worker_id})
                await self._store.put_memory(self.memory)
                await self._emit("drain", worker_id, "requested" + (", with another in its place" if replace else ""))
        self.wake()
        return types.WorkerState.DRAINING.value

    async def drain_by_agent(self, worker_id: str, timeout_s: float | None, tls: grpcs.Tls) -> str:
        """Tells the worker's own agent, where another keeps the workers; its state. Raises as `agents.Agent.drain` does."""
        record = self._watcher.workers.get(worker_id)
        if record is None:
            known = ", ".join(sorted(self._watcher.workers)) or "none"
            raise errors.TerminalError(f"worker: {worker_id!r} is not there; there are: {known}")
        answer = await agents.of_worker(record, tls).drain(worker_id, timeout_s)
        await self._emit("drain", worker_id, "requested")
        return answer.state

    async def _one_less(self, worker_id: str) -> None:
        record = self._watcher.workers.get(worker_id)
        name, role = (record.deployment, record.role) if record else self.pool_of(worker_id)
        deployment = self.deployments.get(name)
        if deployment is None:
            return
        pools = tuple(
            pool.model_copy(update={"replicas": max(pool.min_replicas, pool.replicas - 1)})
            if pool.role == role
            else pool
            for pool in deployment.pools
        )
        await self._put(deployment.model_copy(update={"pools": pools}))

    async def _put(self, deployment: types.ModelDeployment) -> int:
        present = self.deployments.get(deployment.name)
        generation = present.generation + 1 if present else 1
        new = deployment.model_copy(update={"generation": generation})
        await self._store.put_deployment(new)
        self.deployments = {**self.deployments, new.name: new}
        return generation

    def _refuse_without_host(self) -> None:
        if self._settings.host == "none":
            raise errors.TerminalError(none.REFUSAL)

    def _known(self, name: str) -> types.ModelDeployment:
        if name not in self.deployments:
            known = ", ".join(sorted(self.deployments)) or "none"
            raise errors.TerminalError(f"deployment: {name!r} is not there; there are: {known}")
        return self.deployments[name]
