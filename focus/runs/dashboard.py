"""Save the views of a W&B project."""

import os

import wandb
from omegaconf import DictConfig

from focus import config
from focus.config.schema import DashboardConfig


def run(composed: DictConfig) -> None:
    """Save three views, and print where they are. A second call saves a second set.

    Raises ValueError without an account, a network, or access to the project.
    """
    cfg = config.validated(composed, DashboardConfig)
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        raise ValueError("WANDB_MODE=offline: views are saved on the server. Unset it; report.html and sweep.html need no server")
    from focus.report.workspace import views  # it asks for the account as it is imported

    entity, project = cfg.project.split("/")
    try:
        for view in views(entity, project):
            view.save()
            print(f"{view.name}: {view.url}")
    except (wandb.errors.Error, OSError) as error:
        raise ValueError(f"W&B can't save the views of {cfg.project} ({error}); wandb login names your account") from error
