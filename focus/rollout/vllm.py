"""vLLM as the engine: for models and groups whose caches no decode loop of our own would hold. Beyond the default.

A conversation is sent as the ids that were sampled, with one placeholder for each image, which vLLM expands; its prefix cache finds the
earlier turns, and the prompt that siblings share. Two places for it, behind one interface: processes of its own on this process's device
(`Colocated`), or a server on other devices (`Remote`). Either draws under the same ban, temperature and stops as `kv`, and tells the
log-probability in that very distribution.

It computes with a copy of the weights. `renew` writes them to a folder in a memory file system, as a checkpoint or as a LoRA adapter, has
vLLM read it, and empties what was cached under the old ones.
"""

import base64
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from peft import PeftModel
from PIL import Image
from safetensors import SafetensorError

from focus.model.policy_model import PolicyModel
from focus.rollout.engine import Completion, Request, Sampling
from focus.rollout.kv import KVEngine
from focus.runtime.distributed import all_gather, full_tensor
from focus.runtime.endpoint import Endpoint, Refused
from focus.runtime.files import is_first_rank

BAN = -100.0  # added to a logit, the most that the protocol allows: a probability of 1e-43 at equal logits
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the sizes of adapter that vLLM makes room for


@dataclass(frozen=True)
class Prompt:
    """A sequence to continue as vLLM takes it: one placeholder for each image."""

    ids: list[int]
    images: Sequence[Image.Image]
    seed: int


@dataclass(frozen=True)
class VLLMOutput:
    """What vLLM answers. `prompt_tokens` is the prompt's length after its placeholders were expanded, `cached` how much of it was known."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    prompt_tokens: int
    cached: int = 0


class Sampler(Protocol):
    """A running vLLM."""

    def complete(self, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> Iterator[tuple[int, VLLMOutput]]:
        """A turn for every prompt beside its index, as each is known. `settings` are vLLM's SamplingParams, but for the seed."""
        ...

    def load(self, folder: Path) -> None:
        """Take the weights of this checkpoint instead of those it has, and drop every adapter."""
        ...

    def adapt(self, folder: Path) -> None:
        """Take this LoRA adapter instead of the last one."""
        ...


