"""Tables of a plan for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from focus.planning.estimate import Plan
from focus.planning.hardware import GIB


def tables(plan: Plan) -> list[Table]:
    """The tables that `make plan` prints."""

    def table(title: str, rows: Mapping[str, float], unit: str, scale: float) -> Table:
        shown = Table("", unit, title=title, title_justify="left")
        for name, value in rows.items():
            if value:
                shown.add_row(name, f"{value / scale:,.2f}")
        return shown

    shown = Table("", "longest", "mean", title="one rollout, tokens", title_justify="left")
    for name in ("prompt", "view", "turns", "turn", "crop", "sampled", "suffix"):
        shown.add_row(name, f"{getattr(plan.longest, name):,.0f}", f"{getattr(plan.mean, name):,.1f}")
    return [
        shown,
        table("tokens, mean", plan.tokens, "thousands", 1e3),
        table("memory of a device, longest rollouts", plan.memory, "GiB", GIB),
        table("peak of each phase", plan.phases, "GiB", GIB),
        table("memory of a host", plan.host, "GiB", GIB),
        table("arithmetic of a device in an update", plan.flops, "TFLOP", 1e12),
        table("sent by a device in an update", plan.network, "GiB", GIB),
        table("seconds of an update, at least", plan.seconds | {"in all": sum(plan.seconds.values())}, "s", 1),
    ]
