"""What guards the page: limits of requests, addresses that are never opened, uploads that are deleted."""

import atexit
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import anyio
import gradio as gr
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from gradio import processing_utils, routes
from starlette.types import ASGIApp, Message, Receive, Scope, Send

READERS = 4  # single images that are open at once: one of 25 megapixels takes up to 300 MB
MAX_WAITING = 100  # requests that wait for a reader; there are events on the page beside them
MAX_BODY_BYTES = 5_000_000  # of a request that is no upload: gradio holds it in memory
MAX_HELD_BYTES = 200_000_000  # of all those together
SMALL_BODY_BYTES = 100_000  # which always get in
MAX_BODY_SECONDS = 60  # until such a request must be there
MAX_FILE_BYTES = 20_000_000
MAX_UPLOAD_BYTES = 200_000_000  # of all files of one request
KEEP_SECONDS = 3600  # until an upload is deleted
BUSY = "Too many images are waiting. Try again in a few seconds."
NO_ADDRESSES = "This app opens no addresses. Upload the image itself."


class Limits:
    """ASGI middleware that refuses too many requests at once, and too large ones.

    What comes when `READERS` read and `max_waiting` wait is refused before gradio spends time on it. Events
    of the page wait in gradio's queue.

    Args:
        app: Answers what gets in.
        max_waiting: Requests.
        body_seconds: Until a request that is no upload must be there.

    Attributes:
        requests: With an image, that are being answered.
        held: Bytes of requests, in memory.
    """

    def __init__(
        self, app: ASGIApp, max_waiting: int = MAX_WAITING, body_seconds: float = MAX_BODY_SECONDS
    ) -> None:
        self.app, self.max_waiting, self.body_seconds = app, max_waiting, body_seconds
        self.requests = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_upload = scope.get("path", "").endswith("/gradio_api/upload")
        limit, size = MAX_UPLOAD_BYTES if is_upload else MAX_BODY_BYTES, 0

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise HTTPException(413, f"The request is larger than {limit // 1_000_000} MB.")
            return message

        if scope["type"] != "http" or is_upload:
            await self.app(scope, receive_some, send)
            return
        # Only what has come whole counts: a slow client is not to hold up others.
        is_image = bool(re.search(r"/(run|api)/[^/]+/?$", scope["path"]))
        messages, held = [], 0

        async def receive_again() -> Message:
            return messages.pop(0) if messages else await receive()

        try:
            with anyio.move_on_after(self.body_seconds) as collecting:
                while not messages or messages[-1].get("more_body"):
                    messages.append(await receive_some())
                    part = len(messages[-1].get("body", b""))
                    held += part
                    self.held += part
                    if self.held > MAX_HELD_BYTES and held > SMALL_BODY_BYTES:
                        raise HTTPException(503, BUSY)
            if collecting.cancelled_caught:
                raise HTTPException(408, f"The request did not come whole in {self.body_seconds} seconds.")
            if is_image and self.requests >= READERS + self.max_waiting:
                raise HTTPException(503, BUSY)
        except HTTPException as error:
            self.held -= held
            await JSONResponse({"error": error.detail}, error.status_code)(scope, receive, send)
            return
        self.requests += is_image
        try:
            await self.app(scope, receive_again, send)
        finally:
            self.requests -= is_image
            self.held -= held


async def _refuse_download(*_: object, **__: object) -> NoReturn:
    raise gr.Error(NO_ADDRESSES, print_exception=False)


async def _refuse_stream(*_: object) -> NoReturn:
    raise HTTPException(403, NO_ADDRESSES)


@functools.cache  # what it sets holds for the process
def prepare_gradio() -> Path:
    """Set up what gradio has no parameters for, before a page is built.

    Returns:
        A new folder for uploads, which the end of the process deletes. Gradio's usual one may belong to
        another user or not be writable.
    """
    folder = Path(tempfile.mkdtemp(prefix="customocr_")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder / "examples")
    # Gradio would make a table of all past events after each one.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")
    # A server that opens any address can be sent where its network trusts it.
    processing_utils.async_ssrf_protected_download = _refuse_download  # of an image in a request
    routes.secure_url_stream_response = _refuse_stream  # of /gradio_api/file=ADDRESS
    return folder


class Strays(set):
    """Uploads that broke off, and tables: gradio deletes only files that it finds in sets of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __iter__(self) -> Iterator[str]:
        return (str(path) for path in self.folder.iterdir() if path.is_file())
