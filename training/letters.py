"""Draws the data set from which the start learns letters: `python -m training.letters FOLDER COUNT`.

Fonts and words come from the npm packages that `training/start/package.json` names. The texts are codes,
numbers and words in Latin, Greek and Cyrillic letters; a tenth of the images has the default data set's look.
"""

import argparse
import csv
import functools
import itertools
import shutil
import string
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from training import plots
from training.looks import Face, drawable, font_for, render_varied
from training.synthetic import ALPHABET, render
from training.writing import TO_LATIN

SHARD = 1000  # images in a folder
ASPECT = 4.1  # of the widest image, width by height
MOST = 14  # characters
PACKAGES = Path(__file__).parent / "start" / "node_modules"
PAGE = Path(__file__).parent.parent / "docs" / "images" / "letters.png"  # shows some of the images
LANGUAGES = ("de", "fr", "es", "it", "pt", "nl", "pl", "cs", "sv", "tr", "ro", "hu", "el", "ru", "uk")
SIGNS = "£€$§°«»“”‘’–—…·•¿¡©®×½ªº№"
ACCENTED = "àáâãäåāăąæçćčďđðèéêëēęěğìíîïīįıķĺľłñńňņòóôõöøőœŕřśşšșßťţțþùúûüūůűųýÿźżžſ"
LATIN = ACCENTED + "".join(letter.upper() for letter in ACCENTED if letter not in "ßıſ")
GREEK = "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΓΔΘΛΞΠΣΦΨΩ"
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюяёіїєґБГДЁЖЗИЙЛПУФЦЧШЩЪЫЬЭЮЯЄЇҐ"
# A: a capital, a: a small letter, 9: a digit
NUMBERS = """\
AAA9999|AAA-9999|AA 999 AA|AAA9A99|AA-99-AA|9AAA999|AA99 AAA|A-AA 999|9999 AAA|\
99.99|9.99|$9.99|€ 99,99|99,9%|RM99.90|999.99|9,999.00|-9.99|£99|+99|9:99|\
99/99/9999|99-99-99|9999-99-99|99.99.9999|99:99|99:99:99|#9999|No. 999|(99)|99kg|\
999-9999|+99 999 999|(999) 999|9999 9999|A99-999|AAA/99/999|99x99|*999*|99 @ 9.99|\
99999|999999|9999999|99999999|9999.9|00999|000999.9|9-999-9|A9A 9A9|aaa@aaa.aaa"""
TEMPLATES = NUMBERS.split("|")


@functools.cache
def read_words(language: str) -> list[str]:
    """Read the words of a dictionary of Hunspell's, without their affixes."""
    lines = (PACKAGES / f"dictionary-{language}" / "index.dic").read_text("utf-8").splitlines()[1:]
    words = {line.split("/")[0].split("\t")[0].strip() for line in lines}
    return sorted(word for word in words if 2 <= len(word) <= MOST)


@functools.cache
def find_faces() -> tuple[list[Face], list[Face]]:
    """Find the regular and bold faces of the packages; those of seven segments, which have digits only."""
    faces = []
    for folder in sorted((PACKAGES / "@fontsource").iterdir()):
        for weight in ("400", "700", "900", "300"):
            files = [
                folder / "files" / f"{folder.name}-{subset}-{weight}-normal.woff"
                for subset in ("latin", "latin-ext", "greek", "cyrillic", "cyrillic-ext")
            ]
            face = tuple(str(path) for path in files if path.exists())
            if face and files[0].exists() and drawable(face).issuperset(string.ascii_letters + string.digits):
                faces.append(face)
    segments = [(str(path),) for path in sorted((PACKAGES / "dseg" / "fonts").glob("DSEG7*/*.woff"))]
    return faces, segments


@functools.cache
def has_small_letters(face: Face) -> bool:
    """Tell whether small letters of a face differ from its capitals by more than their size."""

    def draw(letter: str) -> np.ndarray:
        mask = font_for(letter, face, 32).getmask(letter)
        glyph = Image.frombytes("L", mask.size, bytes(mask))
        return np.asarray(glyph.resize((16, 16)), np.float32).ravel()

    alike = [np.corrcoef(draw(letter), draw(letter.upper()))[0, 1] for letter in "abdegqrh"]
    return float(np.median(alike)) < 0.75


def pick(letters: str, rng: np.random.Generator, count: int) -> str:
    """Pick letters at random."""
    return "".join(letters[number] for number in rng.integers(len(letters), size=count))


