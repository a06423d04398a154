"""Labels a folder of images with a model's help: which image comes next, what was answered, what was learnt.

All that `app.py` shows. A program can drive it, too: `upcoming` and `answer` in turns.
"""

import hashlib
import io
import math
import os
import subprocess
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
from folders import describe_kinds, find_images
from formats import Format
from images import ImageError, open_image
from ocr import ModelError, Reading
from PIL import Image

from label_app import models
from label_app.answers import Label, LabelFile, LabellingError
from label_app.models import Training, load_model
from training.errors import DatasetError
from training.labels import PATTERN, find_labels
from training.writing import clean

MAX_SAMPLE, SAMPLE_SHARE = 50, 0.2  # images of the random sample, at most
AHEAD = 6  # images that the page knows before it shows them
READ_TOGETHER, HELD_PIXELS = 32, 16_000_000  # images that are open at once, and where that is enough
DRAWN = 32  # images among which the least sure one comes next
DIFFERENT = 4  # of so many, one is the least like what was labelled
THUMBNAIL = (24, 8)
COPY = 0.97  # correlation of thumbnails from which on images that are read the same are near copies
DOUBTFUL = 0.9  # confidence of a character, below which it is marked
NEW_CHARACTER = 0.02  # how probable one may be where the alphabet counts as known
LEAST_LABELS = 10  # to train with, beside those of the random sample and the model's
LOOK_SECONDS = 5  # from one look for new files to the next
STILL_COPIED = 10  # seconds after the last change of a file that may not be complete
OWN_PARAMETERS = {"DATASET", "FOLD", "LABEL_FROM", "OUTPUT", "REPORT", "SPLIT_BY", "WORK"}
NO, GIVEN, SAMPLE, PERSON, MODEL = range(5)
CODES = {"given": GIVEN, "sample": SAMPLE, "person": PERSON, "model": MODEL}
STATE = [
    ("confidence", np.float32),  # of what is read, 0 where that is nothing
    ("sure", bool),
    ("round", np.int32),  # in which it was read, 0 for none: each model and alphabet begins one
    ("gone", bool),  # deleted, or can't be opened
    ("source", np.uint8),  # of its label: NO for none, or one of CODES
    ("copy", bool),  # a near copy of one that is labelled or comes next
]


