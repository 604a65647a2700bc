"""The application of the page: its files, its queue, its gallery, and nothing else that lies on the disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ... import __version__
from ..serving.answers import guarded_page
from ..serving.bodies import Refused, read_into, read_object
from ..serving.guard import Guard
from .order import LARGEST_SEED, MOST_CLIPS, read_order
from .studio import MOST_JOBS, FullError, Studio
from .uploads import LARGEST

SHOWN = 60
"""Clips of the gallery that are sent at once."""
KEPT = {"cache-control": "private, max-age=31536000, immutable"}
"""For files that never change, which have random names."""


def make_app(studio: Studio, *, port: int, token: str) -> Guard:
    """Return the application behind its guard.

    Args:
        studio: draws what is ordered.
        port: at which it is served.
        token: what the page must know.
    """

    async def page(request: Request) -> Response:
        """What the page can offer."""
        return JSONResponse(
            {
                "sources": [source.told() for source in studio.sources.values()],
                "loras": {name: lora.scale for name, lora in studio.loras.items()},
                "most": {"clips": MOST_CLIPS, "jobs": MOST_JOBS, "bytes": LARGEST, "seed": LARGEST_SEED},
                "gallery": str(studio.gallery.folder),
                "version": __version__,
            }
        )

    async def events(request: Request) -> Response:
        """The state of the queue, whenever it changes."""
        if studio.changes.full:
            raise Refused(503, "too many pages are open: close one")
        return StreamingResponse(studio.changes.stream(studio.told), media_type="text/event-stream")

    async def gallery(request: Request) -> Response:
        """Clips, newest first."""
        offset = request.query_params.get("offset", "0")
        if not (offset.isascii() and offset.isdecimal() and len(offset) < 10):
            raise Refused(400, "offset: wanted a whole number")
        shown = studio.gallery.page(int(offset), SHOWN)
        return JSONResponse({"clips": shown, "all": len(studio.gallery), "faults": studio.gallery.faults})

    async def submit(request: Request) -> Response:
        """A new job."""
        order = read_order(await read_object(request))
        try:
            job = await run_in_threadpool(studio.submit, order)
        except FullError as error:
            raise Refused(429, str(error)) from None
        return JSONResponse({"id": job.id})

    async def cancel(request: Request) -> Response:
        """The end of a job."""
        if not studio.cancel(request.path_params["name"]):
            raise Refused(404, "there is no such job, or it has ended")
        return JSONResponse({})

    async def upload(request: Request) -> Response:
        """An image to start from, as the body of the request."""
        path = studio.uploads.begin()
        await read_into(request, path, LARGEST)
        base = next(iter(studio.sources.values())).planned.settings.base
        name = await run_in_threadpool(studio.uploads.keep, path, base.width / base.height)
        return JSONResponse({"id": name})

    async def clip(request: Request) -> Response:
        """A video of the gallery, or its picture."""
        path = studio.gallery.file(request.path_params["name"])
        if path is None or not path.is_file():
            raise Refused(404, "there is no such clip")
        return FileResponse(path, headers=KEPT)

    async def image(request: Request) -> Response:
        """A picture of an upload."""
        path = studio.uploads.picture(request.path_params["name"])
        if path is None:
            raise Refused(404, "there is no such image")
        return FileResponse(path, headers=KEPT)

    async def preview(request: Request) -> Response:
        """What a job has drawn so far."""
        name, _, ending = request.path_params["name"].partition(".")
        job = studio.job(name)
        if job is None or ending != "png":
            raise Refused(404, "there is no such job")
        picture = job.picture
        return Response(picture, media_type="image/png") if picture else Response(status_code=204)

    @asynccontextmanager
    async def living(app: Any) -> AsyncIterator[None]:
        """End the thread that draws with the server."""
        yield
        await run_in_threadpool(studio.close)

    return guarded_page(
        __package__,
        [
            Route("/api/page", page),
            Route("/api/events", events),
            Route("/api/gallery", gallery),
            Route("/api/jobs", submit, methods=["POST"]),
            Route("/api/jobs/{name}/cancel", cancel, methods=["POST"]),
            Route("/api/images", upload, methods=["POST"]),
            Route("/clips/{name}", clip),
            Route("/images/{name}", image),
            Route("/jobs/{name}", preview),
        ],
        port=port,
        token=token,
        lifespan=living,
    )