def compose(rng: np.random.Generator) -> str:
    """Compose a text: a word, a code, a number, or anything."""
    count = min(1 + int(rng.gamma(3, 1.9)), MOST)
    kind = rng.random()
    if kind < 0.45:
        languages = ("en",) * 12 + LANGUAGES
        words = read_words(languages[rng.integers(len(languages))])
        text = words[rng.integers(len(words))]
        if rng.random() < 0.3:
            text += rng.choice([" ", " ", " ", "-", ". ", ", ", ": ", "'"]) + words[rng.integers(len(words))]
        text = (text, text.upper(), text.capitalize())[rng.choice(3, p=(0.4, 0.35, 0.25))]
        if rng.random() < 0.15:
            text = str(
                rng.choice(["{}.", "{},", "{}:", "({})", '"{}"', "{}!", "{}?", "{};", "{}*", "[{}]"])
            ).format(text)
        if len(text) > MOST:  # any part of a line
            start = int(rng.integers(len(text) - MOST + 1))
            text = text[start : start + MOST]
    elif kind < 0.75:
        alphabets = (
            string.ascii_uppercase + string.digits,
            string.ascii_uppercase + string.digits,
            string.ascii_lowercase + string.digits,
            string.ascii_letters + string.digits,
            string.digits,
            string.ascii_uppercase,
            string.ascii_lowercase,
        )
        text = pick(alphabets[rng.integers(len(alphabets))], rng, count)
    elif kind < 0.88:
        template = TEMPLATES[rng.integers(len(TEMPLATES))]
        kinds = {"A": string.ascii_uppercase, "a": string.ascii_lowercase, "9": string.digits}
        text = "".join(pick(kinds[sign], rng, 1) if sign in kinds else sign for sign in template)
    else:  # the rare ones, too
        script = (
            string.ascii_letters + string.punctuation + SIGNS,
            string.digits + string.punctuation * 2,
            string.ascii_lowercase + LATIN * 2,
            LATIN,
            GREEK,
            CYRILLIC,
        )[rng.integers(6)]
        text = pick(script + " ", rng, count)
    return " ".join(text.split())


CHARACTERS = frozenset(
    string.printable.strip() + " " + SIGNS + LATIN + GREEK.translate(TO_LATIN) + CYRILLIC.translate(TO_LATIN)
)


def draw_one(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Draw an image, uint8 (height, width), and its label."""
    height = int(np.clip(rng.normal(38, 13), 14, 64))
    kind = rng.random()
    if kind < 0.1:
        text = pick(
            ALPHABET if rng.random() < 0.5 else string.ascii_letters + string.digits, rng, rng.integers(3, 8)
        )
        wide = min(rng.uniform(0.5, 0.9) * (len(text) + 1), ASPECT) if rng.random() < 0.3 else 4
        return render(text, rng, round(height * wide), height), text
    faces, segments = find_faces()
    if kind < 0.13:
        text, chosen = (
            pick(string.digits * 2 + "-", rng, rng.integers(1, 9)),
            [segments[rng.integers(len(segments))]],
        )
    else:
        chosen = []
        while not chosen:
            text = compose(rng)
            if not text or not CHARACTERS.issuperset(text.translate(TO_LATIN)):
                continue
            some = [faces[number] for number in rng.integers(len(faces), size=40)]
            chosen = [face for face in some if drawable(face).issuperset(text)][:3]
            if any(letter.islower() for letter in text):
                chosen = [face for face in chosen if has_small_letters(face)]
    return render_varied(text, rng, height, None, 1, chosen, ASPECT).squeeze(), text.translate(TO_LATIN)


def name_shard(number: int) -> str:
    """Name the folder of a shard; two of them are splits."""
    return {0: "validation", 1: "test"}.get(number, f"{number:04}")


def draw_shard(number: int, folder: Path) -> None:
    """Draw the images of a shard into a folder of its own, which gets its name when it is whole."""
    whole, unfinished = folder / name_shard(number), folder / f"unfinished_{number:04}"
    if whole.exists():
        return
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    rng = np.random.default_rng(number)
    with (unfinished / ".labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        for image in range(SHARD):
            pixels, text = draw_one(rng)
            Image.fromarray(pixels).save(unfinished / f"{image:03}.png", compress_level=1)
            rows.writerow([f"{whole.name}/{image:03}.png", text])
    unfinished.rename(whole)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.letters", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="gets the images and labels.csv")
    parser.add_argument("count", type=int, help=f"of images, a multiple of {SHARD:,}")
    options = parser.parse_args()
    if not PACKAGES.exists():
        sys.exit("The fonts and words are missing. `make start` installs them with npm.")
    options.folder.mkdir(parents=True, exist_ok=True)
    shards = range(options.count // SHARD)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        work = pool.map(draw_shard, shards, itertools.repeat(options.folder))
        list(tqdm(work, "Drawing images, by the thousand", len(shards)))
    samples = [draw_one(np.random.default_rng(seed)) for seed in range(48)]
    plots.show(plots.draw_images(*zip(*samples, strict=True), columns=6), PAGE)
    lists = [(options.folder / name_shard(number) / ".labels.csv").read_text("utf-8") for number in shards]
    (options.folder / "labels.csv").write_text("filename,label\n" + "".join(lists), "utf-8", newline="\n")


if __name__ == "__main__":
    main()
