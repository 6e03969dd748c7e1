"""A policy behind a chat server, one turn a request, as a model server has it. Its crop loop stays with the client."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from focus.model.policy_model import PolicyModel
from focus.model.prompts import CROP_CONTENT, encode
from focus.rollout.engine import Request, Sampling
from focus.rollout.kv import KVEngine
from tests.support.agents import image_of
from tests.support.scripted import completions


class Speaking:
    """What a server does with a policy: lays the messages out, puts pixels in their places, samples a turn.

    All of it in one thread that is joined at the end: arithmetic in the server's own threads, which are not, aborts the interpreter.
    """

    def __init__(self, policy: PolicyModel) -> None:
        self.policy, self.engine, self.speaker = policy, KVEngine(policy), ThreadPoolExecutor(1)

    def __call__(self, request: dict[str, Any]) -> tuple[str, str, int]:
        return self.speaker.submit(self._speak, request).result()

    def picture(self, part: dict[str, Any]) -> Image.Image:
        """The pixels that the policy is shown of an image in a message."""
        return image_of(part)

    def _speak(self, request: dict[str, Any]) -> tuple[str, str, int]:
        text, images = "", []
        for message in request["messages"]:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            images += [self.picture(part) for part in parts if part["type"] == "image_url"]
            words = "".join(part.get("text", CROP_CONTENT) for part in parts)
            text += f"<|im_start|>{message['role']}\n{words}<|im_end|>\n"
        if request.get("continue_final_message"):
            text = text.removesuffix("<|im_end|>\n")
        else:
            text += "<|im_start|>assistant\n"
        tokens = [image.width * image.height // self.policy.token_px**2 for image in images]
        prompt, assistant, _ = text.partition("<|im_start|>assistant\n")
        shared = len(encode(self.policy.tokenizer, prompt + assistant, tokens[:1]))  # with one image; the others follow it
        ids = tuple(encode(self.policy.tokenizer, text, tokens))
        asked = Request("a", None, "p", shared, ids, tuple(images), request.get("seed", 0))
        self.engine.clear_cache()
        [said] = completions(self.engine, [asked], Sampling(request["temperature"], request["max_tokens"]))
        words = self.policy.tokenizer.decode(said.ids)
        for stop in ("<|im_end|>", *request.get("stop", ())):
            words = words.removesuffix(stop)
        return words, "stop" if said.stopped else "length", len(said.ids)
