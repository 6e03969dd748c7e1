"""How many visual tokens the views of a run have, from its settings alone."""

from pathlib import Path

from focus.config.schema import TrainConfig
from focus.config.section_checks import DRAWN
from focus.model.dialect import read_dialect


def original_tokens(cfg: TrainConfig) -> int | None:
    """Merged visual tokens of an original, where the run draws its pictures; None where they lie in files and may have any size."""
    if cfg.data.source not in DRAWN:
        return None
    return round(cfg.data.side_px / read_dialect(cfg.policy.dialect, cfg.policy.prompts).token_px) ** 2


def shown_tokens(cfg: TrainConfig, budget: int) -> int:
    """Visual tokens of a view of at most `budget`: a drawn picture has no more than its original, one from a file is taken to fill it."""
    return min(budget, original_tokens(cfg) or budget)


def view_budgets(cfg: TrainConfig) -> list[int]:
    """Visual tokens of the training views: those of the table of a calibrated gap, if it is there, else the widest view."""
    from focus.gap import read_levels  # here, because it imports torch, and settings are refused before that

    table = Path(cfg.gap.table) if cfg.gap.mode == "calibrated" and cfg.gap.table else None
    return [shown_tokens(cfg, budget) for budget in (read_levels(table).values() if table and table.is_file() else [cfg.gap.most_tokens])]
