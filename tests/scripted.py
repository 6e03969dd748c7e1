"""A policy that says what it is told, so that tests can hold the loop to its word."""

from focus.data.boxes import Box
from focus.data.scenes import DIFFICULTY, Scene
from focus.gap import Gap, Mode
from focus.model.policy_model import PolicyModel
from focus.model.prompts import call_text
from focus.rollout.engine import Completion, Sampling
from focus.rollout.loop import RolloutLimits, begin, play
from focus.rollout.trajectory import Trajectory


class Scripted:
    """An engine: turn n of every conversation is the n-th text. A text longer than the token limit is cut, not stopped."""

    def __init__(self, checkpoint: PolicyModel, *script: str) -> None:
        self.policy, self.script = checkpoint, script

    def generate(self, conversations, sampling):
        for i, conversation in enumerate(conversations):
            text = self.script[int(conversation.id.rsplit(" ", 1)[1])]
            ids = tuple(self.policy.tokenizer.encode(text, add_special_tokens=False))
            cut = ids[: sampling.tokens_per_turn]
            yield i, Completion(cut, (-0.5,) * len(cut), stopped=cut == ids)

    def clear_cache(self) -> None:
        pass

    def sync_weights(self) -> None:
        pass


def call(*box_view: float) -> str:
    """A call as the policy would write it."""
    x1, y1, x2, y2 = box_view
    box: Box = (x1, y1, x2, y2)
    return call_text(box)


def playing(
    checkpoint: PolicyModel,
    *script: str,
    max_crops: int = 1,
    tokens_per_turn: int = 100,
    crop_tokens: int = 64,
    index: int = 0,
    gap: Mode = Mode.FIXED,
    view_tokens: int = 16,
    difficulty: int = 1,
) -> Trajectory:
    """One scripted conversation about an embedded scene of 448 x 448 px."""
    scene = Scene(DIFFICULTY[difficulty], "train", index)
    sample = scene.sample()
    view, source = Gap(gap, view_tokens, checkpoint.token_px).view_of(sample, scene.open())
    opened = begin(checkpoint, sample, view, source, [0])
    return play(checkpoint, Scripted(checkpoint, *script), opened, RolloutLimits(max_crops, crop_tokens, Sampling(1.0, tokens_per_turn)))[0]
