"""The plan beside published step times: `python -m experiments.plan.peer` writes peer.json and the table of the README.

Each peer's questions, rollouts and tokens are planned with the settings of the paper's stage 1. What a peer does not say is assumed, and
named in `assumed`.

- DeepEyes, Qwen2.5-VL-7B, one node of 8 GPUs, 256 questions x 16 rollouts by its script (https://github.com/Visual-Agent/DeepEyes/issues/14).
  Its log says 6,426,750 tokens a step and 0.986 ms of generation for each response token, hence 813,445 of these: 1,569 tokens a rollout,
  199 of them in the response.
- EasyR1 0.3.0, Qwen2.5-VL-7B on Geometry3k, 8 x H100: 1,200 tokens/s a GPU and 180 s a step (hiyouga/EasyR1, assets/baselines.md, commit
  46c6c21), 512 questions x 5 rollouts by its examples/config.yaml, hence 675 tokens a rollout.
- verl, Qwen3.5-9B on Geometry3k, 8 x H800: 143 tokens/s a GPU and 290 s a step of 32 questions x 5 rollouts, with Megatron and SGLang
  (https://github.com/verl-project/verl/issues/7203), hence 2,073 tokens a rollout. Planned with Qwen3-VL-8B, its nearest architecture here.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir

from focus import config
from focus.config.schema import PlanConfig
from focus.planning import estimate, hardware, lengths
from focus.planning.answer import number
from focus.planning.bounds import Bounds, total

HERE = Path(__file__).parent
HEAD = ("what", "questions x rollouts", "tokens of a rollout", "sampling, s", "update, s", "other passes, s", "in all, s")


@dataclass(frozen=True)
class Peer:
    """A published step: seconds by part, its work, and the device that it is planned for."""

    seconds: dict[str, float]
    questions: int
    rollouts: int
    tokens: int  # of a rollout, prompt included
    sampled: int
    device: str
    policy: tuple[str, ...] = ()
    assumed: str = ""


PEERS = {
    "DeepEyes 7B, 8 GPUs": Peer(
        {"in all": 2142.4, "sampling": 802.1, "update": 860.1, "other passes": 293.3}, 256, 16, 1569, 199, "a100_80gb",
        assumed="A100: its log names no GPU",
    ),
    "EasyR1 7B, 8 x H100": Peer(
        {"in all": 180}, 512, 5, 675, 300, "h100_80gb", assumed="300 of its tokens sampled"
    ),
    "verl 9B, 8 x H800": Peer(
        {"in all": 290, "sampling": 29, "update": 91, "other passes": 84 + 82}, 32, 5, 2073, 1000, "h100_80gb",
        ("policy=qwen3_vl_8b",), assumed="1,000 of its tokens sampled; H100 for H800; the 8B model",
    ),
}  # fmt: skip


def settings(peer: Peer, engine: str) -> PlanConfig:
    """The paper's stage 1 with the work of a peer, one turn without a crop."""
    overrides = [
        "experiment=stage1_7b", "devices=8", f"device={peer.device}", f"rollout={engine}", *peer.policy, "lengths.crops=0",
        f"lengths.turn={peer.sampled}", f"rollout.questions_per_update={peer.questions}", f"rollout.rollouts_per_question={peer.rollouts}",
    ]  # fmt: skip
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        cfg = config.validated(compose("plan", overrides), PlanConfig)
    _, bare, _ = lengths.lengths(cfg)
    view = peer.tokens - peer.sampled - (bare.prompt - bare.view)  # what is left of its tokens
    return cfg.model_copy(update={"lengths": cfg.lengths.model_copy(update={"view": view})})


def parts(made: estimate.Plan) -> dict[str, Bounds]:
    """Seconds of a plan, in the parts of a peer."""
    update = total([made.seconds["update"], made.seconds["optimiser"]])
    sampling = total([value for name, value in made.seconds.items() if name not in ("update", "optimiser")])
    return {"sampling": sampling, "update": update, "in all": made.of_an_update}


def rows() -> list[dict[str, str]]:
    """A row for each peer and for our plan of its work, by engine."""
    found = []
    for name, peer in PEERS.items():
        work = f"{peer.questions} x {peer.rollouts}"
        logged = [f"{peer.seconds[key]:,.0f}" if key in peer.seconds else "" for key in ("sampling", "update", "other passes", "in all")]
        found.append(dict(zip(HEAD, (f"{name}, published", work, f"{peer.tokens:,}", *logged), strict=True)))
        for engine in ("kv", "vllm"):
            made = estimate.make_plan(settings(peer, engine))
            ours = parts(made)
            shown = [_bounds(ours["sampling"]), _bounds(ours["update"]), "none", _bounds(ours["in all"])]
            tokens = f"{made.mean.prompt + made.mean.suffix:,.0f}"
            found.append(dict(zip(HEAD, (f"plan, rollout={engine}", work, tokens, *shown), strict=True)))
    return found


def _bounds(value: Bounds) -> str:
    return f"{number(value.low)} to {number(value.high)}"


def table(found: list[dict[str, str]]) -> str:
    """As markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(tuple(each.values()) for each in found)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    found = rows()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record = {
        "commit": commit,
        "compute share": [hardware.COMPUTE_SHARE.low, hardware.COMPUTE_SHARE.high],
        "bandwidth share": [hardware.BANDWIDTH_SHARE.low, hardware.BANDWIDTH_SHARE.high],
        "assumed": {name: peer.assumed for name, peer in PEERS.items()},
        "rows": found,
    }
    (HERE / "peer.json").write_text(json.dumps(record, indent=1) + "\n")
    readme = HERE / "README.md"
    shown = readme.read_text()
    start = shown.index(f"| {HEAD[0]} |")
    readme.write_text(shown[:start] + table(found) + shown[shown.index("\n\n", start) + 1 :])
    print(table(found))


if __name__ == "__main__":
    main()
