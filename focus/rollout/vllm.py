"""vLLM as the engine, for models and groups that do not fit the `kv` engine.

A request is sent as token ids, with one placeholder for each image, which vLLM expands. vLLM's
prefix cache finds earlier turns and the prompt that siblings share. vLLM runs in its own processes
on this process's device (`Colocated`) or as a server on other devices (`Remote`). Both sample with
the same banned tokens, temperature and stop tokens as `kv`, and return log-probabilities of that
distribution.

vLLM samples from a copy of the weights. `sync_weights` writes them to a folder in a memory file
system, as a checkpoint or a LoRA adapter; vLLM loads it and clears its caches.
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

BAN = -100.0  # logit bias of a banned token, the lowest that the protocol allows: a probability of 1e-43 at equal logits
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM accepts as max_lora_rank


@dataclass(frozen=True)
class Prompt:
    """A request in vLLM's form: one placeholder token for each image."""

    ids: list[int]
    images: Sequence[Image.Image]
    seed: int


@dataclass(frozen=True)
class VLLMOutput:
    """vLLM's completion of a prompt.

    `prompt_tokens` is the prompt's length with expanded placeholders; `cached` of them were found
    in the prefix cache.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    prompt_tokens: int
    cached: int = 0


class Sampler(Protocol):
    """A running vLLM."""

    def complete(self, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> Iterator[tuple[int, VLLMOutput]]:
        """Yields (index of the prompt, output), each as soon as it is complete.

        `settings`: SamplingParams without the seed.
        """
        ...

    def load(self, folder: Path) -> None:
        """Load the weights of the checkpoint in `folder`, and drop any adapter."""
        ...

    def adapt(self, folder: Path) -> None:
        """Load the LoRA adapter in `folder` in place of the previous one."""
        ...


class Reload:
    """Worker extension for vLLM (`worker_extension_cls`). vLLM's own reload leaves a tied head
    stale if it has a packed copy.
    """

    model_runner: Any

    def load_policy(self, folder: str) -> None:
        """Load the weights of the checkpoint in `folder`."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.model_runner.reload_weights(weights_path=folder)
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


@dataclass(frozen=True)
class VLLMOptions:
    """Settings of a colocated vLLM. None means vLLM's default.

    `device` is the index of this process's GPU, None on CPU. `images` is the largest number of
    images in one request.
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
def colocated(policy: str, options: VLLMOptions) -> "Colocated":
    """The vLLM of this process, started once.

    A start takes a minute and its memory stays reserved, so later policies reuse it.
    """
    return Colocated(policy, options)


class Colocated:
    """Implements `Sampler` in vLLM's own processes on this process's device.

    `policy` is the folder or hub name of the first weights.
    """

    def __init__(self, policy: str, options: VLLMOptions) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # this process has threads and may hold a device
        import vllm
        from vllm.lora.request import LoRARequest

        self._vllm, self._lora = vllm, LoRARequest
        self._initial, self._replaced = policy, False  # _replaced: other weights than the initial ones are loaded
        self._adapter: Any = None
        self._numbers = count(1)
        adapters = {"enable_lora": True, "max_lora_rank": min(r for r in LORA_RANKS if r >= options.lora_rank)} if options.lora_rank else {}
        block = {} if options.block_size is None else {"block_size": options.block_size}
        with _visible_device(options.device):
            self.llm = vllm.LLM(
                policy,
                dtype=options.dtype,
                gpu_memory_utilization=options.memory_share,
                kv_cache_memory_bytes=None if options.cache_gib is None else int(options.cache_gib * 2**30),
                max_model_len=options.max_model_len,
                enforce_eager=options.enforce_eager,
                limit_mm_per_prompt={"image": options.images, "video": 0},
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
        pending = {name.partition("-")[0]: i for i, name in enumerate(names)}  # vLLM appends a random suffix to a request's name
        try:
            while pending:
                for out in engine.step():
                    if out.finished:
                        turn = out.outputs[0]
                        logprobs = [by_token[token].logprob for token, by_token in zip(turn.token_ids, turn.logprobs, strict=True)]
                        stopped, tokens = turn.finish_reason == "stop", len(out.prompt_token_ids)
                        yield (
                            pending.pop(out.request_id),
                            VLLMOutput(tuple(turn.token_ids), tuple(logprobs), stopped, tokens, out.num_cached_tokens),
                        )
        finally:
            engine.abort_request(list(pending))

    def load(self, folder: Path) -> None:
        self._adapter, self._replaced = None, True
        self._load_weights(str(folder))

    def _load_weights(self, policy: str) -> None:
        self.llm.collective_rpc("load_policy", args=(policy,))
        self.llm.reset_prefix_cache()
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def adapt(self, folder: Path) -> None:
        if self._replaced:  # by an earlier policy of this process; an adapter belongs to the initial weights
            self._load_weights(self._initial)
            self._replaced = False
        number = next(self._numbers)  # vLLM keeps the old adapter if the number is not new
        self._adapter = self._lora(f"focus-{number}", number, str(folder))
        self.llm.llm_engine.add_lora(self._adapter)


@contextmanager
def _visible_device(device: int | None) -> Iterator[None]:
    """Processes started within the block see only this GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device] if visible else str(device)
    try:
        yield
    finally:
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)


