"""What every part of a plan reads: settings, device, architecture, and the lengths of rollouts."""

from dataclasses import dataclass, replace
from functools import cached_property

from focus.config.identity import export_dtype, played_dtype
from focus.config.schema import PlanConfig
from focus.model.saving import DTYPES
from focus.planning.architecture import Parameters, architecture_of, parameters_of
from focus.planning.hardware import DEVICES, Device
from focus.planning.lengths import Lengths, lengths
from focus.planning.shape import Shape, Sharding, sharding


@dataclass(frozen=True)
class Setup:
    """A run as the parts of a plan see it. `longest` and `mean` are rollouts."""

    cfg: PlanConfig
    device: Device
    held: Sharding
    counts: Parameters
    longest: Lengths
    mean: Lengths
    measured_text: bool  # with the policy's tokenizer

    @cached_property
    def shape(self) -> Shape:
        return Shape(architecture_of(self.cfg.policy.checkpoint), self.held, self.counts.adapters > 0)

    @property
    def rollouts(self) -> int:
        """Siblings of a group."""
        return self.cfg.rollout.rollouts_per_question

    @property
    def questions(self) -> int:
        """Questions of one rank in an update."""
        return self.cfg.rollout.questions_per_update // self.held.ranks

    @property
    def vllm(self) -> bool:
        """Whether vLLM samples, and not the policy in this process."""
        return self.cfg.rollout.engine == "vllm"

    @property
    def gathers(self) -> bool:
        """Whether a rank gathers all weights to play with them."""
        return self.held.kind == "fsdp" and not self.vllm

    @property
    def checkpointed(self) -> bool:
        """Whether activations are computed again in the backward."""
        return bool(self.cfg.policy.activation_checkpointing)

    @property
    def learns(self) -> bool:
        """Whether the vision tower is trained."""
        return self.counts.visual_trainable > 0

    @property
    def learned_bytes(self) -> int:
        """Bytes of a trained number: PEFT keeps adapters of a bfloat16 base in float32."""
        return 4 if self.counts.adapters else self.held.stored

    @property
    def exported(self) -> int:
        """Bytes of a number in the policy's file."""
        return DTYPES[export_dtype(self.cfg.model_dump())].itemsize

    @property
    def evaluated(self) -> Shape:
        """The policy as it is measured after the training: whole on every device, in the dtype in which it played."""
        played = DTYPES[played_dtype(self.cfg.model_dump())].itemsize
        return Shape(self.shape.config, replace(self.held, kind="one", stored=played, arithmetic=played, mixed=False))


def setup_of(cfg: PlanConfig, observed: Lengths | None = None) -> Setup:
    """The setup of these settings, or of rollouts that were `observed`.

    Raises ValueError for an unknown device or architecture, or questions that can't be shared.
    """
    if cfg.device not in DEVICES:
        raise ValueError(f"device is {cfg.device!r}; there are {', '.join(DEVICES)}")
    held, counts = sharding(cfg), parameters_of(cfg.policy)
    longest, mean, measured = (observed, observed, True) if observed else lengths(cfg)
    return Setup(cfg, DEVICES[cfg.device], held, counts, longest, mean, measured)
