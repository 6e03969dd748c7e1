"""Rollout, update, probe and engine on a GPU that is not there: no operation mixes devices, and the host seldom waits."""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy

from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.evaluation.outcome import METRICS
from focus.gap import Gap, Mode
from focus.model.policy_model import PolicyModel
from focus.rewards import RewardCallback
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, play, request_for
from focus.training.logprobs import sampled_logprobs
from tests.gpu.attention import kernel_of
from tests.gpu.device import FakeGPU
from tests.support.policies import FAMILIES
from tests.support.reference import Shape, equal, made
from tests.support.scripted import boxes_of, opened, steer
from tests.support.updates import Rows, loss_and_gradients, module_of, questions, trainer

WAITS_PER_STEP = 1  # of the host for the device, in a decoding step
LIMITS = RolloutLimits(1, 16, Sampling(1.0, 32))
in_short_calls = pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])  # those of Qwen3.5 have three times as many tokens
RAGGED = (  # groups of unequal prompts, rollouts with and without a crop
    ((4, 4), 9, [[Shape(5)], [Shape(7, (2, 3)), Shape(4)]]),
    ((3, 5), 4, [[Shape(3, (1, 1)), Shape(6)]]),
)


def test_a_test_that_follows_in_the_same_process_has_no_gpu():
    with FakeGPU():
        assert torch.accelerator.device_count() == 1
    assert not torch.accelerator.is_available()
    with torch.random.fork_rng():  # asks every device for its state
        torch.manual_seed(0)


@pytest.fixture(params=FAMILIES, scope="module")
def family(request) -> str:
    return request.param


@pytest.fixture
def on_cpu(family) -> PolicyModel:
    return FAMILIES[family](seed=3)


@pytest.fixture
def gpu():
    with FakeGPU() as gpu:
        yield gpu


@pytest.fixture
def on_gpu(family, gpu) -> PolicyModel:
    """The same policy on the device."""
    policy = FAMILIES[family](seed=3)
    gpu.place(policy.model)
    gpu.reset()
    return policy


# ------------------------------------------------------------------------------------------------ the device


