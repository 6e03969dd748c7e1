"""Losses, optimisers and learning rate of the embedded policy."""

import torch
from torch import Tensor
from torch.nn import functional

from focus.data.scenes import COLOURS
from focus.model.policy_model import PolicyModel
from focus.pretraining.transcripts import Batch

GUIDED_LAYER, GUIDED_HEADS = 2, 2


def _naming_loss(scores: Tensor, named: Tensor) -> Tensor:
    """Cross-entropy of sign colour and of both digits, for each visual token that has them."""
    colours = 1 + len(COLOURS)
    parts = scores.split([colours, 10, 10], dim=-1)
    each = [
        functional.cross_entropy(part, named[:, i], ignore_index=-100, reduction="sum") / (named[:, i] >= 0).sum().clamp_min(1)
        for i, part in enumerate(parts)
    ]
    return torch.stack(each).sum()


def losses(policy: PolicyModel, head: torch.nn.Module, batch: Batch, guided: bool = True) -> dict[str, Tensor]:
    """Next-token loss, and two auxiliary losses: naming of visual tokens, and attention of the guided heads to the evidence."""
    model = policy.model
    if batch.kind == "glance":
        scores = head(model.model.visual(batch.pixels.values, grid_thw=batch.pixels.grids, return_dict=True).pooler_output.float())
        legible = batch.named[:, 1] >= 0
        digits = scores[legible][:, -20:].view(-1, 2, 10).argmax(-1)
        return {"name": _naming_loss(scores, batch.named), "hit": (digits == batch.named[legible, 1:]).float().mean()}
    seen: list[Tensor] = []
    hook = model.model.visual.merger.register_forward_hook(lambda _m, _a, out: seen.append(out))
    try:
        out = model(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            position_ids=batch.positions,
            pixel_values=batch.pixels.values,
            image_grid_thw=batch.pixels.grids,
            mm_token_type_ids=(batch.ids == policy.image_pad_id).int(),
            use_cache=False,
            output_attentions=guided,
        )
    finally:
        hook.remove()
    target = batch.labels[:, 1:]
    each = functional.cross_entropy(out.logits[:, :-1].float().flatten(0, 1), target.flatten(), ignore_index=-100, reduction="none")
    weight = batch.weights[:, 1:].flatten()
    lm = (each * weight).sum() / weight.sum()
    result = {"lm": lm, "name": _naming_loss(head(seen[0].float()), batch.named)}
    if guided:
        attention = out.attentions[GUIDED_LAYER][:, :GUIDED_HEADS].float()
        pulled = batch.evidence.any(-1)
        on = (attention * batch.evidence[:, None]).sum(-1).clamp_min(1e-6).log()
        result["look"] = -(on * pulled[:, None]).sum() / (pulled.sum() * GUIDED_HEADS).clamp_min(1)
    correct = (out.logits[:, :-1].argmax(-1) == target) & (target >= 0)
    answers = batch.weights[:, 1:] > 1
    result["answer"] = each.detach().view_as(answers)[answers].mean()
    result["hit"] = correct[answers].float().mean()
    return result


def optimisers(policy: PolicyModel, head: torch.nn.Module, learning_rate: float) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices inside, at ten times the rate; AdamW for embeddings, norms, biases, heads and the wide mergers.

    Muon's cost grows with the cube of a matrix's side: the 512-wide mergers alone would take half of every step.
    """
    inside: list[torch.nn.Parameter] = []
    outside = list(head.parameters())
    for name, parameter in policy.model.named_parameters():
        excluded = any(part in name for part in ("embed_tokens", "lm_head", "pos_embed", "merger"))
        (inside if parameter.ndim == 2 and not excluded else outside).append(parameter)
    return (
        torch.optim.Muon(inside, lr=10 * learning_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(outside, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    )


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: a short rise, a plateau, and a linear fall over the last 30 %."""
    return min(1.0, (step + 1) / 200, max(0.02, (steps - step) / (0.3 * steps)))
