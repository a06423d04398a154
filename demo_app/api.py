"""The API: one image or many in a plain request, JSON out. `/openapi.json` describes it."""

import asyncio
import contextlib
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from folders import MAX_FILE_BYTES
from formats import Format, FormatError
from images import ImageError
from limits import FULL, MAX_CALL_FILES, READERS
from ocr import Reading, Recognizer, as_record
from patches import BUSY_JOBS, MAX_JOBS, Files, prepare_gradio
from pydantic import BaseModel, Field
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteException
from starlette.formparsers import MultiPartException
from starlette.routing import Route
from uploads import MAX_FILES, open_files

BATCH, BATCH_SECONDS = 16, 0.02  # images of requests that are read together, and how long to open them
ADDRESS = "http://127.0.0.1:7860"  # that the snippets name; the page puts in its own
PUT_ADDRESS = (
    f"text => text.replaceAll('{ADDRESS}', (location.origin + location.pathname).replace(/\\/$/, ''))"
)
SNIPPETS = f"""One request reads one image: in Python, in Node.js, or with curl. The answer is JSON.

```python
import requests

with open("image.png", "rb") as file:
    print(requests.post("{ADDRESS}/read", data=file).json())
```

```javascript
import {{ readFile }} from "node:fs/promises";

const body = await readFile("image.png");
const answer = await fetch("{ADDRESS}/read", {{ method: "POST", body }});
console.log(await answer.json());
```

```bash
curl -F "image=@image.png" {ADDRESS}/read
```

Another request reads many images or zip archives.

```bash
curl -F "images=@image.png" -F "images=@many.zip" {ADDRESS}/read_many
```

[openapi.json]({ADDRESS}/openapi.json) describes all requests and answers.
"""
Confidence = Annotated[float, Field(description="A probability, 0 to 1.")]
Pattern = Annotated[
    str, Query(description="Regular expression that the whole text fits, as in [A-Z]{2}\\d+.")
]
Alphabet = Annotated[str, Query(description="The characters that the text may have.")]


class Refusal(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="A sentence that says what is wrong and what to do.")


class Health(BaseModel):
    """Whether the server answers."""

    status: str


class Character(BaseModel):
    """One character of a text."""

    text: str
    confidence: Confidence
    left: float = Field(description="Its first column in the image, in pixels.")
    right: float = Field(description="The column after its last one, in pixels.")
    line: int = Field(description="Line of text: 0, or 1 for the lower of two.")


class Alternative(BaseModel):
    """Another possible text."""

    text: str
    confidence: Confidence


class Answer(BaseModel):
    """What was read in one image."""

    text: str = Field(description="Empty where no text is seen.")
    confidence: float = Field(
        description="Probability that the whole text is right, 0 to 1; with a pattern or an alphabet, "
        "among the texts that fit it."
    )
    fits: bool = Field(description="Whether the text fits the pattern and the alphabet.")
    sure: bool = Field(
        description="Whether the confidence reaches the model's threshold; never where nothing fits, or for "
        "a text of unusual length."
    )
    characters: list[Character]
    alternatives: list[Alternative] = Field(
        description="The most probable texts, of any length. Empty where they were not searched for."
    )


class Row(BaseModel):
    """What was read in one of many images, or why nothing was read."""

    file: str = Field(description="The name of the file; in a zip archive, `archive.zip/name`.")
    text: str | None = None
    confidence: Confidence | None = None
    sure: bool | None = None
    fits: bool | None = None
    error: str | None = None


class Split(BaseModel):
    """How many images served for what."""

    train: int
    validation: int
    test: int


class Model(BaseModel):
    """What was measured when the model was trained."""

    version: str = Field(description="The date on which the model was exported.")
    dataset: str
    alphabet: str = Field(description="The characters that it can read.")
    lengths: tuple[int, int] = Field(description="Of the shortest and the longest training label.")
    split: Split
    split_by: str
    start_from: str | None
    threshold: float | None = Field(description="From this confidence on, a reading is sure; null: never.")
    exact_match: float = Field(description="Share of the test images that were read without a mistake.")
    exact_match_interval: tuple[float, float] = Field(description="95% interval of that share.")
    cer: float = Field(description="Character error rate on the test images.")


