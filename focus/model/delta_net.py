"""Gated delta nets, the linear attention of Qwen3.5, for rollouts that share prompts.

A delta net reads a sequence from left to right and keeps a state of constant size. A suffix goes on
from a copy of its prompt's state, so the prompt is read once for its group. In the backward the
gradients of all siblings flow into that one state.

The arithmetic is transformers': its convolution and its two forms of the delta rule, which it
replaces by the kernels of `fla` and `causal_conv1d` where those packages are installed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers.utils.generic import maybe_autocast


@dataclass(frozen=True)
class State:
    """What a delta net keeps of every sequence: the last inputs of its convolution, and its memory
    (float32).
    """

    inputs: Float[Tensor, "row channel earlier"]
    memory: Float[Tensor, "row head key_width value_width"]

    def take(self, index: Int[Tensor, " taken"]) -> "State":
        """A copy of the rows at `index`."""
        return State(self.inputs.index_select(0, index), self.memory.index_select(0, index))

    def part(self, rows: slice) -> "State":
        """These rows, in the same memory."""
        return State(self.inputs[rows], self.memory[rows])

    def put(self, index: Int[Tensor, " taken"] | slice, rows: "State") -> None:
        """Overwrite the rows at `index`."""
        self.inputs[index], self.memory[index] = rows.inputs, rows.memory


# Reads right-padded rows of `lengths` tokens, each from its state (None: from the beginning). Returns
# the output of every slot and the states after the last token of every row.
Scan = Callable[
    [Float[Tensor, "row slot channel"], Int[Tensor, " row"], State | None], tuple[Float[Tensor, "row slot width"], State]
]  # fmt: skip


def forward(self: Any, hidden_states: Float[Tensor, "row token width"], layout: Any = None, **rest: Any) -> Tensor:
    """The forward of a delta net of transformers, which takes the place of its own. With a layout the
    hidden states are one packed row.
    """
    if layout is None:
        return type(self).forward(self, hidden_states, **rest)
    [tokens] = hidden_states
    projected = torch.cat([self.in_proj_qkv(tokens), self.in_proj_b(tokens), self.in_proj_a(tokens)], dim=-1)
    mixed = layout.recur(self.cache_index, partial(_scan, self), projected)
    gated = self.norm(mixed.reshape(-1, self.head_v_dim), self.in_proj_z(tokens).reshape(-1, self.head_v_dim))
    return self.out_proj(gated.reshape(len(tokens), -1))[None]


def _scan(
    self: Any, projected: Float[Tensor, "row slot channel"], lengths: Int[Tensor, " row"], state: State | None
) -> tuple[Float[Tensor, "row slot width"], State]:
    """The delta net between its projections, as `Scan`. Padding changes no state."""
    library = import_module(type(self).__module__)
    device, earlier = projected.device, self.conv_kernel_size - 1
    channels, write, forget = projected.split([self.conv_dim, self.num_v_heads, self.num_v_heads], dim=-1)
    before = channels.new_zeros((len(channels), self.conv_dim, earlier)) if state is None else state.inputs
    read = torch.cat([before, channels.transpose(1, 2)], dim=2)
    last = lengths[:, None] + torch.arange(earlier, device=device)  # of `read`: the last inputs before each row's end
    inputs = read.gather(2, last[:, None].expand(-1, self.conv_dim, -1))
    convolved = library.causal_conv1d_fn(read, self.conv1d.weight.squeeze(1), self.conv1d.bias, activation=self.activation)
    query, key, value = convolved[:, :, earlier:].transpose(1, 2).split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
    real = torch.arange(projected.shape[1], device=device) < lengths[:, None]
    # Padding writes nothing to the memory (0), and lets it forget nothing (a factor of e^0).
    beta = write.sigmoid() * real[:, :, None]
    decay = -self.A_log.float().exp() * functional.softplus(forget.float() + self.dt_bias) * real[:, :, None]
    shared = self.num_v_heads // self.num_k_heads  # value heads of one query and key; transformers 5.16 leaves it to its caller
    single = projected.shape[1] == 1 and not torch.is_grad_enabled()  # the kernel for single steps has no backward
    rule = library.torch_recurrent_gated_delta_rule if single else library.torch_chunk_gated_delta_rule
    with maybe_autocast(device.type, enabled=False):  # both forms compute in float32, so that sampler and trainer agree
        out, memory = rule(
            query.unflatten(-1, (-1, self.head_k_dim)).repeat_interleave(shared, dim=2),
            key.unflatten(-1, (-1, self.head_k_dim)).repeat_interleave(shared, dim=2),
            value.unflatten(-1, (-1, self.head_v_dim)),
            g=decay,
            beta=beta,
            initial_state=None if state is None else state.memory,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
    return out.flatten(2), State(inputs, memory)
