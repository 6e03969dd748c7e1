"""Ask a policy one question about one picture, print the turns, and draw what it looked at."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from focus import config
from focus.agent import Agent, Answer, opened
from focus.config.schema import AskConfig
from focus.report.picture import draw_trajectory
from focus.rewards import Example
from focus.runtime.files import json_text


def run(composed: DictConfig) -> None:
    cfg = config.validated(composed, AskConfig)
    output = Path(cfg.output or Path("outputs/ask") / Path(cfg.image).stem)
    with config.writable(output):  # this and the picture are refused before a policy is loaded
        pass
    opened(cfg.image)
    answer = Agent(cfg).ask(cfg.image, cfg.question, cfg.options, cfg.counterfactual)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for number, turn in enumerate(answer.turns, start=1):
        console.print(f"turn {number}: {turn}")
    sentence = None if cfg.counterfactual is None else counterfactual_sentence(answer, cfg.counterfactual)
    with config.writable(output):
        draw_trajectory(Example(answer.trajectory, {}, 0.0, sentence or "")).save(output / "answer.png")
        (output / "answer.json").write_text(json_text(record(answer, cfg), indent=1, ensure_ascii=False) + "\n")
    console.print(f"answer: {shown(answer)}")
    if sentence:
        console.print(sentence)
    console.print(f"picture: {output / 'answer.png'}")


def shown(answer: Answer) -> str:
    """The text of an answer, or why there is none."""
    return answer.text if answer.text is not None else f"none ({answer.status})"


def counterfactual_sentence(answer: Answer, counterfactual: str) -> str:
    """What the policy answers with replaced crops."""
    if answer.counterfactual is None:
        return "the policy made no crop, so there is nothing to replace"
    verdict = "the answer changes" if answer.changed else "the answer stays"
    return f"with {counterfactual.replace('_', ' ')} in its crops: {shown(answer.counterfactual)} ({verdict})"


def record(answer: Answer, cfg: AskConfig) -> dict[str, object]:
    """What answer.json holds. Boxes are in pixels of the picture."""
    other = answer.counterfactual
    return {
        "image": cfg.image,
        "question": cfg.question,
        "options": list(cfg.options),
        "policy": cfg.policy.checkpoint,
        "view_tokens": answer.trajectory.view.tokens,
        "answer": answer.text,
        "status": answer.status,
        "turns": list(answer.turns),
        "boxes_px": [list(box) for box in answer.boxes_px],
        "counterfactual": None if other is None else {"crops": cfg.counterfactual, "answer": other.text, "changed": answer.changed},
    }
