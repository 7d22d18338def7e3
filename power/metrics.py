"""The node agent's metrics. What is not known has no sample, so that no outage reads as zero watts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import core
from prometheus_client import registry as prometheus_registry

from penstock import __version__
from penstock.runtime import degraded
from power import sampling
from power.meters import nvml

_DEVICE = ("node", "kind", "device")


class Collector(prometheus_registry.Collector):
    """Builds the samples from what the sampler knows at the time."""

    def __init__(self, node: str, sampler: sampling.Sampler, health: degraded.Degraded) -> None:
        self._node, self._sampler, self._health = node, sampler, health

    def describe(self) -> Iterable[core.Metric]:
        """Nothing beforehand: the registry would collect to find out."""
        return ()

    def collect(self) -> Iterator[core.Metric]:
        """See prometheus_client."""
        yield _gauge("build_info", "Version of the agent", ("node", "version"), [((self._node, __version__), 1.0)])
        up = [((self._node, name), float(bool(look.found))) for name, look in self._sampler.looks.items()]
        yield _gauge("meter_up", "Whether a meter gave readings at the last look", ("node", "meter"), up)
        holds = self._health.modes()
        modes = [((self._node, mode), float(mode in holds)) for mode in sampling.MODES]
        yield _gauge("degraded", "Degraded modes that hold now", ("node", "mode"), modes)
        yield from self._devices()

    def _devices(self) -> Iterator[core.Metric]:
        found = [((self._node, each.kind, each.device), each) for each in self._sampler.current()]
        power = [(labels, each.watts) for labels, each in found if each.watts is not None]
        yield _gauge("power_watts", "Drawn by a device", _DEVICE, power)
        counted = core.CounterMetricFamily(
            "penstock_node_energy_joules", "Drawn by a device since the agent first saw it", labels=_DEVICE
        )
        for labels, each in found:
            if each.device in self._sampler.counters:
                counted.add_metric(labels, self._sampler.counters[each.device].total_j)
        yield counted
        limits = [(labels, each.limit_w) for labels, each in found if each.limit_w is not None]
        yield _gauge("power_limit_watts", "What a device may draw now", _DEVICE, limits)
        clocks = [(labels, each.clock_mhz * 1e6) for labels, each in found if each.clock_mhz is not None]
        yield _gauge("clock_hertz", "Clock of a GPU's multiprocessors", _DEVICE, clocks)
        slowed = [
            ((*labels, reason), float(reason in each.slowed_by))
            for labels, each in found
            if each.slowed_by is not None
            for reason in nvml.SLOWED_BY
        ]
        yield _gauge("slowed", "Whether something keeps a GPU's clocks down", (*_DEVICE, "reason"), slowed)
        names = [((*labels, each.name), 1.0) for labels, each in found if each.name]
        yield _gauge("device_info", "Product", (*_DEVICE, "name"), names)


def _gauge(
    name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]
) -> core.GaugeMetricFamily:
    family = core.GaugeMetricFamily(f"penstock_node_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