class Batches:
    """Reads images of requests that come at the same time together: each takes less time than by itself.

    Args:
        recognizer: Reads them.
        readers: How many images, or batches of small ones, are open at once.
    """

    def __init__(self, recognizer: Recognizer, readers: anyio.CapacityLimiter) -> None:
        self.recognizer, self.readers = recognizer, readers
        self.turns = anyio.CapacityLimiter(READERS // 2)  # few, so that others come together meanwhile
        self.waiting: deque[tuple[bytes, asyncio.Future]] = deque()

    async def read(self, content: bytes) -> Reading:
        """Read an encoded image.

        Raises:
            ImageError: If it can't be opened.
        """
        result = asyncio.get_running_loop().create_future()
        self.waiting.append((content, result))
        async with self.turns:  # in order; each takes the first that wait, this one's own turn at the latest
            if self.waiting:
                await self._read_first()
        return await result

    async def _read_first(self) -> None:
        taken: list[asyncio.Future] = []

        def take() -> Iterator[bytes]:
            end = time.monotonic() + BATCH_SECONDS  # what takes long to open holds up no more than its batch
            with contextlib.suppress(IndexError):  # another turn has taken the last one
                while not taken or (len(taken) < BATCH and time.monotonic() < end):
                    content, result = self.waiting.popleft()
                    taken.append(result)
                    yield content

        def read() -> list[Reading | ImageError]:
            if len(self.waiting) > 1:
                return list(self.recognizer.read_each(take()))
            return [self.recognizer.read(content) for content in islice(take(), 1)]  # without its thread

        try:
            readings = await anyio.to_thread.run_sync(read, limiter=self.readers)
        except Exception as error:  # noqa: BLE001, each of them waits for it
            readings = [error] * len(taken)
        for result, reading in zip(taken, readings, strict=True):
            if isinstance(reading, Exception):
                result.set_exception(reading)
            else:
                result.set_result(reading)


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def _content(request: Request) -> tuple[bytes, dict[str, str]]:
    """Return the image of a request, its body or the field `image` of a form, and the form's texts.

    Raises:
        HTTPException: 400, if there is none.
    """
    if _is_form(request):
        async with request.form(max_files=1) as form:
            image = form.get("image")
            texts = {name: value for name, value in form.items() if isinstance(value, str)}
            content = await image.read() if isinstance(image, UploadFile) else b""
    else:
        content, texts = await request.body(), {}
    if not content:
        raise HTTPException(400, "There is no image. Send it as the body, or as the field `image` of a form.")
    return content, texts


async def _store(request: Request, place: str) -> list[UploadFile]:
    """Write the files of a request into a folder.

    Raises:
        HTTPException: 400 or 413, if there are none, or too many, or one is too large.
    """
    uploads = []
    if _is_form(request):
        options = {"max_files": MAX_CALL_FILES, "upload_dir": place, "max_file_size": MAX_FILE_BYTES}
        try:
            uploads = (await Files(request.headers, request.stream(), **options).parse()).getlist("images")
        except (MultiPartException, FormParserError) as error:
            if str(error).startswith("File size"):
                raise HTTPException(413, f"A file is larger than {MAX_FILE_BYTES / 1e6:g} MB.") from error
            reason = str(error).rstrip(".")
            raise HTTPException(400, f"The form is damaged ({reason}). Send nothing but files.") from error
    if not uploads:
        raise HTTPException(400, "There are no files. Send them as the fields `images` of a form.")
    return uploads


def _read_files(recognizer: Recognizer, uploads: list[UploadFile], form: Format) -> list[Row]:
    """Read uploaded images, and those in uploaded zip archives."""
    paths, names, files = [], {}, []
    for upload in uploads:
        path = Path(upload.file.name)
        is_archive = upload.filename.lower().endswith(".zip")
        paths.append(path.rename(path.with_suffix(".zip")) if is_archive else path)
        names[paths[-1].name] = upload.filename

    def sources() -> Iterator[str | bytes | ImageError]:
        for name, source in open_files(map(str, paths)):
            path_name, slash, member = name.partition("/")
            files.append(names[path_name] + slash + member)
            yield source

    readings = recognizer.read_each(sources(), form)
    return [Row(**as_record(files[position], reading)) for position, reading in enumerate(readings)]


def _body(form: dict[str, Any], **raw: Any) -> dict[str, Any]:  # noqa: ANN401, JSON
    """Describe a request's body, which FastAPI can't know."""
    schema = {"type": "object", "properties": form, "required": list(form)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}} | raw}}


def _refuse(_: Request, error: Exception) -> JSONResponse:
    """Say in one sentence what is wrong."""
    if isinstance(error, StarletteException):
        is_method = error.status_code == 405
        sentence = f"This address takes {error.headers['Allow']} only." if is_method else error.detail
        return JSONResponse({"error": sentence}, error.status_code, error.headers)
    if isinstance(error, RequestValidationError):
        first, *_ = error.errors()
        return JSONResponse({"error": f"The argument {first['loc'][-1]} is wrong: {first['msg']}."}, 422)
    return JSONResponse({"error": str(error)}, 422)