class Labelling:
    """A folder that is being labelled. Several threads may call all methods.

    Images are numbered in a fixed random order.

    Args:
        folder: Holds the images, and gets `labels.csv`.
        model: Folder of an export that reads the images until a model is trained here.
        work: Gets the trained models, and may hold those of an earlier session.
        parameters: Of the notebook, names and values.

    Raises:
        LabellingError: If the folder holds no images, or can't be labelled.
        ModelError: If the model can't be loaded.

    Attributes:
        names: The path of each image below the folder, with `/`.
        labels: By the names, also of images that are gone.
        guesses: What is read in each image: the text, and its doubtful characters.
        state: What else is known of each.
        suggested: Labels, by the names, that the names themselves may be.
        every: After so many new labels a training starts by itself; 0 for never.
        message: How the last training ended.
    """

    def __init__(self, folder: Path, model: Path, work: Path, parameters: list[list[str]]) -> None:
        if not folder.is_dir():
            raise LabellingError(f"There is no folder {folder}. Check DATASET, and unpack an archive first.")
        if own := OWN_PARAMETERS & dict(parameters).keys():
            raise LabellingError(f"{min(own)} can't be set here: the page chooses it. Leave it out.")
        self.folder, self.work, self.parameters = folder, work, parameters
        self.ignore_case = dict(parameters).get("IGNORE_CASE", "").lower() == "true"
        self.file, self.changed = LabelFile(folder), threading.Condition()
        self.names: list[str] = []
        self.sample: set[int] = set()  # and what is to be labelled yet
        self.mode = "label"  # what is asked for
        self.numbers: dict[str, int] = {}
        self.guesses: list[tuple[str, list[dict[str, Any]]] | None] = []
        self.state = np.zeros(0, STATE)
        self.thumbnails = np.zeros((0, math.prod(THUMBNAIL)), np.float32)
        self.labels: dict[str, Label] = {}
        self.characters: Counter[str] = Counter()  # of all labels but the model's
        self.folders: dict[Path, int] = {}
        self._look()
        if not self.names:
            others = describe_kinds(find_images(folder)[1]) or "it is empty"
            raise LabellingError(f"There are no images in {folder} ({others}). Check DATASET.")
        answers, self.suggested = self.file.load(), {}
        found = self._find_given() if answers is None else answers
        self._note(
            {name: Label(clean(text, self.ignore_case)[0], source) for name, (text, source) in found.items()}
        )
        source = self.state["source"]
        self.sample |= set(np.flatnonzero(source == SAMPLE).tolist())
        self.sample_size = min(MAX_SAMPLE, int(SAMPLE_SHARE * (source != GIVEN).sum()))
        self.queues: dict[str, list[int]] = {"label": [], "check": []}
        self.skipped: dict[int, None] = {}
        self.checked: set[int] = set()
        self.to_check: deque[int] = deque()
        self.accepted: dict[str, str] = {}  # the guess that was answered, by the names
        self.every = self.new = self.turn = 0
        self.chance = np.random.default_rng(0)
        self.training: Training | None = None
        self.server: subprocess.Popen | None = None
        self.serving, self.served, self.address = threading.Lock(), 0, ""
        self.message, self.form = "", Format()
        lines = 2 if dict(parameters).get("LINES") == "2" else 1
        try:  # that of an earlier session
            self.recognizer, self.is_trained = load_model(work / "reader", lines), True
        except ModelError:
            self.recognizer, self.is_trained = load_model(model, lines), False
        self.round, self.is_open = 1, True
        self._learn_alphabet()
        self.thread = threading.Thread(target=self._read_on, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End the processes and let others label the folder."""
        with self.changed:
            self.is_open = False
            self.changed.notify_all()
        for process in (self.training and self.training.process, self.server):
            if process and process.poll() is None:
                process.terminate()
        self.thread.join()
        self.file.lock.release()

    def upcoming(self, mode: str) -> list[dict[str, Any]]:
        """List the images that come next, with what is read in them.

        Args:
            mode: "label" for images without a label, "check" for those with one that may be wrong.
        """
        if not os.path.isdir(self.folder):  # noqa: PTH112, which may raise
            raise LabellingError(f"The folder {self.folder} is away. Connect its disk again, or restore it.")
        with self.changed:
            self.mode = mode
            queue = self.queues[mode] = [number for number in self.queues[mode] if self._is_there(number)]
            while len(queue) < AHEAD and (number := self._choose(mode)) is not None:
                if self._is_there(number):
                    queue.append(number)
            self.changed.notify_all()
            return [self._describe(number) for number in queue]

    def answer(self, name: str, text: str | None, guess: str | None = None) -> None:
        """Take an answer, and put it on the disk.

        Args:
            name: Of the image.
            text: What it shows; "" if nobody can read it, None to skip it.
            guess: The text that was proposed, None if there was none.

        Raises:
            LabellingError: If it can't be written, or there is no such image.
        """
        with self.changed:
            if (number := self.numbers.get(name)) is None:
                raise LabellingError(f"There is no image {name} in this folder. Reload the page.")
            is_checked = number in self.queues["check"]
            if text is None:
                self.skipped.pop(number, None)
                self.skipped[number] = None
            else:
                source = "sample" if number in self.sample else "person"
                new, old = Label(clean(text, self.ignore_case)[0], source), self.labels.get(name)
                self._write({name: new})
                if guess is not None and not old:
                    self.accepted[name] = guess
                self.new += new != old
                self.skipped.pop(number, None)
                self._learn_alphabet()
            if is_checked:
                self.checked.add(number)
            self._drop({number})
            if self.every and self.new >= self.every and not self.is_training:
                try:
                    self.train()
                except LabellingError as error:  # there are too few labels
                    self.message = str(error)

    def accept_sure(self) -> int:
        """Take what is read for sure as the labels of images that no person has labelled; count them.

        Raises:
            LabellingError: If they can't be written.
        """
        with self.changed:
            is_free = np.isin(self.state["source"], (NO, MODEL)) & ~self.state["gone"]
            is_free[list(self.sample)] = False
            is_free &= self.state["round"] == self.round
            new = {
                self.names[number]: Label(self.guesses[number][0], "model")
                for number in np.flatnonzero(is_free & self.state["sure"])
            }
            new = {name: label for name, label in new.items() if self.labels.get(name) != label}
            self._write(new)
            return len(new)

    def take_names(self) -> None:
        """Take the names of the files as their labels.

        Raises:
            LabellingError: If they can't be written.
        """
        with self.changed:
            self._write({name: label for name, label in self.suggested.items() if name not in self.labels})
            self.suggested = {}
            self.sample = set(np.flatnonzero(self.state["source"] == SAMPLE).tolist())

    def picture(self, name: str) -> bytes:
        """Draw an image as a PNG that is no larger than a screen.

        Raises:
            ImageError: If it can't be opened any more.
            KeyError: If there never was one.
        """
        pixels = open_image(self.folder / self.names[self.numbers[name]], 3)
        picture, file = Image.fromarray(pixels), io.BytesIO()
        picture.thumbnail((1600, 800))
        picture.save(file, "PNG", compress_level=1)
        return file.getvalue()

    def status(self) -> dict[str, Any]:
        """Count.

        Returns:
            images: All, by what labels they have: labelled (by a person, or before), by_model, or rest; of
                the rest, read: those that this model has read, and sure: those that it is sure of.
            accepted: Which of the last 50 guesses were right.
            sample: Which images of the random sample this model reads right, and which of these for sure.
            message: How far the training is, or how the last one ended.
        """
        with self.changed:
            is_here = ~self.state["gone"]
            source, is_read = self.state["source"], self.state["round"] == self.round
            counts = np.bincount(source[is_here], minlength=5).tolist()
            shown = [
                n for n in np.flatnonzero((source == SAMPLE) & is_read) if self.labels[self.names[n]].text
            ]
            right = [self.guesses[n][0] == self.labels[self.names[n]].text for n in shown]
            rest = is_here & (source == NO)
            return {
                "images": sum(counts),
                "labelled": counts[GIVEN] + counts[SAMPLE] + counts[PERSON],
                "by_model": counts[MODEL],
                "accepted": [self.labels[n].text == guess for n, guess in list(self.accepted.items())[-50:]],
                "sample": list(zip(right, self.state["sure"][shown].tolist(), strict=True)),
                "rest": counts[NO],
                "read": int((rest & is_read).sum()),
                "sure": int((rest & is_read & self.state["sure"]).sum()),
                "message": self.training.said if self.training else self.message,
            }

    @property
    def is_training(self) -> bool:
        """Whether a training runs."""
        return self.training is not None and self.training.is_alive()

    def train(self) -> None:
        """Start a training on the labels so far, in the background.

        Raises:
            LabellingError: If one runs already, the labels are too few, or nothing can be written.
        """
        with self.changed:
            self._end_training()  # before the next one takes its place
            others = ("sample", "model")
            used = [label for label in self.labels.values() if label.text and label.source not in others]
            if self.is_training:
                raise LabellingError("Training is already running.")
            if len(used) < LEAST_LABELS or len({label.text for label in used}) < 2:
                beside = (
                    " in addition to the random sample, on which the model is tested"
                    if self.sample_size
                    else ""
                )
                raise LabellingError(
                    f"Label at least {LEAST_LABELS} images of different texts{beside}: so far {len(used)}."
                )
            try:
                self.training = Training(self.folder.resolve(), self.work.resolve(), self.parameters)
            except OSError as error:
                raise LabellingError(f"The training can't start ({error}).") from error
            self.training.start()
            self.new = 0

    def serve(self) -> str:
        """Serve the demo app with the model that was trained last, and give its address.

        Raises:
            LabellingError: If there is none, or the app does not start.
        """
        if not self.is_trained:
            raise LabellingError("No model has been trained on your labels yet. Train one first.")
        with self.serving:
            if self.server is None or self.server.poll() is not None or self.served != self.round:
                if self.server:
                    self.server.terminate()
                self.server, self.address = models.serve(self.work / "reader")
                self.served = self.round
            return self.address

    def _look(self) -> None:
        """Look for images that are new or gone, if a folder has changed."""
        if not os.path.isdir(self.folder):  # noqa: PTH112, a stick may have been pulled out
            self.folders = {}
            return
        stamps = {folder: _changed_at(folder) for folder in self.folders or [self.folder]}
        if stamps == self.folders:
            return
        found = {path.relative_to(self.folder).as_posix(): path for path in find_images(self.folder)[0]}
        # Names that a line of a list can't hold are left out.
        new = [name for name in found.keys() - self.numbers.keys() if _is_plain(name)]
        new.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        for folder in {Path(place) for place, *_ in os.walk(self.folder)} - stamps.keys():
            stamps[folder] = _changed_at(folder)
        with self.changed:
            self.folders = stamps
            self.numbers |= {name: number for number, name in enumerate(new, start=len(self.names))}
            self.names += new
            self.guesses += [None] * len(new)
            self.state = np.concatenate([self.state, np.zeros(len(new), STATE)])
            self.state["gone"] = [name not in found for name in self.names]
            empty = np.zeros((len(new), self.thumbnails.shape[1]), np.float32)
            self.thumbnails = np.concatenate([self.thumbnails, empty]) if len(self.thumbnails) else empty
            self._note({name: self.labels[name] for name in new if name in self.labels})
            self.sample |= set(np.flatnonzero(self.state["source"] == SAMPLE).tolist())

    def _find_given(self) -> dict[str, Label]:
        """Find the labels that the folder came with; names of files are only suggested."""
        try:
            rows = find_labels(self.folder, PATTERN, None).rows
        except DatasetError as error:
            if self.file.path.exists():
                raise LabellingError(str(error)) from error
            return {}
        given = {
            image.relative_to(self.folder).as_posix(): Label(
                clean(label, self.ignore_case)[0], "model" if split == "model" else "given"
            )
            for image, label, split in rows
            if label and image.relative_to(self.folder).as_posix() in self.numbers
        }
        if any(label.text != clean(Path(name).stem, self.ignore_case)[0] for name, label in given.items()):
            return given
        self.suggested = given
        return {}

    def _note(self, labels: dict[str, Label]) -> None:
        for name, label in labels.items():
            if (old := self.labels.get(name)) and old.source != "model":
                self.characters.subtract(old.text)
            if label.source != "model":
                self.characters.update(label.text)
            if (number := self.numbers.get(name)) is not None:
                self.state["source"][number] = CODES.get(label.source, GIVEN)
        self.labels |= labels

    def _write(self, labels: dict[str, Label]) -> None:
        if labels:
            self.file.append(labels, self.labels)
            self._note(labels)
            self._drop({self.numbers[name] for name in labels})

    def _drop(self, numbers: set[int]) -> None:
        for mode, queue in self.queues.items():
            self.queues[mode] = [number for number in queue if number not in numbers]

    def _is_there(self, number: int) -> bool:
        self.state["gone"][number] |= not os.path.exists(self.folder / self.names[number])  # noqa: PTH110
        return not self.state["gone"][number]

    def _choose(self, mode: str) -> int | None:
        """Choose an image that is in no queue; None if there are no more."""
        queued = [number for queue in self.queues.values() for number in queue]
        state = self.state
        if mode == "check":
            if not self.to_check:
                self._sort_labels()
            while self.to_check:
                if (number := self.to_check.popleft()) not in queued:
                    return number
            return None
        is_left = (state["source"] == NO) & ~state["gone"]
        is_free = is_left.copy()
        is_free[queued + list(self.skipped)] = False
        if waiting := [number for number in self.sample if is_free[number]]:
            return min(waiting)
        if len(self.sample) < self.sample_size and is_free.any() and not (state["source"] == MODEL).any():
            number = int(is_free.argmax())
            self.sample.add(number)
            return number
        read = is_free & ~state["copy"]
        known = np.flatnonzero(read & (state["round"] == self.round))
        if not known.size:  # by the model of now
            known = np.flatnonzero(read & (state["round"] > 0))
        others = [*np.flatnonzero(np.isin(state["source"], (SAMPLE, PERSON))).tolist(), *queued]
        while known.size:
            drawn = known if known.size <= DRAWN else known[self.chance.integers(known.size, size=DRAWN)]
            likeness = self.thumbnails[drawn] @ self.thumbnails[others].T
            for number, alike in zip(drawn, likeness > COPY, strict=True):
                text, same = self._text(number), (others[place] for place in np.flatnonzero(alike))
                state["copy"][number] |= any(text in (self._text(n), self._label(n)) for n in same)
            fresh = ~state["copy"][drawn]
            if fresh.any():
                self.turn += 1
                is_turn = others and self.turn % DIFFERENT == 0
                key = likeness[fresh].max(axis=1) if is_turn else state["confidence"][drawn[fresh]]
                return int(drawn[fresh][key.argmin()])
            known = known[~state["copy"][known]]
        if is_free.any():
            return int(is_free.argmax())
        return next((number for number in self.skipped if number not in queued and is_left[number]), None)

    def _sort_labels(self) -> None:
        """Put first what the model reads differently, above all where it is sure; last what is unread."""
        doubts = {}
        for name, label in self.labels.items():
            number = self.numbers.get(name)
            if number is None or self.state["gone"][number] or number in self.checked:
                continue
            confidence = float(self.state["confidence"][number])
            differs = self._text(number) != label.text
            is_read = self.state["round"][number] == self.round
            doubts[number] = (-confidence if differs else confidence) if is_read else 2
        self.to_check.extend(sorted(doubts, key=doubts.__getitem__))

    def _text(self, number: int) -> str | None:
        guess = self.guesses[number]
        return guess and guess[0]

    def _label(self, number: int) -> str | None:
        label = self.labels.get(self.names[number])
        return label and label.text

    def _describe(self, number: int) -> dict[str, Any]:
        text, marks = self.guesses[number] or (None, [])
        return {
            "name": self.names[number],
            "guess": text,
            "marks": marks,
            "confidence": round(float(self.state["confidence"][number]), 4),
            "label": self._label(number),
            "is_sample": number in self.sample,
        }

    def _begin_round(self) -> None:
        self.round += 1
        self.state["copy"] = False
        self.to_check.clear()
        for queue in self.queues.values():
            del queue[2:]  # the page shows the first one

    def _end_training(self) -> None:
        if self.training and not self.training.is_alive():
            self.message = self.training.said
            if self.training.recognizer:
                self.recognizer, self.is_trained = self.training.recognizer, True
                self.form = Format()
                self._begin_round()
            self.training = None

    def _learn_alphabet(self) -> None:
        """Keep a model that knows more characters to those of the labels, once new ones are improbable.

        After Good and Turing: as probable as the characters that occurred once, and one more.
        """
        once = 1 + sum(count == 1 for count in self.characters.values())
        is_known = once < NEW_CHARACTER * self.characters.total()
        known = "".join(sorted(+self.characters)) if is_known and not self.is_trained else ""
        if self.ignore_case:  # labels are in lower case, what the model reads may not be
            known += "".join(sorted({*known.upper()} - {*known}))
        if known != self.form.alphabet:
            self.form = Format(alphabet=known)
            self._begin_round()

    def _unread(self) -> list[int]:
        """List what is to be read next: what comes next, the sample, what is asked for, all else."""
        is_stale = (self.state["round"] != self.round) & ~self.state["gone"]
        queued = [number for queue in self.queues.values() for number in queue if is_stale[number]]
        source = self.state["source"]
        is_next = (source == NO) == (self.mode == "label")
        some = (np.flatnonzero(is_stale & kind) for kind in (source == SAMPLE, is_next, ~is_next))
        return queued or next((numbers[:READ_TOGETHER].tolist() for numbers in some if numbers.size), [])

    def _read_on(self) -> None:
        looked = time.monotonic()
        while self.is_open:
            if time.monotonic() - looked > LOOK_SECONDS:
                self._look()
                looked = time.monotonic()
            with self.changed:
                self._end_training()
                numbers = self._unread()
                recognizer, form, number_of_round = self.recognizer, self.form, self.round
                if not numbers:
                    self.changed.wait(1)
                    continue
            images, held = [], 0
            while len(images) < len(numbers) and held < HELD_PIXELS:
                images.append(self._open(numbers[len(images)], recognizer.channels))
                held += 0 if isinstance(images[-1], ImageError) else images[-1].size
            numbers = numbers[: len(images)]
            readings = list(recognizer.read_each(images, form))
            lines = recognizer.shape.lines
            seen = [
                None if isinstance(reading, ImageError) else self._look_at(image, reading, lines)
                for image, reading in zip(images, readings, strict=True)
            ]
            with self.changed:
                for number, reading, some in zip(numbers, readings, seen, strict=True):
                    if some is None:
                        self.state["gone"][number] = True
                        changed = _changed_at(self.folder / self.names[number])
                        if not changed or 0 <= time.time() - changed / 1e9 < STILL_COPIED:
                            self.folders = {}  # so that it is looked for again
                    elif number_of_round == self.round:
                        self.guesses[number], self.thumbnails[number] = some
                        self.state["confidence"][number] = reading.confidence if reading.text else 0
                        self.state["sure"][number] = reading.sure
                        self.state["round"][number] = self.round
                        if self.names[number] in self.labels:
                            self.to_check.clear()  # it is sorted anew
                self.changed.notify_all()

    def _open(self, number: int, channels: int) -> np.ndarray | ImageError:
        try:
            return open_image(self.folder / self.names[number], channels)
        except ImageError as error:
            return error

    def _look_at(
        self, image: np.ndarray, reading: Reading, lines: int
    ) -> tuple[tuple[str, list[dict[str, float]]], np.ndarray]:
        """Give a guess with its marks, and a thumbnail, float32 (192,), that correlates by its products."""
        grey = Image.fromarray(image.mean(axis=2).astype(np.uint8))
        pixels = np.asarray(grey.resize(THUMBNAIL, Image.Resampling.BOX), np.float32).ravel()
        pixels -= pixels.mean()
        pixels /= max(float(np.linalg.norm(pixels)), 1e-6)
        guess, marks = clean(reading.text, self.ignore_case)[0], _mark(reading, image.shape[1], lines)
        if len(guess) != len(reading.text):  # spaces were cut off, and the marks in the text moved
            marks = [mark | {"at": -1} for mark in marks]
        return (guess, marks), pixels


def _changed_at(folder: Path) -> int:
    """Tell when a folder's entries changed last, in nanoseconds; 0 if it is gone."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _is_plain(name: str) -> bool:
    """Tell whether a name is Unicode in one line."""
    return not {"\n", "\r"} & set(name) and name.encode("utf-8", "ignore").decode() == name


def _mark(reading: Reading, width: int, lines: int) -> list[dict[str, float]]:
    """Say where doubtful characters stand: `at` in the text, -1 if unclear; else in shares of the image."""
    from_left = "".join(character.text for character in reading.characters)
    centres = [(character.left + character.right) / 2 / width for character in reading.characters]
    gap = min(float(np.median(np.abs(np.diff(centres)))), 0.3) if len(centres) > 1 else 0.3
    marks = []
    for number, character in enumerate(reading.characters):
        if character.confidence < DOUBTFUL:
            at = {reading.text[::-1]: len(from_left) - 1 - number, reading.text: number}.get(from_left, -1)
            left, top = max(0, centres[number] - gap / 2), character.line / lines
            box = {"left": left, "width": gap, "top": top, "height": 1 / lines}
            marks.append({"at": at} | {name: round(share, 4) for name, share in box.items()})
    return marks
