"""Two cards of audits on one page. `make audit-compare CARDS=[a/card.json,b/card.json]`."""

from pathlib import Path

from omegaconf import DictConfig

from focus import config
from focus.config.schema import AuditCompareConfig
from focus.report.audit_card import read_card, write_comparison


def run(composed: DictConfig) -> None:
    """Read both cards and write the page. Raises ValueError for a file that is no card, and for cards of different protocols."""
    cfg = config.validated(composed, AuditCompareConfig)
    cards = [read_card(Path(path)) for path in cfg.cards]
    write_comparison(cards, Path(cfg.output))
    for card in cards:
        print(f"{card.agent.name}:", *filter(None, (card.verdict, card.contradicted)))
    print(f"page: {cfg.output}")
