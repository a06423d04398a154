"""What is known of a text before it is read: a pattern, an alphabet."""

import functools
import time
import unicodedata
from collections.abc import Callable

import numpy as np
import regex
from decoding import BLANK, probability, search_beam

BEAM_WIDTH = 64  # as a format leaves out many texts
MAX_PATTERN = 200  # characters
MAX_SECONDS = 0.1, 1.0  # of the processor, for one look at a text and for all those at an image's
# Repetitions of groups, and large ones, can take any amount of memory; the rest is rare.
UNSAFE = regex.compile(r"(?<!\\)\)[*+{]|\{(?:\d*,?\d{3}|[^\d,])|\((?:\?(?!:)|\*)|\\[^dwsDWS\W]")
TOO_LONG = "The pattern takes too long. Use fewer repetitions."


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
        self.alphabet, self.is_open = alphabet, not (pattern or alphabet)
        if len(pattern) > MAX_PATTERN:
            raise FormatError(f"The pattern has more than {MAX_PATTERN} characters. Shorten it.")
        if found := UNSAFE.search(pattern):
            raise FormatError(
                f"The pattern may not hold {found[0]!r}. Repeat characters or classes, as in [A-Z]{{2}}\\d+."
            )
        try:
            self._compiled = regex.compile(pattern or ".*")
        except regex.error as error:
            raise FormatError(f"The pattern is no regular expression ({error}). Mend it.") from error

    def fits(self, text: str, partial: bool = False) -> bool:
        """Tell whether a text fits, or, if it is partial, whether it could with more characters behind it.

        Raises:
            FormatError: If that takes long.
        """
        try:
            return bool(self._compiled.fullmatch(text, partial=partial, timeout=MAX_SECONDS[0]))
        except TimeoutError as error:
            raise FormatError(TOO_LONG) from error

    def read(
        self, frames: np.ndarray, names: dict[int, str], to_text: Callable[[tuple[int, ...]], str]
    ) -> tuple[tuple[int, ...], float, float] | None:
        """Find the most probable label sequence that fits.

        Args:
            frames: float32 (frames, classes), softmax outputs of one image, class 0 the blank.
            names: The character of each class but the blank.
            to_text: Makes the text of a label sequence.

        Returns:
            The label sequence, its probability among all those found that fit, and that among all, 0 to 1;
            None if none fits.

        Raises:
            FormatError: If the pattern takes long.
        """
        allowed = [number for number, name in names.items() if not self.alphabet or name in self.alphabet]
        masked = np.zeros_like(frames)
        masked[:, [BLANK, *allowed]] = frames[:, [BLANK, *allowed]]
        # From right to left, the last characters are found first, of which a pattern tells nothing.
        runs_left = not {"R", "AL"}.isdisjoint(map(unicodedata.bidirectional, names.values()))

        end = time.thread_time() + MAX_SECONDS[1]

        @functools.cache
        def fits(ids: tuple[int, ...], partial: bool = False) -> bool:
            if time.thread_time() > end:
                raise FormatError(TOO_LONG)
            return (partial and runs_left) or self.fits(to_text(ids), partial)

        found = search_beam(masked, BEAM_WIDTH, lambda ids: fits(ids, partial=True))
        fitting = {ids: share for ids, share in found.items() if fits(ids)}
        total = sum(fitting.values())
        if not total:
            return None
        best = max(fitting, key=fitting.__getitem__)
        (plain,) = probability(frames[np.newaxis], np.array([best], np.int64).reshape(1, -1))
        return best, fitting[best] / total, float(plain)
