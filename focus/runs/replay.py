"""Repeat an update whose loss or gradient was not finite. `python -m focus.replay FOLDER [POLICY]`.

FOLDER is the folder that the run named when it ended; it is inside the run's output folder. The
weights are those of POLICY, a policy folder, or else of the run's last checkpoint. Nothing is
changed: losses, gradient norms and samples are printed, and whether all are finite now.
"""

import math
from pathlib import Path

import torch

from focus.build import autocast_like_trainer, load_policy
from focus.config.validate import read_settings
from focus.model.policy_model import PolicyModel
from focus.runtime import strategies
from focus.training import batch, checkpoints
from focus.training.logprobs import logprobs_and_entropy, micro_batches, token_advantage
from focus.training.objective import policy_loss, sampler_weight


def run(folder: Path, weights: str | None = None) -> bool:
    """Print the result of each forward and backward.

    Returns whether one is not finite. Raises ValueError if a file is missing.
    """
    saved = batch.load(folder)
    settings = folder.parent / "settings.yaml"
    if not settings.is_file():
        raise ValueError(f"{settings} does not exist; a replay needs the output folder of the run around {folder.name}")
    cfg = read_settings(settings, "objective", "rollout", "policy", "trainer")
    if weights is not None:
        cfg.policy.checkpoint = weights
    policy = load_policy(cfg.policy)
    source = weights or _last_weights(policy, folder.parent / "checkpoints")
    print(f"update {saved.update}, {len(saved.rollouts)} rollouts, weights: {source or cfg.policy.checkpoint}")
    o, cap = cfg.objective, cfg.rollout.sampler_ratio_cap
    broken = False
    for micro_batch in micro_batches(saved.rollouts, o.tokens_per_forward):
        policy.model.zero_grad()
        rollouts = [saved.rollouts[i] for i in micro_batch]
        with autocast_like_trainer(cfg.trainer):
            logprobs, _ = logprobs_and_entropy(policy, rollouts, cfg.rollout.temperature)
            old = [row.detach() for row in logprobs]
            sampler = [torch.tensor(t.sampler_logprobs, device=row.device) for t, row in zip(rollouts, old, strict=True)]
            weight = [sampler_weight(a, b, cap) for a, b in zip(old, sampler, strict=True)]
            advantage = torch.cat(
                [token_advantage(saved.rollouts[i], saved.advantages[i], row) for i, row in zip(micro_batch, weight, strict=True)]
            )
            loss = policy_loss(torch.cat(logprobs), torch.cat(old), advantage, saved.tokens, o.clip, o.dual_clip)
        loss.backward()
        gradients = [(name, p.grad) for name, p in policy.model.named_parameters() if p.grad is not None]
        norm = math.sqrt(sum(float(gradient.float().square().sum()) for _, gradient in gradients))
        bad = [name for name, gradient in gradients if not gradient.isfinite().all()]
        unlikely = [t.sample.id for t, row in zip(rollouts, old, strict=True) if not row.isfinite().all()]
        names = ", ".join(dict.fromkeys(t.sample.id for t in rollouts))
        print(f"loss {float(loss.detach()):.6g}, gradient norm {norm:.6g}, samples {names}")
        if unlikely:
            print(f"  log-probabilities are not finite in {', '.join(unlikely)}")
        if bad:
            print(f"  gradients are not finite in {len(bad)} weights, first {bad[0]}")
        broken = broken or not math.isfinite(loss.detach()) or bool(bad)
    print("reproduced: not finite again" if broken else "not reproduced: all is finite with these weights")
    return broken


def _last_weights(policy: PolicyModel, folder: Path) -> Path | None:
    """Load the last checkpoint of the run into the policy.

    Returns None if there is none: the policy keeps its base weights.
    """
    last = next((path for path in checkpoints.all_checkpoints(folder) if not checkpoints.damage(path)), None)
    if last is None:
        return None
    if strategies.strategy_of_checkpoint(last) != "whole":
        raise ValueError(f"{last} is sharded over ranks; give a policy folder with whole weights: python -m focus.replay FOLDER POLICY")
    state = torch.load(last, map_location="cpu", weights_only=True)["state_dict"]
    trained = {name.removeprefix("model."): value for name, value in state.items()}
    policy.model.load_state_dict(trained, strict=False)  # frozen weights may be missing; the policy has them from the base
    return last
