"""What guards the page: which requests get in, how many at once, how large, and how long they may take."""

import math
import re

import anyio
import orjson
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from folders import MAX_FILE_BYTES
from gradio import utils
from gradio.data_classes import FileData
from patches import prepare_gradio
from python_multipart.multipart import parse_options_header
from starlette._utils import get_route_path
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

READERS = 4  # single images that are open at once: one of 25 megapixels takes up to 300 MB
MAX_WAITING = 100  # requests that wait for a reader; there are events on the page beside them
MAX_BODY_BYTES = 5_000_000  # of a call of gradio's, which holds it in memory many times
MAX_HELD_BYTES = 200_000_000  # of all those together
SMALL_BODY_BYTES = 100_000  # which always get in; the most for what is neither a call nor an upload
PART_BYTES = 100_000  # of a request, that are handed on at once
MAX_BODY_SECONDS = 60  # until such a request must be there
MAX_TEXT = 4096  # characters
MAX_INPUTS = 3  # of a call: an image, a pattern, an alphabet
MAX_CALL_FILES = 1000  # that one call names: gradio looks at each while everybody waits
MAX_UPLOAD_BYTES = 200_000_000  # of all files of one request
MAX_UPLOAD_SECONDS = 600  # until an upload must be there
MAX_STREAMS = 5000  # answers without an end that are open at once; a page has two
MAX_ADDRESS = 1000  # characters of the address of one, which gradio keeps
MAX_UPLOADS = 100  # that come at once; of more, the one that began first is given up
BUSY = "Too many images are waiting. Try again in a few seconds."
CHARSET = "A form is in UTF-8. Leave out the charset."
CLOSED = "This app does not offer that."
FULL = "There is no room for this upload. Try again later, or upload less at once."
NO_CALL = f"This app has no such call, or it names more than {MAX_CALL_FILES:,} files. Put them into a zip."
# What the API, the page and gradio's clients need. Every other route of gradio is closed.
OPEN = re.compile(
    r"\w+ /(read|read_many|health|model|openapi\.json)"  # of the API, which refuses wrong methods itself
    r"|(GET|HEAD) /"
    r"|GET /(config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(static|assets)/.+)"
    r"|GET /gradio_api/(info/?|app_id/?|startup-events|file=.+|upload_progress|heartbeat/[^/]+|queue/data)"
    r"|GET /gradio_api/call/[^/]+/[^/]+"
    r"|POST /gradio_api/(upload|cancel|reset|queue/join|(run|api|call|call/v2)/[^/]+/?)"
)
STREAM = re.compile(r"GET /gradio_api/(heartbeat|queue/data|upload_progress|call)")
CALL = re.compile(r"POST /gradio_api/(queue/join|(run|api|call)/.+)")
PROXY_HEADERS = {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server"}


def _refusal(status: int, sentence: str, path: str) -> JSONResponse:
    is_page = path.startswith("/gradio_api/")  # it shows the detail
    return JSONResponse({"error": sentence} | ({"detail": sentence} if is_page else {}), status)


def _names_charset(name: bytes, value: bytes) -> bool:
    """Tell whether a header names a form's charset other than UTF-8: some take very long to decode."""
    if name != b"content-type" or b"multipart" not in value.lower():
        return False
    return parse_options_header(value)[1].get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8")


def _is_file(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= FileData.model_fields.keys()
        and all(
            len(text := str(part)) <= MAX_TEXT or (key == "url" and text.startswith("data:"))
            for key, part in value.items()
        )
    )


def _is_input(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_CALL_FILES and all(map(_is_file, value))
    return value is None or isinstance(value, int) or _is_file(value)  # examples go by their number


def is_call(body: bytes | bytearray, by_name: bool) -> bool:
    """Tell whether a body is a call of this app: of files and short texts, and little beside them.

    Gradio would look at anything else element by element, and write it to the log.

    Args:
        body: JSON.
        by_name: Whether it holds inputs by their names and nothing else, as /call/v2 has it.
    """
    if body.count(b",") > 100 * MAX_CALL_FILES:  # in Python's memory, small values take many times their text
        return False
    try:
        call = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(call, dict):
        return False
    inputs, others = (list(call.values()), list(call)) if by_name else (call.pop("data", None), call)
    event = None if by_name else call.pop("event_data", None)
    if not isinstance(inputs, list) or len(inputs) > MAX_INPUTS:
        return False
    texts = inputs[1:]  # behind the image: a pattern, an alphabet
    try:
        is_short = len(str(others)) <= 1000 and all(map(_is_input, [*inputs[:1], event]))
    except RecursionError:  # of lists in lists
        return False
    return is_short and all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts)


class Limits:
    """ASGI middleware that refuses what the app does not offer, too many requests at once, and large ones.

    What comes when `READERS` read and `max_waiting` wait is refused before gradio spends time on it. Events
    of the page wait in gradio's queue.

    Args:
        app: Answers what gets in.
        max_waiting: Requests.
        body_seconds: Until a request that is no upload must be there.
        upload_seconds: Until an upload must be there.

    Attributes:
        requests: With an image, that are being answered.
        held: Bytes of requests, in memory.
        streams: Answers that go on until the client ends them.
        uploads: Those that are coming, the one that began first at the front.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_waiting: int = MAX_WAITING,
        body_seconds: float = MAX_BODY_SECONDS,
        upload_seconds: float = MAX_UPLOAD_SECONDS,
    ) -> None:
        self.app, self.max_waiting = app, max_waiting
        self.body_seconds, self.upload_seconds = body_seconds, upload_seconds
        self.requests = self.held = self.streams = 0
        self.uploads: dict[anyio.CancelScope, None] = {}
        self.store, self.making_room = prepare_gradio(), anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = get_route_path(scope)  # as gradio's router sees it
        if not OPEN.fullmatch(f"{scope['method']} {path}"):
            await _refusal(404, CLOSED, path)(scope, receive, send)
            return
        if any(_names_charset(*header) for header in scope["headers"]):
            await _refusal(400, CHARSET, path)(scope, receive, send)
            return
        page = scope["app"].get_blocks()
        if not (page.root_path or page.share or utils.get_space()):  # there is no proxy that sets them
            headers = [(name, value) for name, value in scope["headers"] if name not in PROXY_HEADERS]
            scope = scope | {"headers": headers}
        if path.startswith("/gradio_api/info"):
            # Asked for no page, gradio tells everybody the address by which it was first asked.
            scope = scope | {"query_string": scope["query_string"] + b"&page="}
        is_stream = bool(STREAM.match(f"{scope['method']} {path}"))
        if is_stream and len(path) + len(scope["query_string"]) > MAX_ADDRESS:
            await _refusal(404, CLOSED, path)(scope, receive, send)
            return
        if is_stream and self.streams >= MAX_STREAMS:
            await _refusal(503, BUSY, path)(scope, receive, send)
            return
        take = self._take_upload if path in ("/gradio_api/upload", "/read_many") else self._take_request
        self.streams += is_stream
        try:
            await take(scope, receive, send, path)
        finally:
            self.streams -= is_stream

    async def _take_request(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        calls = CALL.fullmatch(f"{scope['method']} {path}")
        limit = MAX_FILE_BYTES if path == "/read" else MAX_BODY_BYTES if calls else SMALL_BODY_BYTES
        is_image = bool(re.match(r"/read$|/gradio_api/(run|api)/", path))
        # Only what has come whole counts: a slow client is not to hold up others.
        body, held, more = bytearray(), 0, True
        try:
            with anyio.move_on_after(self.body_seconds) as collecting:
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        self.held -= held
                        return
                    part, more = message.get("body", b""), message.get("more_body", False)
                    body += part
                    held += len(part)
                    self.held += len(part)
                    if held > limit:
                        raise HTTPException(413, f"The request is larger than {limit / 1e6:g} MB.")
                    if self.held > MAX_HELD_BYTES and held > SMALL_BODY_BYTES:
                        raise HTTPException(503, BUSY)
            if collecting.cancelled_caught:
                raise HTTPException(408, f"The request did not arrive within {self.body_seconds} seconds.")
            if calls and not is_call(body, path.startswith("/gradio_api/call/v2/")):
                raise HTTPException(400, NO_CALL)
            if is_image and self.requests >= READERS + self.max_waiting:
                raise HTTPException(503, BUSY)
        except BaseException as error:
            self.held -= held
            if not isinstance(error, HTTPException):
                raise
            await _refusal(error.status_code, error.detail, path)(scope, receive, send)
            return
        more = True

        async def receive_again() -> Message:
            nonlocal more
            if not more:
                return await receive()
            await anyio.lowlevel.checkpoint()  # a form is parsed as it comes, and others have their turn
            part = bytes(body[:PART_BYTES])
            del body[:PART_BYTES]
            more = bool(body)
            return {"type": "http.request", "body": part, "more_body": more}

        self.requests += is_image
        try:
            await self.app(scope, receive_again, send)
        finally:
            self.requests -= is_image
            self.held -= held

    async def _take_upload(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        size = 0

        async def receive_part() -> Message:
            nonlocal size
            message = await receive()
            part = len(message.get("body", b""))
            size += part
            self.store.bytes += part
            if size > MAX_UPLOAD_BYTES:
                raise HTTPException(
                    413, f"The request is larger than {MAX_UPLOAD_BYTES / 1e6:g} MB. Send less at once."
                )
            async with self.making_room:
                if self.store.bytes > self.store.room:
                    await anyio.to_thread.run_sync(self.store.clean)
            if not message.get("more_body"):
                coming.deadline = math.inf
                self.uploads.pop(coming, None)
            return message

        try:
            with anyio.move_on_after(self.upload_seconds) as coming:
                self.uploads[coming] = None
                if len(self.uploads) > MAX_UPLOADS:
                    first = next(iter(self.uploads))
                    del self.uploads[first]
                    first.cancel()
                await self.app(scope, receive_part, send)
                return
            refusal = _refusal(408, "The upload took too long. Try again.", path)
        except ClientDisconnect:
            return
        except OSError:  # the disk is full, or this upload was the oldest file
            await anyio.to_thread.run_sync(self.store.clean)
            refusal = _refusal(507, FULL, path)
        finally:
            self.uploads.pop(coming, None)
        await refusal(scope, receive, send)
