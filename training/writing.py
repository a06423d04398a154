"""What labels are made of: invisible and decomposed characters, look-alikes, joined letters."""

import unicodedata

import arabic_reshaper

JOINERS = "\u200c\u200d"
FILLERS = "\u034f\u115f\u1160\u2800\u3164"  # which are letters and signs by their category
# Latin letters and those of Cyrillic and Greek that look like them.
LOOK_ALIKES = (
    "AАΑ BВΒ CС EЕΕ HНΗ IІΙ JЈ KКΚ MМΜ NΝ OОΟ PРΡ SЅ TТΤ XХΧ YУΥ ZΖ aа cс eе iі jј oоο pр sѕ xх yу vν"
)
TO_LATIN = str.maketrans({other: group[0] for group in LOOK_ALIKES.split() for other in group[1:]})
SHAPER = arabic_reshaper.ArabicReshaper({"support_ligatures": False, "delete_harakat": False})


def clean(label: str, ignore_case: bool) -> tuple[str, str]:
    """Bring a label into Unicode's composed form (NFC), in one line with single spaces.

    Joiners (U+200C and U+200D) stay behind letters of the scripts that are written with them, from Arabic to
    Mongolian.

    Returns:
        The label; what was changed that nobody sees, "" where nothing was.
    """
    words = " ".join(label.split())
    seen = "".join(
        character
        for before, character in zip(" " + words, words, strict=False)
        if is_seen(character) or (character in JOINERS and "\u0600" <= before <= "\u18af")
    )
    seen = " ".join(seen.strip(JOINERS).split())
    text = unicodedata.normalize("NFC", seen)
    note = "an invisible character was left out" if seen != words else ""
    if not note and text != seen:
        note = "letters and their accents were joined"
    if ignore_case:
        text = unicodedata.normalize("NFC", text.lower().replace("i\u0307", "i"))  # of the Turkish capital İ
    return text, note


def is_seen(character: str) -> bool:
    """Tell whether a character leaves a mark or a space."""
    if unicodedata.category(character) == "Cf":
        return unicodedata.bidirectional(character) == "AN"  # signs around Arabic numbers
    is_selector = unicodedata.name(character, "").startswith("VARIATION SELECTOR")
    return not is_selector and character not in FILLERS and unicodedata.bidirectional(character) != "BN"


def find_look_alikes(characters: set[str]) -> dict[str, str]:
    """Find characters that look like another one of another script, or are another width of it.

    Returns:
        What each of them looks like, in words.
    """
    found = {}
    for group in LOOK_ALIKES.split():
        first, *others = [character for character in group if character in characters] or [""]
        for other in others:
            scripts = [unicodedata.name(character).split()[0].title() for character in (first, other)]
            found[other] = f"{other!r} ({scripts[1]}) looks like {first!r} ({scripts[0]})"
    for character in characters:
        if unicodedata.decomposition(character).startswith(("<wide>", "<narrow>")):
            plain = unicodedata.normalize("NFKC", character)
            found[character] = f"{character!r} is {plain!r} in another width"
    return found


def shape(text: str) -> str:
    """Give the letters of Arabic the forms that they have in words, one for each."""
    shaped = SHAPER.reshape(text)
    return shaped if len(shaped) == len(text) else text
