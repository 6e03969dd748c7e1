"""The plan of a training run before a model is loaded: memory, tokens, arithmetic, network, time.

It reads settings and an architecture only. Parameters are counted exactly on PyTorch's meta device, without weights. Memory is
planned for the rollouts that take most of all that the settings allow, work and time for mean rollouts (`lengths`).
"""

from dataclasses import dataclass

from focus.config.schema import PlanConfig
from focus.planning import memory, seconds, work
from focus.planning.architecture import Parameters
from focus.planning.bounds import Bounds, total
from focus.planning.hardware import DEVICES, USABLE
from focus.planning.lengths import Lengths
from focus.planning.setup import setup_of
from focus.planning.shape import Sharding


@dataclass(frozen=True)
class Plan:
    """Bytes of a device by phase and term, bytes of a host and on disk, and what one device does in one update.

    `seconds` are of one update, `run` of the whole run. `passes`: prompts that pass the network in one update.
    """

    device: str
    updates: int
    sharding: Sharding
    parameters: Parameters
    longest: Lengths
    mean: Lengths
    measured_text: bool
    micro_batches: int
    passes: int
    between_checkpoints: int
    tokens: dict[str, float]
    phases: dict[str, dict[str, float]]
    vllm: dict[str, float]
    host: dict[str, float]
    disk: dict[str, float]
    flops: dict[str, float]
    network: dict[str, float]
    seconds: dict[str, Bounds]
    run: dict[str, Bounds]

    @property
    def peaks(self) -> dict[str, float]:
        """Bytes of a device by phase."""
        return {phase: sum(terms.values()) for phase, terms in self.phases.items()}

    @property
    def peak(self) -> float:
        """Bytes of a device in the phase that needs most."""
        return max(self.peaks.values())

    @property
    def room(self) -> float:
        """Bytes of a device that may be used."""
        return USABLE * DEVICES[self.device].memory

    @property
    def fits(self) -> bool:
        """Whether every phase fits on the device, and the longest conversation into vLLM's cache."""
        return self.peak <= self.room and not self.lacks_cache

    @property
    def lacks_cache(self) -> bool:
        """Whether vLLM's cache is smaller than the longest conversation."""
        return bool(self.vllm) and self.vllm["cache"] < self.vllm["the longest conversation"]

    @property
    def of_an_update(self) -> Bounds:
        """Seconds of one update."""
        return total([*self.seconds.values()])

    @property
    def of_the_run(self) -> Bounds:
        """Seconds of the whole run."""
        return total([*self.run.values()])


def make_plan(cfg: PlanConfig, observed: Lengths | None = None) -> Plan:
    """The plan of these settings, or of rollouts that were `observed`.

    Raises ValueError for an unknown device or architecture, or questions that can't be shared.
    """
    setup = setup_of(cfg, observed)
    disk = memory.disk(setup)
    of_an_update = seconds.of_an_update(setup)
    return Plan(
        device=cfg.device,
        updates=cfg.objective.updates,
        sharding=setup.held,
        parameters=setup.counts,
        longest=setup.longest,
        mean=setup.mean,
        measured_text=setup.measured_text,
        micro_batches=work.micro_batches(setup),
        passes=work.parts_of_groups(setup),
        between_checkpoints=seconds.between_checkpoints(setup, total([*of_an_update.values()])),
        tokens=work.tokens(setup),
        phases=memory.phases(setup),
        vllm=memory.vllm(setup) if setup.vllm else {},
        host=memory.host(setup),
        disk=disk,
        flops=work.flops(setup),
        network=work.network(setup),
        seconds=of_an_update,
        run=seconds.of_a_run(setup, total([*of_an_update.values()]), disk["one checkpoint"]),
    )
