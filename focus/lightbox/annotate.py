"""The room Annotate: nested boxes for questions, drawn by people, saved as they draw.

What is drawn is kept by `focus.data.annotations.project`. This module gives it to the page, with what the
page suggests: the boxes that the file of questions has, and the crops of a policy.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from focus.agent import Agent
from focus.data.annotations.journal import Conflict, Drawing
from focus.data.annotations.project import Project
from focus.data.annotations.writing import EXPORTS
from focus.data.boxes import Box, area, intersection
from focus.data.sample import ImageFile, Sample
from focus.lightbox.images import Images

LARGEST_EXPORT = 1 << 26  # bytes of an export that is taken over
AWAY_S = 300.0  # after this time without a request a tab no longer works on its question
NO_QUESTIONS = (
    "No questions were given, so there is nothing to annotate. End the server and start it with a file of them: "
    'make lightbox ARGS="data.records=questions.jsonl"'
)
Finite = Annotated[float, Field(allow_inf_nan=False)]
Chain = Annotated[list[tuple[Finite, Finite, Finite, Finite]], Field(max_length=99)]


class Save(BaseModel):
    """What the page saves of a question: boxes in pixels of the original, on top of a version."""

    version: Annotated[int, Field(ge=0)]
    state: str
    chains: Annotated[list[Chain], Field(max_length=100)]
    annotator: Annotated[str, Field(max_length=80)]
    seconds: Annotated[float, Field(ge=0, le=1e7)]


class Presence:
    """Which tab works on which question, so that the next question of one is not that of another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._at: dict[str, tuple[int, float]] = {}
        self._clock = clock

    def enter(self, tab: str, index: int) -> None:
        """The tab works on this question now."""
        self._at = {name: at for name, at in self._at.items() if self._clock() - at[1] < AWAY_S}
        self._at[tab] = (index, self._clock())

    def others(self, tab: str) -> set[int]:
        """The questions that other tabs work on."""
        return {index for name, (index, since) in self._at.items() if name != tab and self._clock() - since < AWAY_S}