def test_a_tensor_that_was_left_on_the_host_is_refused(gpu):
    near, far = torch.ones(3), torch.ones(3, device="gpu:0")
    assert str(far.device) == "gpu:0" and float((far + 1).sum()) == 6
    for mixed in (
        lambda: far + near,
        lambda: torch.cat([far, near]),
        lambda: near[far.long()],
        lambda: far.index_put_((far.long(),), near),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    assert (far * torch.tensor(2.0)).tolist() == [2.0] * 3  # a number without dimensions may stay
    assert far[torch.tensor([0, 2])].tolist() == [1.0] * 2  # and so may an index
    with pytest.raises(RuntimeError, match="numpy"):
        far.numpy()


def waits_of(gpu: FakeGPU, action) -> int:
    gpu.reset()
    action()
    return sum(gpu.waits.values())


def test_what_makes_the_host_wait(gpu):
    x, near = torch.arange(4, device="gpu:0"), torch.ones(4)
    y, mask = x.clone(), x > 1
    waiting = (
        x.sum().item, x.tolist, x.cpu, mask.nonzero, mask.any().__bool__, x.bincount, lambda: torch.equal(x, y), lambda: x[mask],
        lambda: x.masked_select(mask), lambda: x.repeat_interleave(x), lambda: near.to("gpu:0"), lambda: y[torch.tensor([0, 1])],
        lambda: torch.tensor([1, 2], device="gpu:0"),
    )  # fmt: skip
    assert [waits_of(gpu, each) for each in waiting] == [1] * len(waiting)
    flowing = (
        lambda: x + 1, lambda: x[x], lambda: x[1:3].view(2, 1), lambda: torch.zeros(4, device="gpu:0"), lambda: x.masked_fill(mask, 0),
        lambda: y.__setitem__(mask, 0), lambda: near.to("gpu:0", non_blocking=True), lambda: x.repeat_interleave(x, output_size=6),
    )  # fmt: skip
    assert [waits_of(gpu, each) for each in flowing] == [0] * len(flowing)


@pytest.mark.parametrize(
    ("dtype", "key_heads", "masked", "square", "h100", "a100"),
    [
        (torch.bfloat16, 4, False, True, "cudnn", "flash"),
        (torch.bfloat16, 2, False, True, "cudnn", "flash"),
        (torch.bfloat16, 4, True, True, "cudnn", "efficient"),
        (torch.bfloat16, 2, True, True, "cudnn", "math"),  # the mask is not flash's, the groups are not efficient's
        (torch.float32, 4, True, True, "efficient", "efficient"),
        (torch.float32, 2, False, True, "math", "math"),
        (torch.bfloat16, 4, False, False, "cudnn", "efficient"),
    ],
)
def test_the_kernel_of_attention_that_cuda_chooses(dtype, key_heads, masked, square, h100, a100):
    query, key = torch.zeros((1, 4, 6, 64), dtype=dtype), torch.zeros((1, key_heads, 6 if square else 8, 64), dtype=dtype)
    mask = torch.ones((6, key.shape[2]), dtype=torch.bool) if masked else None
    assert [kernel_of(query, key, mask, not masked, capability) for capability in ((9, 0), (8, 0))] == [h100, a100]


# ------------------------------------------------------------------------------------------------ rollout and update


@in_short_calls
def test_rollouts_with_crops_are_those_of_the_cpu(on_cpu, on_gpu):
    """Two groups, two turns, rows that end at different steps; and log-probabilities of words after them, which a reward may ask for."""
    played, scores = [], []
    for policy in (on_cpu, on_gpu):
        engine = steer(policy, boxes_of(policy), 1)
        played.append(play(policy, engine, opened(policy, siblings=2), LIMITS))
        words = policy.tokenizer.encode("7", add_special_tokens=False)
        scores += engine.logprobs([request_for(played[0][0], -1, words)], [len(words)])
    here, there = played
    assert [len(t.crops) for t in there] == [1] * 4
    assert [t.ids for t in here] == [t.ids for t in there]
    assert all(a.sampler_logprobs == pytest.approx(b.sampler_logprobs, abs=1e-5) for a, b in zip(here, there, strict=True))
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_the_host_waits_seldom_in_a_decoding_step(on_gpu, gpu):
    asked = opened(on_gpu)

    def waits(tokens: int) -> int:
        gpu.reset()
        play(on_gpu, KVEngine(on_gpu), asked, replace(LIMITS, max_crops=0, sampling=Sampling(1.0, tokens)))
        return sum(gpu.waits.values())

    assert (waits(8) - waits(4)) / 4 <= WAITS_PER_STEP, gpu.waits


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_the_update_gives_every_weight_the_gradient_of_the_cpu(on_cpu, on_gpu, gpu, recompute):
    played = made(on_cpu, RAGGED)
    gradients = []
    for policy in (on_cpu, on_gpu):
        if recompute:
            policy.recompute_activations()
        gradients.append(loss_and_gradients(policy, sampled_logprobs(policy, played, 1.0), [1.0, -1.0, 0.5])[1])
    here, there = gradients
    assert here.keys() == there.keys() == {name for name, _ in on_cpu.model.named_parameters()}
    for name, gradient in here.items():
        assert (gradient - there[name].cpu()).abs().max() <= 1e-5 * max(1.0, float(gradient.abs().max())), name


@in_short_calls
def test_in_bfloat16_rollout_and_update_use_the_flash_attention_kernel_alone(on_cpu, family, gpu):
    """It keeps no scores, whatever the mask and the groups of queries."""
    policy = FAMILIES[family](seed=3)
    gpu.place(policy.model, torch.bfloat16)
    [*_, spoken] = play(policy, KVEngine(policy), opened(policy, siblings=2), replace(LIMITS, max_crops=0, sampling=Sampling(1.0, 4)))
    rollouts = made(on_cpu, RAGGED)
    here, there = (torch.cat(sampled_logprobs(each, rollouts, 1.0)) for each in (on_cpu, policy))
    there.sum().backward()
    assert len(spoken.turns[0].ids) == 4 and (here - there.cpu()).abs().mean() < 0.1
    assert {kernel for _, kernel in gpu.attention} == {"packed flash"}
    assert all(weight.grad is not None for weight in policy.model.parameters())


class Accelerator(pl.accelerators.Accelerator):
    """So that Lightning knows the device."""

    def setup_device(self, device) -> None:
        pass

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):
        return [torch.device("gpu:0")]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "gpu"


