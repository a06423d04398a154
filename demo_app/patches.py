"""What gradio lacks on a server that anybody may ask: changes to its private parts, and a housekeeper."""

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import anyio
import gradio as gr
from fastapi import FastAPI, HTTPException, Request
from gradio import data_classes, processing_utils, route_utils, routes
from gradio.state_holder import SessionState
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from uploads import ENTRY_BYTES, NO_ADDRESSES, Store

try:
    import resource
except ImportError:  # on Windows
    resource = None

JOBS, MAX_JOBS = "jobs", 10  # of many images: their queue's name, and how many may run or wait in it
MAX_UNFETCHED = 300  # readings of single images; one may have half a megabyte
BUSY_JOBS = "Too many files are waiting, or yours are still being read. Try again in a few minutes."
IDLE_SECONDS = 30  # until a connection without a request is closed, or up to twice as long
MAX_OPEN = 16_384  # files and connections, if the system allows so many


class ClosedFile:
    """A file that is open only while it is written: connections alone are to take descriptors."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, data: bytes) -> None:
        """Append to the file, which must still be there."""
        with Path(self.name).open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(data)

    def seek(self, *_: int) -> None:
        """Do nothing."""

    close = seek


class Files(route_utils.GradioMultiPartParser):
    """Gradio's parser of uploads, but for parts that are no files, which it would hold in memory."""

    def on_headers_finished(self) -> None:
        """Begin a part."""
        super().on_headers_finished()
        upload = self._current_part.file
        if upload is None:
            raise MultiPartException("An upload may hold files only.")
        upload.headers, upload.filename = Headers(), upload.filename[-255:]
        upload.file.close()
        upload.file = ClosedFile(upload.file.name)
        prepare_gradio().bytes += ENTRY_BYTES


async def _refuse_download(*_: object, **__: object) -> NoReturn:
    raise gr.Error(NO_ADDRESSES, print_exception=False)


async def _refuse_stream(*_: object) -> NoReturn:
    raise HTTPException(403, NO_ADDRESSES)


@functools.cache  # what it sets holds for the process
def prepare_gradio() -> Store:
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
    route_utils.GradioMultiPartParser = Files
    # A session would hold its last images and readings for as long as it lives, for links to them.
    SessionState._update_value_in_config = lambda *_: None
    if resource:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < MAX_OPEN:
            wanted = MAX_OPEN if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return Store(folder)


def limit_queue(page: gr.Blocks) -> None:
    """Let few events of the queue `JOBS` wait or run, and two of each visitor: one may just have ended.

    As few of their unfetched results are kept, for one may have 10,000 rows, and `MAX_UNFETCHED` others.
    """
    queue, jobs, others = page._queue, {}, {}  # visitor and session of each event
    push = queue.push

    async def push_event(
        body: data_classes.PredictBodyInternal, request: Request, username: str | None
    ) -> tuple:
        function = page.fns.get(body.fn_index)
        is_job = function is not None and function.concurrency_id == JOBS
        events, most = (jobs, MAX_JOBS) if is_job else (others, MAX_UNFETCHED)
        for event, (_, session) in list(events.items()):
            if event not in queue.pending_event_ids_session.get(session, ()):  # its result was fetched
                del events[event]
        running = [visitor for event, (visitor, _) in jobs.items() if event in queue.event_ids_to_events]
        visitor = body.session_hash or request.client.host
        if is_job and (len(running) >= MAX_JOBS or running.count(visitor) >= 2):
            return False, BUSY_JOBS, "queue_full"
        ended = [event for event in events if event not in queue.event_ids_to_events]
        for event in ended[:-most]:
            _, session = events.pop(event)
            queue.pending_messages_per_session.pop(session, None)
            queue.pending_event_ids_session.pop(session, None)
        success, event, state = await push(body, request, username)
        if success:
            events[event] = visitor, body.session_hash
        return success, event, state

    queue.push = push_event


@contextlib.asynccontextmanager
async def keep_house(app: FastAPI, seconds: float = IDLE_SECONDS) -> AsyncIterator[None]:
    """While a server runs, close connections that ask for nothing, and delete old uploads.

    Args:
        app: Gradio's.
        seconds: From one look to the next, at which a connection that still asks for nothing is closed.
    """
    page, store = app.get_blocks(), prepare_gradio()
    for block in page.blocks.values():
        store.kept |= getattr(block, "keep_in_cache", set())  # examples

    async def look() -> NoReturn:
        silent = {}
        while True:
            await anyio.sleep(seconds)
            before, silent = silent, {}
            for link in page.server.server_state.connections if hasattr(page, "server") else ():
                if link.cycle is None or link.cycle.response_complete:
                    silent[link] = link.cycle
                    if before.get(link, link) is link.cycle:  # no request since
                        link.transport.close()
            for files in page.temp_file_sets:  # gradio takes out only what it deletes itself
                files.clear()
            with contextlib.suppress(OSError):  # the disk is full or away
                store.folder.mkdir(mode=0o700, exist_ok=True)  # it is gone where a program cleans /tmp
                await anyio.to_thread.run_sync(store.clean)

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        yield
        group.cancel_scope.cancel()
    store.clean(-1)


def stop(page: gr.Blocks) -> None:
    """End a page's server with the uploads that are coming, or they would make the deleted folder again."""
    if page.is_running:
        page.server.config.timeout_graceful_shutdown = 1
        page.close(verbose=False)
