"""A LightningModule whose checkpoints hold only the weights that are trained."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl


class SavesTrainableState(pl.LightningModule):
    """A module whose checkpoints hold only the trainable weights.

    Frozen weights come from the base policy. A run compares the base's hash before it resumes
    (started_from.txt).
    """

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trainable weights, by name."""
        state = super().state_dict(*args, **kwargs)
        for name in self._frozen():
            state.pop(kwargs.get("prefix", "") + name, None)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Raises RuntimeError where a trainable weight is missing, or a weight is unknown. Frozen weights may be left out."""
        keys = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = sorted(set(keys.missing_keys) - self._frozen())
        if strict and (missing or keys.unexpected_keys):
            raise RuntimeError(
                f"the checkpoint lacks {len(missing)} trainable weights (first: {missing[:1]}) and holds {len(keys.unexpected_keys)} "
                f"that this policy does not have (first: {keys.unexpected_keys[:1]})"
            )
        return keys

    def _frozen(self) -> set[str]:
        return {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