def build_api(recognizer: Recognizer, readers: anyio.CapacityLimiter) -> FastAPI:
    """Build the API for a model.

    Args:
        recognizer: Reads the images.
        readers: How many images, or batches of small ones, are open at once; the page has the same.
    """
    about, folder = recognizer.about, prepare_gradio().folder
    batches, jobs = Batches(recognizer, readers), anyio.CapacityLimiter(READERS // 2)
    visitors: list[str] = []  # those whose many images wait or are read
    api = FastAPI(
        title="CustomOCR",
        version=about["date"],
        description="Reads the text in images.",
        servers=[{"url": "."}],  # below a proxy's path, too
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        exception_handlers=dict.fromkeys(
            (StarletteException, RequestValidationError, ImageError, FormatError), _refuse
        ),
    )
    reasons = {
        400: "There is no image, or the form is damaged.",
        408: "The request did not arrive in time.",
        413: "It is too large.",
        422: "The image can't be read, or an argument is wrong.",
        503: "The server is busy. Try again later.",
        507: "There is no room for the files. Try again later.",
    }
    refusals = {status: {"model": Refusal, "description": reason} for status, reason in reasons.items()}
    file = {"type": "string", "format": "binary"}

    @api.exception_handler(OSError)
    async def make_room(_: Request, error: OSError) -> JSONResponse:
        """Say that the disk is full, or that these were the oldest files."""
        await anyio.to_thread.run_sync(prepare_gradio().clean)
        return JSONResponse({"error": FULL}, 507)

    @api.post(
        "/read",
        responses={status: refusals[status] for status in (400, 408, 413, 422, 503)},
        openapi_extra=_body({"image": file}, **{"image/*": {"schema": file}}),
    )
    async def read(
        request: Request,
        alternatives: Annotated[
            bool | None,
            Query(description="Whether to return them; by default, only if `sure` is false."),
        ] = None,
        pattern: Pattern = "",
        alphabet: Alphabet = "",
    ) -> Answer:
        """Read the text in one image of up to 20 MB: the body of the request, or a field of a form.

        A search for alternatives, or for what fits a pattern, takes longer. Where nothing
        fits, the text is read without the pattern and is not sure. Pattern and alphabet may also be fields
        of the form.
        """
        content, texts = await _content(request)
        form = Format(texts.get("pattern", pattern), texts.get("alphabet", alphabet))
        if not form.is_open:
            reading = await anyio.to_thread.run_sync(recognizer.read, content, form, limiter=readers)
        else:
            reading = await batches.read(content)
        others = []
        # Others may not fit a format.
        if form.is_open and (alternatives or (alternatives is None and not reading.sure)):
            others = await anyio.to_thread.run_sync(recognizer.alternatives, reading, limiter=readers)
        alternatives = [{"text": text, "confidence": confidence} for text, confidence in others]
        return Answer(**as_record("", reading), alternatives=alternatives)

    @api.post(
        "/read_many",
        description=f"Read up to {MAX_CALL_FILES:,} files of up to 20 MB: images, and zip archives of them. "
        f"At most {MAX_FILES:,} images are read in all. One that can't be read has an error in its place.",
        responses={status: refusals[status] for status in (400, 408, 413, 422, 503, 507)},
        openapi_extra=_body({"images": {"type": "array", "items": file}}),
    )
    async def read_many(request: Request, pattern: Pattern = "", alphabet: Alphabet = "") -> list[Row]:
        form = Format(pattern, alphabet)
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
            uploads = await _store(request, place)
            visitor = request.headers.get("x-forwarded-for", request.client.host)
            if len(visitors) >= MAX_JOBS or visitors.count(visitor) >= 2:
                raise HTTPException(503, BUSY_JOBS)
            visitors.append(visitor)
            try:
                return await anyio.to_thread.run_sync(_read_files, recognizer, uploads, form, limiter=jobs)
            finally:
                visitors.remove(visitor)

    @api.get("/health")
    async def health() -> Health:
        """Say that the server answers."""
        return Health(status="ok")

    @api.get("/model")
    async def model() -> Model:
        """Describe the model and how well it reads."""
        return Model(version=about["date"], **about)

    @api.get("/openapi.json")
    async def openapi() -> dict[str, Any]:
        """Describe the API."""
        return api.openapi()

    return api


def mount(recognizer: Recognizer, readers: anyio.CapacityLimiter) -> dict[str, Any]:
    """Give the arguments of a FastAPI app that put the API before gradio's own routes."""
    api = build_api(recognizer, readers)
    return {"routes": [Route(path, api) for path in api.openapi()["paths"]], "openapi_url": None}
