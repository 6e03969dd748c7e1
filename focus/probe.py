"""Does this policy look at what it zooms into? All arms of the probe (E10) on any checkpoint. `make probe CHECKPOINT=...`.

A probe that is interrupted goes on with the next view; one that is finished only shows its result again.
A folder that holds a probe of another policy, of other questions or with other settings is refused.
"""

import json
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig
from rich.console import Console

from focus import config, dependence
from focus.dependence import Examiner, Outcome, decompose, measure
from focus.gap import Gap, Mode
from focus.report.probe import draw_probe, probe_table
from focus.report.run import measurement
from focus.report.table import markdown_table, print_table
from focus.train import held_out_samples, load_player, rules


def run(cfg: DictConfig) -> None:
    """Play every arm at every view; write `probe.json`, `probe.md` and `probe.png`."""
    console = Console()
    config.check(cfg, "probe")
    torch.set_num_threads(cfg.threads)
    dependence.check_arms(cfg.evaluation.arms)
    samples, e = held_out_samples(cfg), cfg.evaluation
    if "gt" in e.arms and not any(sample.boxes for sample in samples):
        raise ValueError(
            f"the arm gt shows the annotated crop, but none of the {len(samples)} questions has a box (first: {samples[0].id}); "
            "annotate them, or leave gt out of evaluation.arms"
        )
    model, engine = load_player(cfg)
    output = Path(cfg.output) if cfg.output else _beside(cfg.policy.checkpoint, cfg.data.source)
    kept = output / "outcomes.json"
    identity = measurement(cfg, model.weights_hash(), samples)
    with config.writable(str(output)):
        dependence.refuse_other(kept, identity)
        known = dependence.load(kept, identity)
        dependence.save(known, kept, identity)
    for tokens in cfg.views:
        if str(tokens) not in known:
            gap = Gap(Mode.FIXED, tokens, model.token_px)
            examiner = Examiner(model, engine, gap, rules(cfg, e.temperature), cfg.seed, e.arms, e.questions_per_forward, e.sigma)
            known[str(tokens)], _ = measure(examiner, samples, f"{tokens} tokens")
            dependence.save(known, kept, identity)
    outcomes = {str(tokens): known[str(tokens)] for tokens in cfg.views}
    table = probe_table(str(cfg.policy.checkpoint), outcomes, e.resamples, e.temperature)
    (output / "probe.json").write_text(json.dumps(_record(cfg, model.weights_hash(), outcomes), indent=1, allow_nan=False) + "\n")
    (output / "probe.md").write_text(markdown_table(table))
    draw_probe(outcomes, output / "probe.png", e.resamples)
    print_table(table, console)
    bare = outcomes[str(cfg.views[0])].unannotated
    if bare and "gt" in e.arms:
        console.print(f"{len(bare)} of {len(samples)} questions have no box and are left out of the arm gt (first: {bare[0]})")
    console.print(f"table: {output / 'probe.md'}   figure: {output / 'probe.png'}\nprobe: {output / 'probe.json'}")


def _record(cfg: DictConfig, weights: str, outcomes: dict[str, Outcome]) -> dict[str, object]:
    """Every metric with its interval, and MED's decomposition, per view."""
    views = {}
    for view, outcome in outcomes.items():
        metrics = {m: outcome.interval(m, cfg.evaluation.resamples) for m in (*dependence.METRICS, *dependence.DIFFERENCES)}
        views[view] = {
            "metrics": {name: [round(value, 5) for value in found] for name, found in metrics.items() if found[0] == found[0]},
            "med": {part: {k: None if v != v else v for k, v in found.items()} for part, found in decompose(outcome).items()},
            "broken": outcome.broken,
            "unannotated": outcome.unannotated,
        }
    return {
        "checkpoint": cfg.policy.checkpoint,
        "weights": weights,
        "data": cfg.data.source,
        "samples": len(next(iter(outcomes.values())).groups),
        "temperature": cfg.evaluation.temperature,
        "seed": cfg.seed,
        "views": views,
    }


def _beside(checkpoint: str, source: str) -> Path:
    folder, name = Path(checkpoint), "probe" if source == "scenes" else f"probe_{source}"
    return folder.parent / name if folder.is_dir() else Path("outputs") / name / folder.name


@hydra.main(version_base="1.3", config_path="../conf", config_name="probe")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "probe")
