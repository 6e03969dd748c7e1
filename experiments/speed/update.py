"""The shared-prompt update against the naive one, on the same trajectories. `python -m experiments.speed.update` writes update.json.

The naive peer is what trainers do: one padded row for each rollout, prompt and view in every row, through transformers' own model and
attention, with logits at sampled tokens alone. Both make one forward and backward over a group of 16 whose prompts are four times as
long as what follows; rows of equal length, so the peer pays no padding.
"""

from collections.abc import Sequence

import torch
from rich.progress import track

from experiments.speed.timing import paired, write
from experiments.speed.work import update_work
from focus.model.policy_model import PolicyModel
from focus.pretraining.architecture import build_model
from focus.pretraining.tokenizer import build_tokenizer
from focus.rollout.trajectory import Trajectory
from focus.training.logprobs import micro_batches, sampled_logprobs
from focus.training.objective import policy_loss
from tests.support.reference import Shape, made

THREADS = 2
SIBLINGS = 16
LAYERS = 4
CELLS = ((128, 64), (128, 256), (128, 1024), (512, 64), (512, 256))  # width (128 is the embedded policy's), visual tokens of the view
TOKENS_PER_FORWARD = 16_384


def group(policy: PolicyModel, visual: int, questions: int = 1) -> list[Trajectory]:
    """Groups of 16 with a view of `visual` tokens; what follows the prompt is a quarter of it: half sampled, half a crop."""
    side = round(visual**0.5)
    suffix = (visual + 32) // 4
    crop = max(1, round((suffix / 2) ** 0.5))
    sampled = max(4, suffix - crop * crop - 6)
    turns = [Shape(sampled // 2, (crop, crop)), Shape(sampled - sampled // 2)]
    return made(policy, [((side, side), 27, [turns] * SIBLINGS)] * questions)


def learn(policy: PolicyModel, trajectories: Sequence[Trajectory], logprobs) -> None:
    """Forward and backward of E12 over all trajectories, in as many passes as `logprobs` yields."""
    advantage = torch.linspace(-1, 1, len(trajectories))
    tokens = sum(sum(t.sampled_mask) for t in trajectories)
    for rows, values in logprobs:
        flat = torch.cat(values)
        each = torch.cat([torch.full_like(lp, float(advantage[i])) for i, lp in zip(rows, values, strict=True)])
        policy_loss(flat, flat.detach(), each, tokens).backward()
    policy.model.zero_grad()


def shared(policy: PolicyModel, trajectories: Sequence[Trajectory], tokens_per_forward: int = TOKENS_PER_FORWARD) -> None:
    """Our update."""
    lots = micro_batches(trajectories, tokens_per_forward)
    learn(policy, trajectories, ((lot, sampled_logprobs(policy, [trajectories[i] for i in lot], 1.0)) for lot in lots))


def naive(policy: PolicyModel, trajectories: Sequence[Trajectory], tokens_per_forward: int = TOKENS_PER_FORWARD) -> None:
    """The peer's update, its forwards as large as the same budget allows."""
    each = max(1, tokens_per_forward // max(len(t.ids) for t in trajectories))
    lots = [list(range(start, min(start + each, len(trajectories)))) for start in range(0, len(trajectories), each)]
    learn(policy, trajectories, ((lot, _padded_logprobs(policy, [trajectories[i] for i in lot])) for lot in lots))


def _padded_logprobs(c: PolicyModel, trajectories: Sequence[Trajectory]) -> list[torch.Tensor]:
    longest = max(len(t.ids) for t in trajectories)
    ids = torch.full((len(trajectories), longest), c.pad_id)
    mask, sampled = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, t in enumerate(trajectories):
        n = len(t.ids)
        ids[row, :n], mask[row, :n], sampled[row, :n] = torch.tensor(t.ids), 1, torch.tensor(t.sampled_mask)
    pixels = c.pack([image for t in trajectories for image in t.images])
    kinds = (ids == c.image_pad_id).int()
    places, _ = c.backbone.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=pixels.grids, attention_mask=mask)
    hidden = c.backbone(
        input_ids=ids,
        attention_mask=mask,
        position_ids=places,
        pixel_values=pixels.values,
        image_grid_thw=pixels.grids,
        mm_token_type_ids=kinds,
        use_cache=False,
    ).last_hidden_state
    scores = c.head(hidden[sampled.roll(-1, dims=1)]).float().index_fill(1, torch.tensor(c.banned_ids), float("-inf"))
    logprob = torch.log_softmax(scores, -1).gather(1, ids[sampled][:, None])[:, 0]
    return list(logprob.split([sum(t.sampled_mask) for t in trajectories]))


def measure(width: int, visual: int) -> dict[str, object]:
    policy = build_model(build_tokenizer(), width=width, layers=LAYERS)
    trajectories = group(policy, visual)
    with torch.no_grad():
        apart = torch.cat(sampled_logprobs(policy, trajectories, 1.0)) - torch.cat(_padded_logprobs(policy, trajectories))
    assert apart.abs().max() < 1e-3, apart.abs().max()
    ideal, all_of_it = update_work(policy, trajectories, shared=True), update_work(policy, trajectories, shared=False)
    row = paired(lambda: shared(policy, trajectories), lambda: naive(policy, trajectories))
    share = 1 / row["peer_over_ours"]["median"]  # type: ignore[index]
    return {
        "width": width,
        "visual_tokens": visual,
        "prompt_tokens": len(trajectories[0].prompt_ids),
        "suffix_tokens": len(trajectories[0].suffix_ids),
        "siblings": SIBLINGS,
        **row,
        "ours_over_peer": float(f"{share:.3g}"),
        "flop_ideal": float(f"{ideal.total / all_of_it.total:.3g}"),
        "over_ideal": float(f"{share / (ideal.total / all_of_it.total):.3g}"),
        "gflop_ours": float(f"{ideal.total / 1e9:.4g}"),
    }


def main() -> None:
    torch.set_num_threads(THREADS)
    write("update", [measure(width, visual) for width, visual in track(CELLS, "update")])


if __name__ == "__main__":
    main()