class Policy:
    """The policy whose crops are suggested. It is loaded when it is first asked, and asked one question at a time."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self._lock = Lock()
        self._agent: Agent | None = None

    def crops(self, sample: Sample, path: Path) -> dict[str, Any]:
        """The policy's crops of a question as chains, and its answer. If it answers without a crop, it is asked again and must crop.

        Raises ValueError if it can't be loaded or asked.
        """
        with self._lock:
            self._agent = self._agent or Agent.load(self.checkpoint)
            options = [text for _, text in sample.options]
            answer = self._agent.ask(path, sample.question, options)
            if not answer.boxes_px:
                answer = self._agent.ask(path, sample.question, options, must_crop=True)
        return {"chains": chains_of(answer.boxes_px), "answer": answer.text, "status": answer.status}


def chains_of(crops_px: tuple[Box, ...]) -> list[list[Box]]:
    """Crops as one chain, smallest first, if each contains the next smaller one; else as a target each."""
    boxes = sorted(set(crops_px), key=area)
    nested = all(area(inner) < area(outer) and intersection(inner, outer) == inner for inner, outer in pairwise(boxes))
    return [boxes] if boxes and nested else [[box_px] for box_px in boxes]


def router(project: Project | None, images: Images, policy: Policy | None) -> APIRouter:
    """The router of the room, under /api/annotate."""
    routes = APIRouter(prefix="/api/annotate")
    presence = Presence()

    def opened() -> Project:
        if project is None:
            raise HTTPException(404, NO_QUESTIONS)
        return project

    def sample_at(index: int) -> Sample:
        if not 0 <= index < len(opened().ids):
            raise HTTPException(404, f"there is no question {index + 1}; the file has {len(opened().ids)}")
        return opened().samples[index]

    def image_of(sample: Sample) -> Path:
        """The image file of a question. Raises ValueError if it is missing, elsewhere, damaged, or of another size."""
        assert isinstance(sample.image, ImageFile)
        path, root = sample.image.path.resolve(), opened().samples.root.resolve()
        if not path.is_relative_to(root):
            raise ValueError(
                f"the image {sample.image.path} is not in {root}, the folder of the images; set data.root to the folder that it is in"
            )
        if not path.is_file():
            raise ValueError(f"the image {path} does not exist; put it there, or set data.root to the folder of the images")
        size = images.original(images.add(path)).size
        if size != sample.size:
            stated, seen = ("{}x{}".format(*each) for each in (sample.size, size))
            raise ValueError(
                f"the image {path.name} is {seen} px, but its record says {stated}; rewrite the record, or put the right file there"
            )
        return path

    @routes.get("")
    def about() -> dict[str, Any]:
        """What the page shows of the whole file."""
        records = opened().records
        train = f'make stage2 ARGS="data=records data.records={records} evaluation.samples=0"'
        return {
            "file": str(opened().samples.path),
            "progress": opened().progress(),
            "records": str(records),
            "train": train,
            "policy": policy and policy.checkpoint,
            "exports": list(EXPORTS),
        }

    @routes.get("/next")
    def following(after: int, tab: str) -> dict[str, Any]:
        """The next open question that no other tab works on."""
        return {"index": opened().next_open(after, presence.others(tab))}

    @routes.get("/questions/{index}")
    def question(index: int, tab: str = "") -> dict[str, Any]:
        """A question with its image, what was drawn, and the boxes of the file. Without a tab it is only looked at."""
        sample = sample_at(index)
        if tab:
            presence.enter(tab, index)
        try:
            zoom, problem = images.tile_source(images.add(image_of(sample))), None
        except ValueError as error:
            zoom, problem = None, str(error)
        return {
            "index": index,
            "id": sample.id,
            "question": sample.question,
            "answers": sample.answers,
            "options": sample.options,
            "size": sample.size,
            "zoom": zoom,
            "problem": problem,
            "suggested": sample.boxes,
            "drawing": opened().journal.of(sample.id),
            "others": index in presence.others(tab),
        }

    @routes.put("/questions/{index}", response_model=None)
    def save(index: int, sent: Save) -> dict[str, Any] | JSONResponse:
        """Save what was drawn. 409, with the newest state, if it is based on an older one."""
        chains = tuple(map(tuple, sent.chains))
        drawing = Drawing(sample_at(index).id, sent.version, sent.state, chains, sent.annotator.strip(), sent.seconds)
        try:
            saved = opened().save(drawing)
        except Conflict as conflict:
            return JSONResponse({"detail": str(conflict), "newest": asdict(conflict.newest)}, 409)
        return {"drawing": saved, "progress": opened().progress()}

    @routes.post("/questions/{index}/crops")
    def crops(index: int) -> dict[str, Any]:
        """The crops of the policy."""
        if policy is None:
            raise ValueError('no policy was given; start with one: make lightbox ARGS="annotate.checkpoint=outputs/stage1/policy ..."')
        sample = sample_at(index)
        return policy.crops(sample, image_of(sample))

    @routes.get("/export/{tool}")
    def export(tool: str) -> Response:
        """The questions that are done, as a file for another tool."""
        if tool not in EXPORTS:
            raise HTTPException(404, f"there is no export {tool}; there are {', '.join(EXPORTS)}")
        headers = {"Content-Disposition": f'attachment; filename="{tool}.{EXPORTS[tool][0]}"'}
        return Response(opened().export(tool), media_type="application/octet-stream", headers=headers)

    @routes.post("/import")
    async def take(request: Request, name: str = "export") -> dict[str, Any]:
        """Take over the boxes of an export, which is the body of the request."""
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > LARGEST_EXPORT:
                raise HTTPException(413, f"the export has more than {LARGEST_EXPORT >> 20} MB; export fewer questions at a time")
        target = opened()

        def taken() -> dict[str, Any]:
            with tempfile.TemporaryDirectory(dir=target.folder) as folder:
                path = Path(folder, Path(name).name[:100] or "export")
                path.write_bytes(content)
                try:
                    result = target.take(path)
                except ValueError as error:
                    raise ValueError(str(error).replace(f"{folder}/", "")) from error  # the annotator knows the file by its name
            unused = [f"{count} x {reason} (first: {result.first[reason]})" for reason, count in result.unused.items()]
            return {"imported": result.imported, "kept": result.kept, "unused": unused, "progress": target.progress()}

        return await run_in_threadpool(taken)

    return routes
