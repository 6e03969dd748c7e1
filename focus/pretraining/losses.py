"""Losses, optimisers and learning rate of the embedded policy."""

import torch
from torch import Tensor
from torch.nn import functional

from focus.model.policy_model import PolicyModel
from focus.pretraining.pictures import CLASSES
from focus.pretraining.transcripts import DIGITS, Batch

GUIDED_LAYER, GUIDED_HEADS = 2, 2


def _naming_loss(scores: Tensor, named: Tensor) -> Tensor:
    """Cross-entropy of the name and of each digit, for each visual token that has them."""
    parts = scores.split([CLASSES] + [10] * DIGITS, dim=-1)
    each = [
        functional.cross_entropy(part, named[:, i], ignore_index=-100, reduction="sum") / (named[:, i] >= 0).sum().clamp_min(1)
        for i, part in enumerate(parts)
    ]
    return torch.stack(each).sum()


def losses(policy: PolicyModel, head: torch.nn.Module, batch: Batch, guided: bool = True) -> dict[str, Tensor]:
    """Next-token loss, and two auxiliary losses: naming of visual tokens, and attention of the guided heads to the evidence."""
    model = policy.model
    if batch.kind.endswith("glance"):
        scores = head(model.model.visual(batch.pixels.values, grid_thw=batch.pixels.grids, return_dict=True).pooler_output.float())
        legible = batch.named[:, 1:] >= 0
        digits = scores[:, CLASSES:].view(-1, DIGITS, 10).argmax(-1)
        return {"name": _naming_loss(scores, batch.named), "hit": (digits == batch.named[:, 1:])[legible].float().mean()}
    tower = model.model.visual(batch.pixels.values, grid_thw=batch.pixels.grids, return_dict=True)
    counts = (batch.pixels.grids.prod(1) // policy.merge**2).tolist()

    def placed(tokens: Tensor) -> Tensor:
        parts = tokens.split(counts)
        return torch.cat([parts[image] for image in batch.shown])

    visual = batch.ids == policy.image_pad_id
    embedded = model.get_input_embeddings()(batch.ids)
    out = model.model.language_model(
        inputs_embeds=embedded.masked_scatter(visual[..., None], placed(tower.pooler_output).to(embedded.dtype)),
        attention_mask=batch.mask.long(),
        position_ids=batch.positions,
        use_cache=False,
        output_attentions=guided,
        visual_pos_masks=visual,
        deepstack_visual_embeds=[placed(level) for level in tower.deepstack_features],
    )
    logits = model.lm_head(out.last_hidden_state)
    target = batch.labels[:, 1:]
    each = functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), target.flatten(), ignore_index=-100, reduction="none")
    weight = batch.weights[:, 1:].flatten()
    lm = (each * weight).sum() / weight.sum()
    result = {"lm": lm, "name": _naming_loss(head(tower.pooler_output.float()), batch.named)}
    if guided:
        attention = out.attentions[GUIDED_LAYER][:, :GUIDED_HEADS].float()
        pulled = batch.evidence.any(-1)
        on = (attention * batch.evidence[:, None]).sum(-1).clamp_min(1e-6).log()
        result["look"] = -(on * pulled[:, None]).sum() / (pulled.sum() * GUIDED_HEADS).clamp_min(1)
    correct = (logits[:, :-1].argmax(-1) == target) & (target >= 0)
    answers = batch.weights[:, 1:] > 1
    result["answer"] = each.detach().view_as(answers)[answers].mean()
    result["hit"] = correct[answers].float().mean()
    return result


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon in float32: its own products are bfloat16, which CPUs without units for it emulate."""

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:  # a batch of crops alone does not reach the text
                    continue
                average = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(average, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = parameter.shape
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with all its singular values near 1, by five steps of Newton-Schulz with Muon's coefficients."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


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
        Muon(inside, lr=10 * learning_rate),
        torch.optim.AdamW(outside, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    )


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: a short rise, a plateau, and a linear fall over the last 30 %."""
    return min(1.0, (step + 1) / 200, max(0.02, (steps - step) / (0.3 * steps)))
