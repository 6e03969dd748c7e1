"""The room Look: runs, and the trajectories that they keep."""

from typing import Any

from fastapi import APIRouter

from focus.lightbox.images import Images
from focus.lightbox.places import Places


def router(places: Places, images: Images) -> APIRouter:
    """The router of the room, under /api/look."""
    routes = APIRouter(prefix="/api/look")

    @routes.get("/runs")
    def runs() -> dict[str, Any]:
        found = [path.parent for folder in places.folders for path in sorted(folder.rglob("settings.yaml"))]
        return {"runs": [{"name": places.name(path)} for path in found]}

    return routes
