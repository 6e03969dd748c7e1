"""A policy behind a chat server that counts as a large model does, so that the command line plays whole audits on a CPU.

.venv/bin/python -m experiments.audit.serve outputs/stage1/policy 8123

It counts the tokens of pictures as they are sent, one for 28x28 px, and shows the policy at most 256 tokens of each: 16,384 would take
minutes a question. So requests and tokens are those of an audit of this agent, and its answers are not those of an agent that sees the
whole view. Minutes hold the drawing and sending of images, and a small policy.
"""

import sys
import threading
from typing import Any

from PIL import Image

from focus.data.images.original import Decoded
from focus.gap import resize_to_budget
from focus.model.loading import load_model
from focus.model.policy_model import PolicyModel
from focus.model.prompts import encode
from tests.support.agents import image_of
from tests.support.protocol import Server
from tests.support.speaking import Speaking

SHOWN = 256  # tokens of a picture that the policy sees, at most
KEPT = 128  # pictures as they are shown


class Shrinking(Speaking):
    """Shows the policy at most `SHOWN` tokens of each picture."""

    def __init__(self, policy: PolicyModel) -> None:
        super().__init__(policy)
        self.kept: dict[int, tuple[Image.Image, int]] = {}

    def __call__(self, request: dict[str, Any]) -> tuple[str, str, int]:
        """Its turn. Only the check of the view asks without a picture, to have its text counted: it gets no text."""
        has_picture = any("image_url" in part for message in request["messages"] for part in message["content"])
        return super().__call__(request) if has_picture else ("", "length", 1)

    def picture(self, part: dict[str, Any]) -> Image.Image:
        return self.sent(part)[0]

    def sent(self, part: dict[str, Any]) -> tuple[Image.Image, int]:
        """A picture as it is shown, and its tokens as it is sent. Kept for a while: a view comes with all requests of its question."""
        key = hash(part["image_url"]["url"])
        if key not in self.kept:
            image, side = image_of(part), self.policy.token_px
            self.kept[key] = resize_to_budget(Decoded(image), SHOWN, side).image, image.width * image.height // side**2
        while len(self.kept) > KEPT:
            self.kept.pop(next(iter(self.kept)), None)
        return self.kept.get(key) or self.sent(part)

    def counted(self, request: dict[str, Any]) -> int:
        """Tokens of the prompt of a request, pictures as they are sent."""
        total = 0
        for message in request["messages"]:
            parts = [{"type": "text", "text": message["content"]}] if isinstance(message["content"], str) else message["content"]
            for part in parts:
                is_text = part["type"] == "text"
                total += len(encode(self.policy.tokenizer, part["text"], [])) if is_text else self.sent(part)[1]
        return total


class Counting(Server):
    """Tells what it counted."""

    def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        status, payload = super().answer(path, body)
        if body is not None and status == 200:
            payload["usage"]["prompt_tokens"] = self.respond.counted(body)  # type: ignore[attr-defined]
        return status, payload

    def open(self, request: Any) -> Any:
        fault = super().open(request)
        self.requests.clear()  # an audit sends gigabytes
        return fault


def main() -> None:
    folder, port = sys.argv[1], int(sys.argv[2])
    with Counting(Shrinking(load_model(folder, "tiny")), models=["embedded"], port=port) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
