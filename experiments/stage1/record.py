"""Turn finished runs into the record of this experiment: results.json, curves.png and trajectory.png beside this file.

Run first, from the repository root:
    make stage1
    make stage1 EXPERIMENT=stage1_no_gap        (stopped with ctrl-C after 60 updates, then finished there:)
    make stage1 EXPERIMENT=stage1_no_gap ARGS=objective.updates=60
With ARGS=evaluation.temperature=0 each is measured greedily too. Then
    .venv/bin/python -m experiments.stage1.record
"""

import json
from pathlib import Path

import matplotlib
from omegaconf import OmegaConf

from focus.build import build_policy, load_policy, run_facts
from focus.config.schema import TrainConfig
from focus.data.scenes import DIFFICULTY, Scene
from focus.evaluation.outcome import load_outcomes
from focus.gap import Gap, Mode
from focus.model import loading
from focus.report.picture import draw_trajectory
from focus.report.run import result_table
from focus.rewards import examples, score
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, begin, play
from focus.runtime import files
from focus.training.history import read_history

HERE = Path(__file__).parent
ARMS = ("stage1", "stage1_no_gap")


def arm(name: str) -> dict[str, object]:
    """Commit, settings that matter, intervals of every metric at both temperatures, and the mean seconds of an update."""
    folder = Path("outputs") / name
    cfg = TrainConfig.model_validate(OmegaConf.to_container(OmegaConf.load(folder / "settings.yaml")))
    history = read_history(folder / "history.jsonl")
    seconds = [row["seconds/rollout"] + row["seconds/update"] + row["seconds/reward"] for row in history]
    rows: dict[str, dict[str, object]] = {}
    for temperature in (1, 0):
        if not (folder / f"evaluation_trained_t{temperature}.json").is_file():
            continue  # not run
        measured = {
            f"{label} {view}": outcome
            for label in ("base", "trained")
            for view, outcome in load_outcomes(folder / f"evaluation_{label}_t{temperature}.json").items()
        }
        for row in result_table(run_facts(cfg), measured).rows:
            rows[f"t{temperature} {row.metric}"] = {
                column: None if cell is None or cell.mean != cell.mean else [round(value, 3) for value in (cell.mean, cell.low, cell.high)]
                for column, cell in zip(("base", "trained", "change"), row.cells, strict=True)
            }
    starts = [json.loads(line) for line in (folder / "trained_by.jsonl").read_text().splitlines()]
    return {
        "commit": ", ".join(dict.fromkeys(start["commit"][:7] for start in starts)),
        "seed": cfg.seed,
        "threads": cfg.threads,
        "updates": len(history),
        "seconds_per_update": round(sum(seconds) / len(seconds), 3),
        "rows": rows,
    }


def curves(path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = (("reward/accuracy", "accuracy (training rollouts)"), ("crop/rate", "crop rate"), ("crop/coverage", "coverage of B1"),
             ("crop/area_p50", "median crop area, share of image"))  # fmt: skip
    figure, axes = pyplot.subplots(1, len(shown), figsize=(13, 2.8), layout="constrained")
    for name, colour, label in (("stage1", "#1f6f8b", "gap: 16 tokens"), ("stage1_no_gap", "#c06c3e", "no gap: 256 tokens")):
        history = read_history(Path("outputs") / name / "history.jsonl")
        for axis, (key, title) in zip(axes, shown, strict=True):
            axis.plot([row["update"] for row in history], [row[key] for row in history], color=colour, label=label, linewidth=1.2)
            axis.set(title=title, xlabel="update")
    for axis in axes:
        axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def trajectory(path: Path) -> None:
    """The first held-out scene on a procedural ground (no third-party pixels) whose crop the trained policy answered rightly."""
    cfg = OmegaConf.load("outputs/stage1/settings.yaml")
    cfg.policy.checkpoint = "outputs/stage1/policy"
    module = build_policy(cfg, load_policy(cfg.policy))  # type: ignore[arg-type]
    policy = module.policy
    gap, limits = Gap(Mode.FIXED, cfg.gap.view_tokens, policy.token_px), RolloutLimits(1, cfg.rollout.crop_tokens, Sampling(0.0, 40))
    for index in range(500):
        scene = Scene(DIFFICULTY[cfg.data.difficulty], "eval", index)
        if scene.on_photograph:
            continue
        sample = scene.sample()
        view, source = gap.view_of(sample, scene.open())
        played = play(policy, KVEngine(policy), begin(policy, sample, view, source, [0]), limits)
        [example] = examples(played, score(module.rewards, played))
        if example.terms["accuracy"] == 1 and played[0].crops:
            draw_trajectory(example).save(path)
            return


def main() -> None:
    record = {
        "base": loading.load_model(loading.EMBEDDED, "tiny").weights_hash(),
        "arms": {name: arm(name) for name in ARMS},
    }
    (HERE / "results.json").write_text(files.json_text(record, indent=1) + "\n")
    curves(HERE / "curves.png")
    trajectory(HERE / "trajectory.png")
    print(f"written: {HERE / 'results.json'}, curves.png, trajectory.png")


if __name__ == "__main__":
    main()
