"""The plan beside a published step time: `python -m experiments.plan.peer` writes peer.json.

DeepEyes, Qwen2.5-VL-7B, one node of 8 GPUs, 256 questions x 16 rollouts by its script
(https://github.com/Visual-Agent/DeepEyes/issues/14). Its log says 6,426,750 tokens a step, 0.986 ms of generation for each response token,
hence 813,445 of these: 1,569 tokens a rollout, 199 of them in the response.
"""

import json
import subprocess
from pathlib import Path

from hydra import compose, initialize_config_dir

from focus import config
from focus.planning import estimate, hardware

HERE = Path(__file__).parent
PEER = {"in all": 2142.4, "generation": 802.1, "log-probabilities again": 293.3, "reward": 184.1, "update": 860.1}
SAID, TOKENS = 199, 1569
ROWS = {
    "its tokens": (f"lengths.turn={SAID}", "lengths.crops=0"),
    "one crop of 1,024 tokens, view of 1,024": ("lengths.view=1024", "lengths.turn=100", "lengths.crops=1"),
}


def planned(overrides: tuple[str, ...]) -> estimate.Plan:
    """The paper's stage 1 on 8 A100."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        cfg = compose("plan", ["experiment=stage1_7b", "devices=8", "device=a100_80gb", *overrides])
    if "lengths.crops=0" in overrides:  # the view is what is left of its tokens
        _, bare, _ = estimate.lengths(cfg)
        cfg.lengths.view = TOKENS - SAID - (bare.prompt - bare.view)
    return estimate.make_plan(cfg)


def main() -> None:
    rows = {}
    for name, overrides in ROWS.items():
        made = planned(overrides)
        seconds = {key: round(value, 1) for key, value in made.seconds.items()}
        tokens = round(made.mean.prompt + made.mean.suffix)
        rows[name] = {"tokens of a rollout": tokens, "seconds": seconds, "in all": round(sum(made.seconds.values()))}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record = {
        "commit": commit,
        "compute share": hardware.COMPUTE_SHARE,
        "bandwidth share": hardware.BANDWIDTH_SHARE,
        "peer": PEER,
        "rows": rows,
    }
    (HERE / "peer.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
