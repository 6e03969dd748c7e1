"""A delta net reads packed sequences as transformers does: in parts, side by side, from copies of a state."""

import pytest
import torch

from focus.model.attention import Ragged
from focus.model.delta_net import Scan, State


class Whole:
    """A layout of one sequence, which keeps what it was given."""

    def recur(self, layer, scan, inputs):
        self.layer, self.scan, self.inputs = layer, scan, inputs
        return Ragged([len(inputs)], inputs.device).scan(scan, inputs, None)[0]


@pytest.fixture
def net(qwen3_5):
    return qwen3_5.backbone.language_model.layers[2].linear_attn


@pytest.fixture
def hidden(net) -> torch.Tensor:
    return torch.randn(1, 150, net.hidden_size, generator=torch.Generator().manual_seed(0))  # two chunks and a part of one


@pytest.fixture
def whole(net, hidden) -> Whole:
    layout = Whole()
    with torch.no_grad():
        net(hidden, layout=layout)
    return layout


@torch.no_grad()
def read(scan: Scan, rows: list[torch.Tensor], state: State | None = None) -> tuple[list[torch.Tensor], State]:
    """Outputs of unequal rows, and the states at their ends."""
    lengths = [len(row) for row in rows]
    out, ends = Ragged(lengths, torch.device("cpu")).scan(scan, torch.cat(rows), state)
    return list(out.split(lengths)), ends


def close(a: State, b: State) -> bool:
    return torch.equal(a.inputs, b.inputs) and torch.allclose(a.memory, b.memory, atol=1e-5)


def test_the_layer_computes_what_transformers_computes_and_counts_itself_among_delta_nets(net, hidden):
    layout = Whole()
    with torch.no_grad():
        ours, theirs = net(hidden, layout=layout), type(net).forward(net, hidden)
        assert torch.equal(net(hidden), theirs)
    assert torch.allclose(ours, theirs, atol=1e-5) and layout.layer == 1  # layer 2 of the model, the second delta net


@pytest.mark.parametrize("first", [1, 2, 63, 64, 149])
def test_a_sequence_in_two_parts_is_read_as_in_one(whole, first):
    [together], end = read(whole.scan, [whole.inputs])
    [before], state = read(whole.scan, [whole.inputs[:first]])
    [after], same = read(whole.scan, [whole.inputs[first:]], state)
    assert torch.allclose(torch.cat([before, after]), together, atol=1e-5) and close(same, end)


def test_a_short_row_beside_a_long_one_ends_in_the_state_that_it_has_alone(whole):
    rows = [whole.inputs[:2], whole.inputs[2:90], whole.inputs[90:]]
    _, start = read(whole.scan, [whole.inputs[:40]])
    beside, ends = read(whole.scan, rows, start.take(torch.tensor([0, 0, 0])))
    for i, row in enumerate(rows):
        [alone], end = read(whole.scan, [row], start)
        assert torch.allclose(beside[i], alone, atol=1e-5) and close(ends.take(torch.tensor([i])), end)


def test_a_row_without_a_new_token_keeps_its_state_to_the_last_bit(whole):
    _, before = read(whole.scan, [whole.inputs[:40], whole.inputs[:50]])
    with torch.no_grad():
        _, after = whole.scan(whole.inputs[50:52, None], torch.tensor([0, 1]), before)
    kept, moved = (torch.tensor([i]) for i in (0, 1))
    for name in ("inputs", "memory"):
        assert torch.equal(getattr(after.take(kept), name), getattr(before.take(kept), name))
        assert not torch.equal(getattr(after.take(moved), name), getattr(before.take(moved), name))


def test_siblings_add_up_their_gradients_in_the_state_of_their_prompt(whole):
    prompt, suffix = whole.inputs[:70].clone().requires_grad_(), whole.inputs[70:80]

    def gradient(weights: list[float]) -> torch.Tensor:
        _, end = Ragged([70], prompt.device).scan(whole.scan, prompt, None)
        rows = end.take(torch.zeros(len(weights), dtype=torch.long))
        out, _ = Ragged([10] * len(weights), prompt.device).scan(whole.scan, suffix.repeat(len(weights), 1), rows)
        weighed = out.unflatten(0, (-1, 10)).sum((1, 2)) @ torch.tensor(weights)
        return torch.autograd.grad(weighed, prompt)[0]

    assert gradient([1.0]).abs().max() > 1e-3
    assert torch.allclose(gradient([1.0, 2.0, -0.5]), gradient([2.5]), atol=1e-5)
