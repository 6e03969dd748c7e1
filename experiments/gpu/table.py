"""The claims that a GPU decides: `python -m experiments.gpu.table` writes the table of the README from results.json, if there is one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = ("claim", "predicted", "section", "measured")
NOT_RUN = "*not run*"
Say = Callable[[dict[str, Any]], str]  # what a section found, in words


def each(say: Callable[[Any], str]) -> Say:
    """Words for a section that found the same quantities by name."""
    return lambda found: "; ".join(f"{name}: {say(value)}" for name, value in found.items())


def gib(value: float | None) -> str:
    return f"memory {NOT_RUN}" if value is None else f"{value:.1f} GiB"  # a CPU does not count it


def seconds(value: dict[str, Any] | str) -> str:
    return value if isinstance(value, str) else f"{value['s']:.3g} s, {gib(value['gib'])}"


# Claim, prediction, the section that decides, and what it says
CLAIMS: tuple[tuple[str, str, str, Say], ...] = (
    ("Shared prompts give the gradient of the naive update",
     "at most 0.001 apart in float32, and twice as far as the naive one in bfloat16", "equality",
     each(lambda v: f"{v['shared']:.1e}, naive {v['naive']:.1e}")),
    ("The sampler's log-probabilities are the trainer's", "at most 0.001 nats apart in float32, 0.2 in bfloat16", "sampler",
     each(lambda v: f"{v:.1e}")),
    ("A training on a GPU ends, and resumes", "exit status 1 when stopped, then 0", "smoke",
     lambda found: ", ".join(f"{found[name]['status']} after {found[name]['s']:.0f} s" for name in ("begun", "resumed"))),
    ("FSDP2 trains on one GPU", "exit status 0", "sharded", each(lambda v: f"{v['status']} after {v['s']:.0f} s")),
    ("Attention of a turn with crops has a fused kernel", "under 10 GiB for 16 crops over a view of 16,384", "second_turn",
     each(lambda v: f"{seconds(v['turn'])}, {', '.join(v['attention'])}")),
    ("The flash-attention kernel in PyTorch serves packed groups", "output and gradient at most 0.02 from SDPA in float32", "ragged",
     lambda found: f"{found['packed groups']['output']:.1e} and {found['packed groups']['gradient']:.1e}, {', '.join(found['operators'])}"),
    ("A decoding step waits for the host", "kernels are less than half of a step of 16 rows", "decoding",
     each(lambda v: f"{v['step_ms']:.1f} ms, of which kernels {v['kernel_ms']:.1f}; {v['tokens_per_s']:.0f} tokens/s")),
    ("The vision tower takes little of an update", "under 15 % of the time", "update",
     lambda found: f"{found['tower on the crops']['s'] / found['shared']['s']:.0%}"),
    ("An update with shared prompts is faster than the naive one", "1.5 times at a view as large as a crop", "update",
     lambda found: f"{found['naive over shared']:.1f} times, {found['shared']['tokens_per_s']:.0f} tokens/s"),
    ("`make plan`: memory of an update", "within 15 %", "update",
     lambda found: f"planned {gib(found['planned_gib'])}, used {gib(found['shared']['gib'])}"),
    ("`make plan`: memory of a turn with crops", "within 15 %", "second_turn",
     each(lambda v: f"planned {gib(v['planned_gib'])}, used {gib(v['turn']['gib'])}")),
    ("`make plan`: share of the peak that an update reaches", "0.14 to 0.40", "update", lambda found: f"{found['compute_share']:.2f}"),
    ("`make plan`: share of the bandwidth that decoding reaches", "0.3 to 0.6", "decoding",
     each(lambda v: f"{v['bandwidth_share']:.2f}")),
    ("Fused AdamW is faster and needs no temporaries", "half the time", "optimiser", each(seconds)),
    ("Patches are made fast enough", "under 10 ms for 1,024 tokens", "patches",
     each(lambda v: f"{1e3 * v['sixteen_s'] / 16:.0f} ms")),
)  # fmt: skip


def table(record: dict[str, Any] | None) -> str:
    """As markdown. A section that has not run leaves *not run*."""
    sections = record["sections"] if record else {}
    lines: list[tuple[str, ...]] = [HEAD, ("---",) * len(HEAD)]
    for claim, predicted, name, say in CLAIMS:
        entry = sections.get(name, {})
        measured = "**failed**" if "error" in entry else say(entry["found"]) if "found" in entry else NOT_RUN
        lines.append((claim, predicted, f"`{name}`", measured))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def recorded() -> dict[str, Any] | None:
    """The record beside this file, if a GPU has made one."""
    path = HERE / "results.json"
    return json.loads(path.read_text()) if path.is_file() else None


def main() -> None:
    readme = HERE / "README.md"
    shown = readme.read_text()
    readme.write_text(shown[: shown.index(f"| {HEAD[0]} |")] + table(recorded()))


if __name__ == "__main__":
    main()
