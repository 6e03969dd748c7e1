"""How much of the machine's matrix product the update reaches, and what takes the rest. `python -m experiments.speed.peak`.

Writes peak.json. The peak is measured in the same run, in turns with the update: the fastest of several sizes of float32 product.
"""

from collections.abc import Callable

import torch
from torch.profiler import profile

from experiments.speed import update
from experiments.speed.timing import REPEATS, seconds, spread, write
from experiments.speed.work import update_work
from focus.model.loading import EMBEDDED, load_model
from focus.model.policy_model import PolicyModel
from focus.pretraining.architecture import build_model
from focus.pretraining.tokenizer import build_tokenizer

SIZES = (512, 1024, 2048)
PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_flash_attention_for_cpu_backward"),
}


def peak_flops() -> float:
    """Operations per second of the fastest product."""
    best = 0.0
    for n in SIZES:
        a, b = torch.randn(n, n), torch.randn(n, n)
        best = max(best, 2 * n**3 / min(seconds(lambda a=a, b=b: a @ b) for _ in range(3)))
    return best


def where(work: Callable[[], object]) -> dict[str, float]:
    """Share of the processor's time by part, and the five largest of the rest, in percent."""
    with profile() as recorded:
        work()
    spent = {row.key: row.self_cpu_time_total for row in recorded.key_averages()}
    total = sum(spent.values())
    shares = {part: 100 * sum(spent.pop(name, 0.0) for name in names) / total for part, names in PARTS.items()}
    largest = sorted(spent, key=lambda name: -spent[name])[:5]
    shares |= {name: 100 * spent.pop(name) / total for name in largest}
    return {name: round(share, 1) for name, share in (shares | {"everything else": 100 * sum(spent.values()) / total}).items()}


def measure(name: str, policy: PolicyModel, visual: int, questions: int) -> dict[str, object]:
    trajectories = update.group(policy, visual, questions)
    work = update_work(policy, trajectories, shared=True)

    def once() -> None:
        update.shared(policy, trajectories)

    once()
    pairs = [(peak_flops(), work.total / seconds(once)) for _ in range(REPEATS)]
    return {
        "model": name,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "visual_tokens": visual,
        "groups": questions,
        "peak_gflops": spread([peak / 1e9 for peak, _ in pairs]),
        "update_gflops": spread([ours / 1e9 for _, ours in pairs]),
        "share_of_peak": spread([ours / peak for peak, ours in pairs]),
        "operations_by_part": {part: round(value / work.total, 3) for part, value in vars(work).items()},
        "processor_time_percent": where(once),
    }


def main() -> None:
    torch.set_num_threads(update.THREADS)
    rows = [measure("random, width 512", build_model(build_tokenizer(), width=512, layers=4), 256, 1)]
    rows.append(measure("embedded, width 128", load_model(EMBEDDED, "tiny"), 16, 8))
    rows.append(measure("embedded, width 128", load_model(EMBEDDED, "tiny"), 256, 8))
    write("peak", rows)


if __name__ == "__main__":
    main()
