"""What is known of a text before it is read: a pattern, an alphabet."""

import functools
import time
import unicodedata
from collections.abc import Callable, Collection

import numpy as np
import regex
from decoding import search_beam

BEAM_WIDTH = 64  # as a format leaves out many texts
MAX_PATTERN = 200  # characters
MAX_CHARACTERS = 1000  # the most probable ones, which a pattern's texts may have
MAX_SECONDS = 0.1, 1.0  # of the processor, for one look at a text and for all those at an image's
# Repetitions of groups, and large ones, can take any amount of memory; the rest is rare.
UNSAFE = regex.compile(r"\)[*+{]|\{(?!\d{0,2}(?:,\d{0,2})?\})[^{}]*\}?|\((?:\?(?!:)|\*)|\\[^dwsDWS\W]")
TOO_LONG = "The pattern takes too long for this image. Use fewer repetitions."


class FormatError(ValueError):
    """A pattern or alphabet that can't be used; the message says what is wrong and what to do."""


class Format:
    """What a text may be.

    Args:
        pattern: Regular expression for the whole text, of characters, classes as in [A-Z] and \\d,
            alternatives, and repetitions of a character or class; "" for any text.
        alphabet: The characters that the text may have; "" for all.

    Raises:
        FormatError: If the pattern is of another kind.
    """

    def __init__(self, pattern: str = "", alphabet: str = "") -> None:
        self.alphabet, self.has_pattern = alphabet, bool(pattern)
        self.is_open = not (pattern or alphabet)
        self.slow = 0  # images for which the pattern took too long
        if len(pattern) > MAX_PATTERN:
            raise FormatError(f"The pattern has more than {MAX_PATTERN} characters. Shorten it.")
        if found := UNSAFE.search(regex.sub(r"\\\W", "_", pattern)):  # without escaped brackets
            raise FormatError(
                f"The pattern may not contain {found[0]!r}. "
                "Repeat characters or classes, as in [A-Z]{2}\\d+. In a class, put a \\ before ( ) { * +."
            )
        try:
            self._compiled = regex.compile(pattern or ".*")
        except (regex.error, RuntimeError) as error:
            raise FormatError(
                f"The pattern is not a valid regular expression ({error}). Correct it."
            ) from error

    def fits(self, text: str, partial: bool = False) -> bool:
        """Tell whether a text fits, or, if it is partial, whether it could with more characters behind it.

        Raises:
            FormatError: If that takes long.
        """
        try:
            return bool(self._compiled.fullmatch(text, partial=partial, timeout=MAX_SECONDS[0]))
        except TimeoutError as error:
            raise FormatError(TOO_LONG) from error

    def is_possible(self, names: Collection[str]) -> bool:
        """Tell whether any of these characters is in the alphabet."""
        return not self.alphabet or not set(self.alphabet).isdisjoint(names)

    def keep(self, frames: np.ndarray, names: dict[int, str]) -> tuple[np.ndarray, np.ndarray]:
        """Remove other characters than those of the alphabet, and renormalise each frame.

        A text's probability becomes that among all texts of the alphabet.

        Args:
            frames: float32 (batch, frames, classes), softmax outputs, class 0 the blank.
            names: The character of each class but the blank.

        Returns:
            frames: Likewise, without the other characters.
            share: float32 (batch,), the probability of all texts that remain.
        """
        others = [number for number, name in names.items() if self.alphabet and name not in self.alphabet]
        kept = np.maximum(frames, np.float32(1e-12))  # so that some character is possible in each frame
        kept[..., others] = 0
        total = kept.sum(axis=2, keepdims=True)
        return kept / total, total.prod(axis=(1, 2))

    def read(
        self, frames: np.ndarray, names: dict[int, str], to_text: Callable[[tuple[int, ...]], str]
    ) -> tuple[tuple[int, ...], float] | None:
        """Find the most probable label sequence that fits the pattern.

        Args:
            frames: float32 (frames, classes), of one image, from `keep`.
            names: The character of each class but the blank.
            to_text: Makes the text of a label sequence.

        Returns:
            The label sequence and its probability among all those found that fit, 0 to 1; None if none does.

        Raises:
            FormatError: If the pattern takes long.
        """
        # Of thousands of characters, most are improbable everywhere.
        frames = frames.copy()
        frames[:, 1 + np.argsort(-frames[:, 1:].max(axis=0))[MAX_CHARACTERS:]] = 0
        # From right to left, the last characters are found first, of which a pattern tells nothing.
        runs_left = not {"R", "AL"}.isdisjoint(map(unicodedata.bidirectional, names.values()))

        end = time.thread_time() + MAX_SECONDS[1]

        @functools.cache
        def fits(ids: tuple[int, ...], partial: bool = False) -> bool:
            if time.thread_time() > end:
                raise FormatError(TOO_LONG)
            return (partial and runs_left) or self.fits(to_text(ids), partial)

        found = search_beam(frames, BEAM_WIDTH, lambda ids: fits(ids, partial=True))
        fitting = {ids: share for ids, share in found.items() if fits(ids)}
        total = sum(fitting.values())
        if not total:
            return None
        best = max(fitting, key=fitting.__getitem__)
        return best, fitting[best] / total