class EverySecond(RewardCallback):
    """Pays every second rollout."""

    name = "every_second"

    def score(self, trajectories):
        return [float(i % 2) for i in range(len(trajectories))]


@in_short_calls
def test_a_whole_update_by_the_trainer_leaves_the_weights_of_the_cpu(on_cpu, on_gpu, gpu):
    """View, rollouts, rewards, advantage, gradients, clipping, optimiser, metrics."""
    device = {"accelerator": Accelerator(), "strategy": SingleDeviceStrategy(torch.device("gpu:0"))}
    rows = []
    for policy, more in ((on_cpu, {}), (on_gpu, device)):
        module = module_of(policy, grad_clip=1.0, rollouts_per_question=2)
        module.engine, module.limits, module.rewards = steer(policy, boxes_of(policy), 1), LIMITS, [EverySecond(1.0)]
        logged = Rows()
        trainer(callbacks=[logged], **more).fit(module, questions(updates=1, per_update=1))
        rows += logged.rows
    here, there = ({name: value for name, value in row.items() if name.startswith(("reward/", "crop/", "objective/"))} for row in rows)
    assert here["crop/rate"] == 1 and here["objective/grad_norm"] > 0 and gpu.launches["_fused_adamw_"] == 1
    assert here == pytest.approx(there, rel=1e-4, abs=1e-5, nan_ok=True)
    for (name, mine), other in zip(on_cpu.model.named_parameters(), on_gpu.model.parameters(), strict=True):
        assert (mine - other.cpu()).abs().mean() < 1e-5, name  # AdamW's first step follows signs, and a few are those of rounding


def test_a_target_that_was_left_on_the_host_is_refused_where_it_is_used(on_cpu, on_gpu, monkeypatch):
    """A planted mistake that no computation on a CPU can show."""
    for policy in (on_cpu, on_gpu):
        head = policy.unwrapped.lm_head.forward
        monkeypatch.setattr(policy.unwrapped.lm_head, "forward", lambda hidden, target, *rest, head=head: head(hidden, target.cpu(), *rest))
        hidden = torch.zeros((1, policy.unwrapped.lm_head.in_features), device=policy.model.device)
        if policy is on_cpu:
            policy.token_logprobs(hidden, torch.tensor([7]), 1.0)
        else:
            with pytest.raises(RuntimeError, match=r"same device: aten.gather.* at model/policy_model.py:\d+"):
                policy.token_logprobs(hidden, torch.tensor([7]), 1.0)


# ------------------------------------------------------------------------------------------------ evaluation


@in_short_calls
def test_the_probe_measures_what_it_measures_on_the_cpu(on_cpu, on_gpu):
    outcomes = []
    for policy in (on_cpu, on_gpu):
        evaluator = Evaluator(
            policy, steer(policy, boxes_of(policy), 1), Gap(Mode.FIXED, 16, policy.token_px), LIMITS, 5, ("noise", "tool_free"), 2
        )
        outcomes.append(measure(evaluator, Scenes(replace(DIFFICULTY[1], side_px=224), "eval", 2), None)[0])
    here, there = outcomes
    assert sum(here.values["called"]) == 2
    assert all(equal(here.values[metric], there.values[metric]) for metric in METRICS)
