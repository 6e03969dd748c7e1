"""The saved views of a W&B project: stage 1, stage 2, and sweeps. `make dashboard PROJECT=ENTITY/PROJECT`."""

from collections.abc import Sequence

import wandb_workspaces.reports.v2 as panels
from wandb_workspaces.workspaces import Section, Workspace, WorkspaceSettings

# Title of a chart -> its curves. Every name stands in docs/metrics.md
STAGE1 = {
    "What it earns": {
        "Reward": ["reward/total"],
        "Right answers, crops": ["reward/accuracy", "crop/rate"],
        "Dependence: accuracy own - noise": ["probe/D_noise"],
    },
    "Where it looks": {
        "Share of B1 inside the crop": ["crop/coverage"],
        "Crop area / image area": ["crop/area_p10", "crop/area_p50", "crop/area_p90"],
        "How rollouts end": ["ending/answered", "ending/malformed", "ending/out_of_turns", "ending/out_of_tokens"],
    },
    "What the update does": {
        "Groups that teach nothing": ["group/zero_variance"],
        "Entropy, nats per token": ["objective/entropy"],
        "Gradient norm": ["objective/grad_norm"],
        "Trainer against sampler, nats": ["objective/mismatch_mean"],
        "Seconds": ["seconds/rollout", "seconds/update"],
        "Peak memory, GiB": ["memory/peak_gib"],
    },
}
STAGE2 = {
    "Grounding": {
        "Grounding reward": ["reward/grounding"],
        "Best IoU with B1 to B3": ["crop/iou"],
        "Share of B1 inside the crop": ["crop/coverage"],
        "Crop area / image area": ["crop/area_p10", "crop/area_p50", "crop/area_p90"],
    },
    **{name: STAGE1[name] for name in ("What it earns", "What the update does")},
}
# Of the last update of every run, against what was swept
SWEPT = {"View, visual tokens": "gap.view_tokens", "Seed": "seed"}
AGAINST = {
    "Right answers": "reward/accuracy",
    "Dependence: accuracy own - noise": "probe/D_noise",
    "Crop area / image area, median": "crop/area_p50",
    "Share of B1 inside the crop": "crop/coverage",
}


def views(entity: str, project: str) -> list[Workspace]:
    """The three views, not saved yet."""
    trajectories = Section(name="Trajectories", panels=[panels.WeavePanelSummaryTable(table_name="trajectories")], is_open=True)
    swept = [
        Section(
            name=f"Against {label}",
            panels=[
                panels.ScatterPlot(title=title, x=panels.Config(key), y=panels.SummaryMetric(metric)) for title, metric in AGAINST.items()
            ],
            is_open=True,
        )
        for label, key in SWEPT.items()
    ]
    return [
        Workspace(entity=entity, project=project, name="focus: stage 1", sections=[*_curves(STAGE1), trajectories]),
        Workspace(entity=entity, project=project, name="focus: stage 2", sections=[*_curves(STAGE2), trajectories]),
        Workspace(
            entity=entity,
            project=project,
            name="focus: sweeps",
            sections=swept,
            settings=WorkspaceSettings(max_runs=100),
        ),
    ]


def _curves(charts: dict[str, dict[str, list[str]]]) -> Sequence[Section]:
    return [
        Section(name=name, panels=[panels.LinePlot(title=title, x="Step", y=[*keys]) for title, keys in of_section.items()], is_open=True)
        for name, of_section in charts.items()
    ]
