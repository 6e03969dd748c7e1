"""What `plan` says of 1, 8 and 64 GPUs: `python -m experiments.scale.table` writes results.json and the table of the README."""

import json
import subprocess
from pathlib import Path

from hydra import compose, initialize_config_dir

from focus import config
from focus.planning import estimate
from focus.planning.hardware import GIB

HERE = Path(__file__).parent
SEEN = ("lengths.view=1024", "gap.view_tokens=1024", "rollout.questions_per_forward=1")
RUNS = {
    "1 GPU, LoRA": ("experiment=stage1_7b_lora", "devices=1"),
    "8 GPUs, FSDP": ("experiment=stage1_7b", "devices=8"),
    "64 GPUs, FSDP, 8 nodes": ("experiment=stage1_7b", "devices=8", "trainer.num_nodes=8"),
}
HEAD = (
    "run", "device", "GiB of a device, longest", "mean", "usable", "host, GiB", "sent by a device in an update, GiB",
    "s an update, at least", "measured",
)  # fmt: skip


def row(name: str, device: str) -> dict[str, str]:
    """One run on one device."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        cfg = compose("plan", [*RUNS[name], f"device={device}", *SEEN])
    made = estimate.make_plan(cfg)
    cells = (
        name, device, f"{made.peak / GIB:.0f}", f"{estimate.make_plan(cfg, made.mean).peak / GIB:.0f}", f"{made.room / GIB:.0f}",
        f"{made.host['loading, each process its own copy'] / GIB:.0f}", f"{sum(made.network.values()) / GIB:,.0f}",
        f"{sum(made.seconds.values()):,.0f}", "*not run*",
    )  # fmt: skip
    return dict(zip(HEAD, cells, strict=True))


def table(rows: list[dict[str, str]]) -> str:
    """As markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(tuple(each.values()) for each in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    rows = [row(name, device) for name in RUNS for device in ("a100_80gb", "h200")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    (HERE / "results.json").write_text(json.dumps({"commit": commit, "settings": SEEN, "rows": rows}, indent=1) + "\n")
    readme = HERE / "README.md"
    shown = readme.read_text()
    readme.write_text(shown[: shown.index(f"| {HEAD[0]} |")] + table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
