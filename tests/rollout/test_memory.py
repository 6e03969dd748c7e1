"""How many questions are played at the same time."""

from focus.rollout import memory
from focus.rollout.engine import Sampling
from focus.rollout.kv import PREFILL_TOKENS
from focus.rollout.loop import RolloutLimits
from focus.rollout.memory import Room, prefill_bytes, question_bytes
from tests.support.scripted import opened
from tests.support.updates import module_of, questions, trainer


def test_bytes_of_a_question_are_those_of_its_caches_logits_and_features(qwen2_5_vl):
    """2 layers, one key head of width 32, width 64, inner width 96; float32, so 256 bytes of keys and values a token and layer."""
    config = qwen2_5_vl.model.config
    words = config.get_text_config().vocab_size
    cached = 2 * 256 * (10 + 4 * 2 * 5)
    gathered = 256 * 2 * (10 + 5)
    logits = 3 * 4 * words * 2
    features = 64 * 4 * 7
    passing = 10 * (3 * 96 + 4 * 64) * 4
    assert question_bytes(config, 4, prompt=10, visual=7, suffix=5, rollouts=2) == cached + gathered + logits + features + passing


def test_features_of_deepstack_count_for_every_level(qwen3_vl):
    config = qwen3_vl.model.config
    levels = len(config.vision_config.deepstack_visual_indexes)
    more = question_bytes(config, 4, 10, 8, 5, 2) - question_bytes(config, 4, 10, 7, 5, 2)
    assert levels > 0 and more == (1 + levels) * config.get_text_config().hidden_size * 4


def test_room_is_for_the_longest_rollouts_first_and_then_for_such_as_were_played(qwen2_5_vl, monkeypatch):
    config, limits = qwen2_5_vl.model.config, RolloutLimits(1, 100, Sampling(1.0, 500))
    asked = opened(qwen2_5_vl, questions=1, siblings=4)
    prompt, view = len(asked[0].prompt_ids), asked[0].view.tokens
    longest = question_bytes(config, 4, prompt, view + 4 * 100, 2 * 500 + 100 + memory.REPLY_TOKENS, 4)
    played = question_bytes(config, 4, prompt, view, 0, 4)  # nothing follows these prompts yet
    free = (2.5 * longest + prefill_bytes(config, 4, PREFILL_TOKENS)) / memory.FREE_SHARE
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    room = Room(qwen2_5_vl, limits, 4)
    assert room.questions(asked) == 2
    room.saw(asked)
    assert room.questions(asked) == int(2.5 * longest // played) > 2
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert room.questions(asked) == 1


def test_on_the_cpu_all_questions_of_a_rank_are_played_together(qwen2_5_vl):
    assert Room(qwen2_5_vl, RolloutLimits(1, 64, Sampling(1.0, 6)), 4).questions(opened(qwen2_5_vl)) is None


def test_rollouts_are_the_same_however_many_questions_fit(qwen3_vl, monkeypatch):
    module = module_of(qwen3_vl)
    module.trainer = trainer()
    asked = next(iter(questions(per_update=3).train_dataloader()))
    [together] = module.roll_out(asked)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    apart = list(module.roll_out(asked))
    assert [len(part) for part in apart] == [4, 4, 4]
    assert [t.ids for part in apart for t in part] == [t.ids for t in together]