class Remote:
    """Implements `Sampler` on a vLLM server. docs/train-7b.md has the command that starts one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self._adapter = endpoint, ""

    def complete(self, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> Iterator[tuple[int, VLLMOutput]]:
        for i, output in self.endpoint.send_all(partial(self._generate, prompt, settings) for prompt in prompts):
            if isinstance(output, Refused):
                raise output
            yield i, output

    def _generate(self, prompt: Prompt, settings: Mapping[str, Any]) -> VLLMOutput:
        body = {
            "model": self._adapter or self.endpoint.model,
            "token_ids": prompt.ids,
            "content_parts": [{"type": "image_url", "url": _data_url(image)} for image in prompt.images],
            "sampling_params": {**settings, "seed": prompt.seed},
            "return_token_ids": True,
        }
        return self.endpoint.post("/inference/v1/generate", body, _parse_output)

    def load(self, folder: Path) -> None:
        self._adapter = ""
        self.endpoint.command("/collective_rpc", {"method": "load_policy", "args": [str(folder)]})
        for name in ("prefix", "mm", "encoder"):
            self.endpoint.command(f"/reset_{name}_cache", {})

    def adapt(self, folder: Path) -> None:
        if self._adapter:
            self.endpoint.command("/v1/unload_lora_adapter", {"lora_name": self._adapter})
        self._adapter = f"focus-{uuid4().hex}"  # the server may still hold adapters of an earlier run
        self.endpoint.command("/v1/load_lora_adapter", {"lora_name": self._adapter, "lora_path": str(folder)})


def _parse_output(body: Any) -> VLLMOutput:
    choice = body["choices"][0]
    logprobs = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
    return VLLMOutput(tuple(choice["token_ids"]), tuple(logprobs), choice["finish_reason"] == "stop", len(body["prompt_token_ids"]))


def _data_url(image: Image.Image) -> str:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


class VLLMEngine:
    """Implements `Engine` over a running vLLM.

    `folder` holds the weights while vLLM loads them; `dtype` is their dtype in the file. `logprobs`
    uses the trainer's own network (`kv`), since vLLM's prompt log-probabilities ignore the banned
    tokens. Raises ValueError if the policy has adapters where vLLM applies none.
    """

    def __init__(self, policy: PolicyModel, sampler: Sampler, folder: Path, dtype: str) -> None:
        self.policy, self.sampler, self.folder, self.dtype = policy, sampler, folder, dtype
        self.kv = KVEngine(policy)
        self.syncs = 0
        adapted = [name for name, _ in policy.model.named_parameters() if "lora_" in name and ".visual." in name]
        if adapted:
            raise ValueError(
                f"policy.lora_targets put {len(adapted)} adapters into the vision tower (first: {adapted[0]}), where vLLM applies none; "
                "set policy.train_vision=false, or use rollout=kv"
            )

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        assert self.syncs, "call sync_weights() before the first generate()"
        policy = self.policy
        settings = {
            "temperature": sampling.temperature,
            "max_tokens": sampling.tokens_per_turn,
            "stop_token_ids": policy.stop_ids,
            "ignore_eos": True,  # otherwise vLLM also stops at the tokenizer's eos token
            "logit_bias": dict.fromkeys(policy.banned_ids, BAN),
            "logprobs": 0,  # only of the sampled token
            "detokenize": False,
        }
        prompts = [Prompt(self._collapse_placeholders(request.ids), request.images, request.seed) for request in requests]
        for i, output in self.sampler.complete(prompts, settings):
            request = requests[i]
            if output.prompt_tokens != len(request.ids):
                name = request.trajectory.sample.id if request.trajectory else request.id
                raise ValueError(
                    f"sample {name}: vLLM counts {output.prompt_tokens} prompt tokens, {len(request.ids)} were expected: its image "
                    "processor resizes images. Start the server with --mm-processor-kwargs '{\"do_resize\": false}'"
                )
            yield i, Completion(output.ids, output.logprobs, output.stopped)

    def _collapse_placeholders(self, ids: Sequence[int]) -> list[int]:
        pad = self.policy.image_pad_id
        return [token for before, token in zip((None, *ids), ids, strict=False) if token != pad or before != pad]

    def logprobs(self, requests: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        return self.kv.logprobs(requests, tails)

    def clear_cache(self) -> None:
        self.kv.clear_cache()

    def sync_weights(self) -> None:
        """Write the weights and have vLLM load them. The first rank writes.

        Every rank loads them into its colocated vLLM; with a server only the first rank does.
        Raises ValueError if the folder can't be written.
        """
        self.kv.clear_cache()
        self.syncs += 1
        adapter = isinstance(self.policy.model, PeftModel)
        try:
            if adapter:
                self._write_adapter()
            else:
                self.policy.save(self.folder, self.dtype)
        except (OSError, SafetensorError) as error:  # SafetensorError: the file system is full
            raise ValueError(
                f"the weights can't be written to {self.folder} ({error}); set a folder with enough free space: rollout.vllm.weights=FOLDER"
            ) from error
        if is_first_rank() or isinstance(self.sampler, Colocated):
            if adapter:
                self.sampler.adapt(self.folder)
            else:
                self.sampler.load(self.folder)
        all_gather(None)  # wait until all ranks have loaded them
        if is_first_rank():
            shutil.rmtree(self.folder)

    def _write_adapter(self) -> None:
        state = {name: full_tensor(value) for name, value in self.policy.model.state_dict().items() if "lora_" in name}
        if is_first_rank():
            self.policy.model.save_pretrained(str(self.folder), state_dict=state)
        all_gather(None)
