"""Pass the rollouts of an update whose loss or gradient was not finite through the network again. `python -m focus.replay FOLDER`.

FOLDER is what the run named when it ended, inside its output folder. The weights are those of the run's last checkpoint, or of a second
argument, a policy folder. Nothing is changed: the losses, gradients and samples are printed, and whether they are finite now.
"""

import math
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from focus import batch, ranks, resume
from focus.checkpoint import Checkpoint
from focus.logprobs import micro_batches, weighed
from focus.objective import policy_loss, sampler_weight
from focus.train import arithmetic, load_policy


def run(folder: Path, weights: str | None = None) -> bool:
    """Print what each pass gives; returns whether something is not finite again. Raises ValueError where something is missing."""
    kept = batch.load(folder)
    settings = folder.parent / "settings.yaml"
    if not settings.is_file():
        raise ValueError(f"{settings} does not exist; a replay needs the output folder of the run around {folder.name}")
    cfg = OmegaConf.load(settings)
    assert isinstance(cfg, DictConfig)
    if weights is not None:
        cfg.policy.checkpoint = weights
    policy = load_policy(cfg.policy)
    known = weights or _last_weights(policy, folder.parent / "checkpoints")
    print(f"update {kept.update}, {len(kept.rollouts)} rollouts, weights: {known or cfg.policy.checkpoint}")
    o, cap = cfg.objective, cfg.rollout.sampler_ratio_cap
    broken = False
    for lot in micro_batches(kept.rollouts, o.tokens_per_forward):
        policy.model.zero_grad()
        rollouts = [kept.rollouts[i] for i in lot]
        with arithmetic(cfg):
            logprobs, _ = weighed(policy, rollouts, cfg.rollout.temperature)
            old = [each.detach() for each in logprobs]
            sampler = [torch.tensor(t.sampler_logprobs, device=each.device) for t, each in zip(rollouts, old, strict=True)]
            weight = [sampler_weight(a, b, cap) for a, b in zip(old, sampler, strict=True)]
            advantage = torch.cat([kept.advantages[i] * each for i, each in zip(lot, weight, strict=True)])
            loss = policy_loss(torch.cat(logprobs), torch.cat(old), advantage, kept.tokens, o.clip, o.dual_clip)
        loss.backward()
        learned = [(name, p.grad) for name, p in policy.model.named_parameters() if p.grad is not None]
        norm = math.sqrt(sum(float(gradient.float().square().sum()) for _, gradient in learned))
        bad = [name for name, gradient in learned if not gradient.isfinite().all()]
        unlikely = [t.sample.id for t, each in zip(rollouts, old, strict=True) if not each.isfinite().all()]
        names = ", ".join(dict.fromkeys(t.sample.id for t in rollouts))
        print(f"loss {float(loss.detach()):.6g}, gradient norm {norm:.6g}, samples {names}")
        if unlikely:
            print(f"  log-probabilities are not finite in {', '.join(unlikely)}")
        if bad:
            print(f"  gradients are not finite in {len(bad)} weights, first {bad[0]}")
        broken = broken or not math.isfinite(loss.detach()) or bool(bad)
    print("reproduced: not finite again" if broken else "not reproduced: all is finite with these weights")
    return broken


def _last_weights(policy: Checkpoint, checkpoints: Path) -> Path | None:
    """Load the last checkpoint of the run into the policy; None where it left none: it starts from its base."""
    last = next((path for path in resume.found(checkpoints) if not resume.what_is_cut(path)), None)
    if last is None:
        return None
    if ranks.written_by(last) != "whole":
        raise ValueError(f"{last} is divided among ranks; give a policy folder with whole weights: python -m focus.replay FOLDER POLICY")
    state = torch.load(last, map_location="cpu", weights_only=True)["state_dict"]
    learned = {name.removeprefix("model."): value for name, value in state.items()}
    policy.model.load_state_dict(learned, strict=False)  # what did not learn may be left out; it is the base's
    return last


def main() -> None:
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("focus: python -m focus.replay FOLDER [POLICY]; FOLDER is what a run named when its loss or gradient was not finite")
    try:
        run(Path(sys.argv[1]), *sys.argv[2:])
    except ValueError as error:
        sys.exit(f"focus: {error}")


if __name__ == "__main__":
    main()
