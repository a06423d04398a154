"""training/writing.py and the order of characters: what a label becomes, and how it is read back."""

import unicodedata

import pytest
from decoding import reorder, to_text
from hypothesis import given
from hypothesis import strategies as st

from training.data import encode, find_alphabet
from training.plots import from_left
from training.writing import clean, find_look_alikes, shape


@pytest.mark.parametrize(
    ("label", "cleaned"),
    [
        ("a\u200bb", "ab"),
        ("\ufeffab\u00ad", "ab"),
        ("a\u200db", "ab"),
        ("ế\u200da", "ếa"),
        ("شم\u200c", "شم"),
        ("a\ufe0fb\x08\u3164", "ab"),
        ("شم\u200cب", "شم\u200cب"),
        ("क्\u200dष", "क्\u200dष"),
        ("\u200fאב", "אב"),
        ("\u0600١٢", "\u0600١٢"),
        ("e\u0301", "é"),
        ("  a \u200b\u00a0 b ", "a b"),
    ],
)
def test_what_nobody_sees_is_left_out(label, cleaned):
    text, note = clean(label, ignore_case=False)
    assert text == cleaned
    assert bool(note) == (" ".join(label.split()) != cleaned)


def test_a_turkish_capital_leaves_no_loose_dot():
    assert clean("İSTANBUL", ignore_case=True)[0] == "istanbul"
    assert clean("É", ignore_case=True)[0] == "é"


def test_look_alikes_of_two_scripts_and_widths_are_named():
    assert set(find_look_alikes(set("AАBｂbΟo"))) == {"А", "ｂ"}
    assert find_look_alikes(set("ЕКМABC")) == {}


def test_letters_of_arabic_are_joined_one_by_one():
    assert shape("سلام") == "\ufeb3\ufee0\ufe8e\ufee1" and shape("abc 12") == "abc 12"


def test_joiners_are_learnt_and_read():
    label, note = clean("می\u200cخواهم 12", ignore_case=False)
    assert not note and reorder(reorder(label)) == label and "\u200c" in reorder(label)
    assert recode(label) == label


def recode(label):
    char_to_num = {character: number for number, character in enumerate(find_alphabet([label]), start=1)}
    ids = encode([label], char_to_num, len(label))[0]
    return to_text(ids, {number: character for character, number in char_to_num.items()})


def test_brackets_are_learnt_as_they_are_seen():
    assert recode("א)") == "א)" and recode("1) שלום") == "1) שלום"
    assert find_alphabet(["א)"]) == ["(", ")", "א"] and find_alphabet(["a)"]) == [")", "a"]


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("שלום", "םולש"),
        ("אב 123 גד", "דג 123 בא"),
        ("abc אבגד", "דגבא abc"),
        ("(אב)", "(בא)"),
        ("٣٤ب", "ب٣٤"),
        ("abc.", "abc."),
        ("", ""),
    ],
)
def test_lines_are_turned_into_the_order_in_which_they_are_seen(typed, seen):
    assert reorder(typed) == seen and reorder(seen) == typed


@given(st.text("אבגדהוזחטיכל0123456789 .,", min_size=1, max_size=12) | st.text("ابتثجحخ٠١٢٣٤٥ ", max_size=12))
def test_turning_a_line_twice_gives_it_back(text):
    text = " ".join(unicodedata.normalize("NFC", text).split())
    assert reorder(reorder(text)) == text


def test_titles_keep_the_order_of_their_parts():
    assert from_left("אב read גד (2%)") == "\u200eאב read גד\u200e (2%)"
    assert from_left("ab read cd (2%)") == "ab read cd (2%)"
