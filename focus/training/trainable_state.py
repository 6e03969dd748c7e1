"""A LightningModule whose checkpoints hold only the weights that are trained."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl


class SavesTrainableState(pl.LightningModule):
    """A module whose checkpoints hold the weights that learn and no more.

    What is frozen lies in the base policy: a run compares its hash before it goes on (started_from.txt).
    """

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights that learn, by name."""
        state = super().state_dict(*args, **kwargs)
        for name in self._frozen():
            state.pop(kwargs.get("prefix", "") + name, None)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Raises RuntimeError where a weight that learns is missing, or one is not known here. Frozen ones may be left out."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = sorted(set(found.missing_keys) - self._frozen())
        if strict and (missing or found.unexpected_keys):
            raise RuntimeError(
                f"the checkpoint lacks {len(missing)} weights that learn (first: {missing[:1]}) and holds {len(found.unexpected_keys)} "
                f"that this policy does not have (first: {found.unexpected_keys[:1]})"
            )
        return found

    def _frozen(self) -> set[str]:
        return {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
