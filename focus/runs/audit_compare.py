"""Two cards of audits on one page. `make audit-compare CARDS=[a/card.json,b/card.json]`."""

from pathlib import Path

from omegaconf import DictConfig

from focus import config
from focus.config.schema import AuditCompareConfig
from focus.report.audit_card import read_card
from focus.report.audit_page import differences, names_of, write_comparison


def run(composed: DictConfig) -> None:
    """Read both cards and write the page. Raises ValueError for a file that is no card, and for cards of different protocols."""
    cfg = config.validated(composed, AuditCompareConfig)
    cards = [read_card(Path(path)) for path in cfg.cards]
    write_comparison(cards, Path(cfg.output))
    for name, card in zip(names_of(cards), cards, strict=True):
        print(f"{name}:", *filter(None, (card.verdict, card.contradicted)))
    for label, values in differences(cards):
        print(f"they differ in {label}: {' | '.join(values)}")
    print(f"page: {cfg.output}")
