"""Tables of a plan for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from focus.planning.bounds import Bounds
from focus.planning.estimate import Plan
from focus.planning.hardware import GIB


def tables(plan: Plan) -> list[Table]:
    """The tables that `make plan` prints after its sentences."""
    return [_lengths(plan), _memory(plan), _amounts("memory of a node", plan.host), _amounts("disk", plan.disk),
            _seconds("an update", plan.seconds), _seconds("the run", plan.run)]  # fmt: skip


def _lengths(plan: Plan) -> Table:
    shown = Table("", "longest", "mean", title="one rollout, tokens", title_justify="left")
    for name in ("prompt", "view", "turns", "turn", "crop", "sampled", "suffix"):
        shown.add_row(name, f"{getattr(plan.longest, name):,.0f}", f"{getattr(plan.mean, name):,.1f}")
    return shown


def _memory(plan: Plan) -> Table:
    shown = Table("", "GiB", title="memory of a device in each phase, at its widest", title_justify="left")
    for phase, terms in plan.phases.items():
        shown.add_section()
        shown.add_row(f"[bold]{phase}", f"[bold]{plan.peaks[phase] / GIB:,.2f}")
        for name, value in terms.items():
            if value:
                shown.add_row(f"  {name}", f"{value / GIB:,.2f}")
    return shown


def _amounts(title: str, rows: Mapping[str, float]) -> Table:
    shown = Table("", "GiB", title=title, title_justify="left")
    for name, value in rows.items():
        if value:
            shown.add_row(name, f"{value / GIB:,.2f}")
    return shown


def _seconds(title: str, parts: Mapping[str, Bounds]) -> Table:
    shown = Table("", "from", "to", title=f"seconds of {title}, orders of magnitude", title_justify="left")
    for name, value in parts.items():
        if value.high:
            shown.add_row(name, f"{value.low:,.1f}", f"{value.high:,.1f}")
    return shown
