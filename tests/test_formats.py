"""demo_app/formats.py: reading what is known to fit a pattern or an alphabet."""

import itertools
import re

import numpy as np
import ocr
import pytest
from decoding import probability
from formats import Format, FormatError
from images import open_image
from runs import ROOT

EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())


@pytest.fixture(scope="module")
def recognizer():
    return ocr.Recognizer()


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("[A-Z", "not a valid regular expression"),
        ("((a{99}){99}){99}", "may not contain"),
        (r"((a|\\){99}|\\){99}", "may not contain"),
        ("(a|b)+", "may not contain"),
        ("a{1000}", "may not contain"),
        ("(?R)", "may not contain"),
        ("a{e}", "may not contain"),
        ("a{1<=e<=3}", "may not contain"),
        ("a{12,345}", "may not contain"),
        (r"(.)\1", "may not contain"),
        ("a" * 201, "more than 200"),
    ],
)
def test_a_pattern_that_is_broken_or_dear_gets_a_sentence(pattern, words):
    with pytest.raises(FormatError, match=words) as caught:
        Format(pattern)
    assert str(caught.value).endswith(".")


def test_a_text_that_fits_is_read_as_before(recognizer):
    for path in EXAMPLES:
        plain = recognizer.read(path)
        form = Format("[a-z0-9]{5}", "".join(set(plain.text)))
        reading = recognizer.read(path, form)
        assert (reading.text, reading.sure) == (plain.text, plain.sure) and reading.confidence > 0.99


def test_the_best_text_that_fits_is_read(recognizer):
    path = EXAMPLES[0]
    first = path.stem[0]
    reading = recognizer.read(path, Format(f"[^{first}].{{4}}"))
    assert re.fullmatch(f"[^{first}].{{4}}", reading.text) and reading.text != path.stem
    assert 0 < reading.confidence <= 1 and len(reading.characters) == 5


def test_an_alphabet_gives_the_probability_among_its_texts():
    frames = np.random.default_rng(0).dirichlet(np.ones(4), (1, 3)).astype(np.float32)
    names = {1: "a", 2: "b", 3: "c"}
    kept, share = Format(alphabet="ac").keep(frames, names)
    texts = [ids for count in range(4) for ids in itertools.product((1, 3), repeat=count)]
    label_ids = np.array([[*ids, *[0] * (3 - len(ids))] for ids in texts])
    among, plain = probability(kept, label_ids), probability(frames, label_ids)
    assert among.sum() == pytest.approx(1) and plain.sum() == pytest.approx(float(share[0]))
    assert among * share == pytest.approx(plain)


def test_an_alphabet_keeps_other_characters_out(recognizer):
    path = EXAMPLES[0]
    plain = recognizer.read(path)
    same = recognizer.read(path, Format(alphabet="".join(set(path.stem))))
    assert (same.text, same.sure) == (path.stem, plain.sure) and same.confidence >= plain.confidence - 1e-6
    others = "".join(set(recognizer.about["alphabet"]) - {path.stem[0]})
    assert path.stem[0] not in recognizer.read(path, Format(alphabet=others)).text
    unknown = recognizer.read(path, Format(alphabet="Ω"))
    assert unknown.text == "" and not unknown.fits and not unknown.sure


@pytest.mark.parametrize("pattern", ["m{5}", "[2-8]{5}", r"\d{3}[a-z]{2}"])
def test_a_wrong_format_makes_nothing_sure(recognizer, pattern):
    images = [open_image(path) for path in EXAMPLES] + [np.full((50, 200, 1), 255, np.uint8)]
    for reading in recognizer.read_each(images, Format(pattern)):
        assert not reading.sure or reading.text in {path.stem for path in EXAMPLES}


def test_where_nothing_fits_the_reading_is_not_sure(recognizer):
    plain, reading = recognizer.read(EXAMPLES[0]), recognizer.read(EXAMPLES[0], Format("###"))
    assert plain.sure and reading.text == plain.text and not reading.sure
    assert plain.fits and not reading.fits


def test_a_format_helps_where_a_letter_is_damaged(recognizer):
    right = {"plain": 0, "form": 0}
    for path in EXAMPLES:
        image = open_image(path)
        kinds = "".join(r"\d" if character.isdigit() else "[a-z]" for character in path.stem)
        for character in recognizer.read(path).characters:
            stained = image.copy()
            middle = int(character.left + character.right) // 2
            stained[20:32, middle - 9 : middle + 9] = np.median(image)
            right["plain"] += recognizer.read(stained).text == path.stem
            right["form"] += recognizer.read(stained, Format(kinds)).text == path.stem
    assert right["form"] > 1.1 * right["plain"]


def test_a_pattern_that_takes_long_is_given_up(recognizer, monkeypatch):
    monkeypatch.setattr("formats.MAX_SECONDS", (0.1, 0))
    with pytest.raises(FormatError, match="too long"):
        recognizer.read(EXAMPLES[0], Format("[a-z0-9]{5}"))


def test_a_pattern_that_takes_long_for_some_images_leaves_the_others(recognizer, monkeypatch):
    hard, read = {EXAMPLES[1].stem}, Format.read

    def read_some(form, frames, names, to_text):
        found = read(form, frames, names, to_text)
        if found and to_text(found[0]) in hard:
            raise FormatError("The pattern takes too long.")
        return found

    monkeypatch.setattr(Format, "read", read_some)
    first, second, third = recognizer.read_each(EXAMPLES[:3], Format(".{5}"))
    assert [first.text, third.text] == [EXAMPLES[0].stem, EXAMPLES[2].stem] and "too long" in str(second)
    hard |= {path.stem for path in EXAMPLES}
    with pytest.raises(FormatError, match="too long for several"):
        list(recognizer.read_each(EXAMPLES, Format(".{5}")))


def test_a_pattern_may_be_used_with_a_large_alphabet():
    names = {number: chr(0x4E00 + number) for number in range(1, 3001)} | {
        number: f"{number}" for number in (7, 8)
    }
    frames = np.full((40, 3001), 1e-6, np.float32)
    frames[:, 0] = 0.5
    frames[[5, 20], [7, 8]] = 0.9
    found = Format(r"\d{2}").read(frames, names, lambda ids: "".join(names[number] for number in ids))
    assert found[0] == (7, 8)


def test_a_format_of_right_to_left_text_is_that_of_its_typing():
    # (frames, classes): the blank, then the first letter at the right and the second one at its left
    frames = np.array([[0.1, 0.2, 0.7], [0.9, 0.05, 0.05], [0.1, 0.5, 0.4]], np.float32)
    names = {1: "א", 2: "ב"}

    def to_text(ids):
        return "".join(names[number] for number in reversed(ids))

    assert Format("אב").read(frames, names, to_text) == ((2, 1), 1)
    assert Format("[ב]{2}").read(frames, names, to_text)[0] == (2, 2)
    assert Format("ג").read(frames, names, to_text) is None