class Reload:
    """What vLLM's workers learn (its `worker_extension_cls`): its own reload leaves a tied head stale where the head has a packed copy."""

    model_runner: Any

    def load_policy(self, folder: str) -> None:
        """Take the weights of the checkpoint in `folder`."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.model_runner.reload_weights(weights_path=folder)
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


@dataclass(frozen=True)
class VLLMOptions:
    """How a colocated vLLM is set up. None leaves a choice to vLLM; `images` is the most that one conversation shows.

    `device` is the number of this process's GPU, None on CPU.
    """

    device: int | None
    dtype: str
    memory_share: float
    cache_gib: float | None
    max_model_len: int | None
    block_size: int | None
    enforce_eager: bool
    images: int
    lora_rank: int


@cache
def colocated(policy: str, room: VLLMOptions) -> "Colocated":
    """The vLLM of this process: a start takes a minute and memory stays reserved, so a later policy of the same shape takes it over."""
    return Colocated(policy, room)


class Colocated:
    """Implements `Sampler` in processes of its own on this process's device. It starts with the weights in `checkpoint`."""

    def __init__(self, policy: str, room: VLLMOptions) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # this process has threads and may hold a device
        import vllm
        from vllm.lora.request import LoRARequest

        self._vllm, self._lora = vllm, LoRARequest
        self._checkpoint, self._replaced = policy, False
        self._adapter: Any = None
        self._numbers = count(1)
        adapters = {"enable_lora": True, "max_lora_rank": min(r for r in LORA_RANKS if r >= room.lora_rank)} if room.lora_rank else {}
        block = {} if room.block_size is None else {"block_size": room.block_size}
        with _alone_with(room.device):
            self.llm = vllm.LLM(
                policy,
                dtype=room.dtype,
                gpu_memory_utilization=room.memory_share,
                kv_cache_memory_bytes=None if room.cache_gib is None else int(room.cache_gib * 2**30),
                max_model_len=room.max_model_len,
                enforce_eager=room.enforce_eager,
                limit_mm_per_prompt={"image": room.images, "video": 0},
                mm_processor_kwargs={"do_resize": False},
                logprobs_mode="processed_logprobs",
                generation_config="vllm",
                worker_extension_cls=f"{Reload.__module__}.{Reload.__name__}",
                **block,
                **adapters,
            )

    def complete(self, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> Iterator[tuple[int, VLLMOutput]]:
        engine = self.llm.llm_engine
        names = self.llm.enqueue(
            [{"prompt_token_ids": p.ids, "multi_modal_data": {"image": list(p.images)}} for p in prompts],
            [self._vllm.SamplingParams(**settings, seed=p.seed) for p in prompts],
            lora_request=self._adapter,
            use_tqdm=False,
        )
        left = {name.partition("-")[0]: i for i, name in enumerate(names)}  # vLLM's own name of a request has a random end
        try:
            while left:
                for out in engine.step():
                    if out.finished:
                        spoken = out.outputs[0]
                        logprobs = [each[token].logprob for token, each in zip(spoken.token_ids, spoken.logprobs, strict=True)]
                        stopped, tokens = spoken.finish_reason == "stop", len(out.prompt_token_ids)
                        yield (
                            left.pop(out.request_id),
                            VLLMOutput(tuple(spoken.token_ids), tuple(logprobs), stopped, tokens, out.num_cached_tokens),
                        )
        finally:
            engine.abort_request(list(left))

    def load(self, folder: Path) -> None:
        self._adapter, self._replaced = None, True
        self._read(str(folder))

    def _read(self, policy: str) -> None:
        self.llm.collective_rpc("load_policy", args=(policy,))
        self.llm.reset_prefix_cache()
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def adapt(self, folder: Path) -> None:
        if self._replaced:  # by an earlier policy of this process; an adapter belongs to the weights that it started with
            self._read(self._checkpoint)
            self._replaced = False
        number = next(self._numbers)  # under a number that it knows vLLM would go on with the adapter that it has
        self._adapter = self._lora(f"focus-{number}", number, str(folder))
        self.llm.llm_engine.add_lora(self._adapter)


@contextmanager
def _alone_with(device: int | None) -> Iterator[None]:
    """Within the block, processes that are started see this GPU alone."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[device] if seen else str(device)
    try:
        yield
    finally:
        if seen is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = seen
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)


class Remote:
    """Implements `Sampler` on a vLLM server. README has the command that starts one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self._adapter = endpoint, ""

    def complete(self, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> Iterator[tuple[int, VLLMOutput]]:
        for i, said in self.endpoint.send_all(partial(self._ask, prompt, settings) for prompt in prompts):
            if isinstance(said, Refused):
                raise said
            yield i, said

    def _ask(self, prompt: Prompt, settings: Mapping[str, Any]) -> VLLMOutput:
        body = {
            "model": self._adapter or self.endpoint.model,
            "token_ids": prompt.ids,
            "content_parts": [{"type": "image_url", "url": _url(image)} for image in prompt.images],
            "sampling_params": {**settings, "seed": prompt.seed},
            "return_token_ids": True,
        }
        return self.endpoint.post("/inference/v1/generate", body, _said)

    def load(self, folder: Path) -> None:
        self._adapter = ""
        self.endpoint.tell("/collective_rpc", {"method": "load_policy", "args": [str(folder)]})
        for kept in ("prefix", "mm", "encoder"):
            self.endpoint.tell(f"/reset_{kept}_cache", {})

    def adapt(self, folder: Path) -> None:
        if self._adapter:
            self.endpoint.tell("/v1/unload_lora_adapter", {"lora_name": self._adapter})
        self._adapter = f"focus-{uuid4().hex}"  # a server may still hold those of an earlier run
        self.endpoint.tell("/v1/load_lora_adapter", {"lora_name": self._adapter, "lora_path": str(folder)})


def _said(body: Any) -> VLLMOutput:
    choice = body["choices"][0]
    logprobs = [float(each["logprob"]) for each in choice["logprobs"]["content"]]
    return VLLMOutput(tuple(choice["token_ids"]), tuple(logprobs), choice["finish_reason"] == "stop", len(body["prompt_token_ids"]))


def _url(image: Image.Image) -> str:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


class VLLMEngine:
    """Implements `Engine` over a running vLLM. `folder` is where weights lie while vLLM reads them, `dtype` what they are written in.

    Answers are weighed by the trainer's own network (`kv`): vLLM tells prompt log-probabilities only without the ban.
    Raises ValueError if adapters sit where vLLM applies none.
    """

    def __init__(self, policy: PolicyModel, sampler: Sampler, folder: Path, dtype: str) -> None:
        self.policy, self.sampler, self.folder, self.dtype = policy, sampler, folder, dtype
        self.kv = KVEngine(policy)
        self.renewed = 0
        adapted = [name for name, _ in policy.model.named_parameters() if "lora_" in name and ".visual." in name]
        if adapted:
            raise ValueError(
                f"policy.lora_targets put {len(adapted)} adapters into the vision tower (first: {adapted[0]}), where vLLM applies none; "
                "set policy.train_vision=false, or use rollout=kv"
            )

    def generate(self, conversations: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        assert self.renewed, "nobody has told which weights to sample from: call renew()"
        c = self.policy
        settings = {
            "temperature": sampling.temperature,
            "max_tokens": sampling.tokens_per_turn,
            "stop_token_ids": c.stop_ids,
            "ignore_eos": True,  # of its own accord it would also stop at what the tokenizer calls the end
            "logit_bias": dict.fromkeys(c.banned_ids, BAN),
            "logprobs": 0,  # of the sampled token alone
            "detokenize": False,
        }
        prompts = [Prompt(self._one_placeholder_each(each.ids), each.images, each.seed) for each in conversations]
        for i, said in self.sampler.complete(prompts, settings):
            asked = conversations[i]
            if said.prompt_tokens != len(asked.ids):
                name = asked.trajectory.sample.id if asked.trajectory else asked.id
                raise ValueError(
                    f"sample {name}: vLLM reads {said.prompt_tokens} tokens where there are {len(asked.ids)}; its image processor resizes "
                    "what it is shown. Start the server with --mm-processor-kwargs '{\"do_resize\": false}'"
                )
            yield i, Completion(said.ids, said.logprobs, said.stopped)

    def _one_placeholder_each(self, ids: Sequence[int]) -> list[int]:
        pad = self.policy.image_pad_id
        return [token for before, token in zip((None, *ids), ids, strict=False) if token != pad or before != pad]

    def logprobs(self, conversations: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        return self.kv.logprobs(conversations, tails)

    def clear_cache(self) -> None:
        self.kv.clear_cache()

    def sync_weights(self) -> None:
        """Publish the weights. With several ranks the first one writes; each tells the vLLM of its own, or the first one the server.

        Raises ValueError if the folder can't be written.
        """
        self.kv.clear_cache()
        self.renewed += 1
        adapter = isinstance(self.policy.model, PeftModel)
        try:
            if adapter:
                self._write_adapter()
            else:
                self.policy.save(self.folder, self.dtype)
        except (OSError, SafetensorError) as error:  # of a full memory file system the writer of weights speaks in its own words
            raise ValueError(
                f"the weights can't be written to {self.folder} ({error}); give a folder with room for them: rollout.vllm.weights=FOLDER"
            ) from error
        if is_first_rank() or isinstance(self.sampler, Colocated):
            if adapter:
                self.sampler.adapt(self.folder)
            else:
                self.sampler.load(self.folder)
        all_gather(None)  # until all have read them
        if is_first_rank():
            shutil.rmtree(self.folder)

    def _write_adapter(self) -> None:
        state = {name: full_tensor(value) for name, value in self.policy.model.state_dict().items() if "lora_" in name}
        if is_first_rank():
            self.policy.model.save_pretrained(str(self.folder), state_dict=state)
        all_gather(None)
