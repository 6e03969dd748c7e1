"""What `plan` says of 1, 8 and 64 GPUs: `python -m experiments.scale.table` writes results.json and the table of the README."""

import json
import subprocess
from pathlib import Path

from hydra import compose, initialize_config_dir

from focus import config
from focus.config.schema import PlanConfig
from focus.planning import estimate
from focus.planning.answer import duration
from focus.planning.hardware import GIB

HERE = Path(__file__).parent
SEEN = ("lengths.view=1024", "gap.view_tokens=1024")
RUNS = {
    "1 GPU, LoRA": ("experiment=stage1_7b_lora", "devices=1"),
    "8 GPUs, FSDP": ("experiment=stage1_7b", "devices=8"),
    "64 GPUs, FSDP, 8 nodes": ("experiment=stage1_7b", "devices=8", "trainer.num_nodes=8"),
}
HEAD = (
    "run", "device", "engine", "GiB of a device, most", "in which phase", "usable", "host, GiB", "disk, GiB",
    "sent by a device in an update, GiB", "an update", "the run", "measured",
)  # fmt: skip


def row(name: str, device: str, engine: str) -> dict[str, str]:
    """One run on one device with one engine."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        cfg = config.validated(compose("plan", [*RUNS[name], f"device={device}", f"rollout={engine}", *SEEN]), PlanConfig)
    made = estimate.make_plan(cfg)
    phase = max(made.peaks, key=lambda each: made.peaks[each])
    cells = (
        name, device, engine, f"{made.peak / GIB:.0f}", phase, f"{made.room / GIB:.0f}", f"{sum(made.host.values()) / GIB:.0f}",
        f"{made.disk['in all'] / GIB:.0f}", f"{sum(made.network.values()) / GIB:,.0f}", duration(made.of_an_update),
        duration(made.of_the_run), "*not run*",
    )  # fmt: skip
    return dict(zip(HEAD, cells, strict=True))


def table(rows: list[dict[str, str]]) -> str:
    """As markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(tuple(each.values()) for each in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    rows = [row(name, device, engine) for name in RUNS for device in ("a100_80gb", "h100_80gb", "h200") for engine in ("kv", "vllm")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    (HERE / "results.json").write_text(json.dumps({"commit": commit, "settings": SEEN, "rows": rows}, indent=1) + "\n")
    readme = HERE / "README.md"
    shown = readme.read_text()
    readme.write_text(shown[: shown.index(f"| {HEAD[0]} | ")] + table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
