"""Labelling with the page's help, with the true labels as the person: keystrokes, labels, seconds.

`python benchmarks/labelling.py` drives the page's own logic, without a browser, on each set five times: in
the order in which it asks, and in a random one. A training runs at each number of `TRAIN_AT`. It takes many
hours, and writes `labelling.json` and `docs/images/labelling.png` after each set. It keeps what an earlier
run of the same code has written, and goes on after it.
"""

import hashlib
import itertools
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import matplotlib.pyplot as plt
import numpy as np
from drawn_sets import draw_missing
from labels import SETS
from rapidfuzz.distance import Levenshtein
from runs import DATASET, ROOT, WORK, free_port, run_folder, running, write, written

from label_app.app import START, work_of
from label_app.labelling import Labelling
from training.fetching import fetch
from training.labels import PATTERN, find_labels
from training.writing import clean

LEFT_OUT = (
    "the same, words never seen",
    "drawn words in Hebrew",
)  # a set that is here already, and a third drawn one
SEEDS = (1, 2, 3, 4, 5)
ORDERS = ("least sure", "random")
TRAIN_AT = (60, 80, 110, 150, 300, 700)  # labels
ENOUGH = 0.99  # of all labels
SELECT_ALL = 0.3  # confidence below which the page selects the whole guess
MANY, ANSWERS = 100_000, 500


def unlabel(name: str, seed: int, folder: Path) -> dict[str, str]:
    """Copy a set's images, each once, under names that say nothing; return the labels by these names."""
    source, _ = fetch(SETS[name][0].get("DATASET", DATASET), WORK / "data", 0)
    truth, seen = {}, set()
    for path, label, _ in find_labels(source, SETS[name][0].get("LABEL_PATTERN", PATTERN), None).rows:
        content = path.read_bytes()
        if label and (digest := hashlib.sha256(content).digest()) not in seen:
            seen.add(digest)
            stem = hashlib.sha256(f"{seed} {path.name}".encode()).hexdigest()[:16]
            truth[f"_{stem}{path.suffix}"] = clean(label, False)[0]
            (folder / f"_{stem}{path.suffix}").write_bytes(content)
    return truth


def count_keys(item: dict[str, Any], label: str) -> int:
    """Count the keys to turn what the field holds into a label, and to accept it.

    The page selects the whole of an improbable guess, else its first marked character.
    """
    guess, all_selected = item["guess"], item["confidence"] < SELECT_ALL
    edits = [(edit.tag, edit.src_pos) for edit in Levenshtein.editops(guess, label)]
    marks = [] if all_selected else [mark["at"] for mark in item["marks"] if mark["at"] >= 0]
    caret = min(marks, default=len(guess))
    # Places of the caret, and the keys to get there, which end the selection: Home, End, an arrow.
    starts = [(0, 1), (len(guess), 1)]
    if not all_selected:
        starts += [(caret, 1), (caret + 1, 1)] if marks else [(caret, 0)]
    keys = [len(label) + (not all_selected)]  # Ctrl+A, and all of it anew
    if marks and (over := next((edit for edit in edits if edit[0] != "insert" and edit[1] == caret), None)):
        others = [edit for edit in edits if edit != over]
        keys += _press(others, [(caret + 1, 1), (0, 2), (len(guess), 2)])
    return 1 + min(keys + _press(edits, starts)) if edits else 1


def _press(edits: list[tuple[str, int]], starts: list[tuple[int, int]]) -> list[int]:
    """Count the keys of edits, in both directions, from each start: a place of the caret, the keys so far."""
    counts = []
    groups = [(tag, place, len(list(same))) for (tag, place), same in itertools.groupby(edits)]
    for is_back, (at, keys) in itertools.product((False, True), starts):
        for tag, place, count in groups[::-1] if is_back else groups:
            ends = (place,) if tag == "insert" else (place, place + 1)  # Delete, Backspace
            keys += min(abs(at - end) for end in ends) + (2 if tag == "replace" else count)
            at = place + {"replace": 1, "delete": not is_back, "insert": count * is_back}[tag]
        counts.append(keys)
    return counts


def wait(session: Labelling, is_over: Any) -> None:  # noqa: ANN401, a function
    """Wait for the threads of a session."""
    while not is_over():
        if not session.thread.is_alive():
            raise RuntimeError("The thread that reads has ended.")
        time.sleep(0.01)


def is_read(session: Labelling) -> bool:
    """Tell whether all images have been read by the model of now, or are gone."""
    return not session.is_training and not session._unread()


def next_item(session: Labelling, order: str) -> dict[str, Any]:
    """Ask for the next image, with its guess; in random order, the next one of the order of chance."""
    item = session.upcoming("label")[0]
    if order == "random" and not item["is_sample"]:
        item = session._describe(int((session.state["source"] == 0).argmax()))
    wait(session, lambda: session.guesses[session.numbers[item["name"]]])
    return session._describe(session.numbers[item["name"]])


def simulate(name: str, seed: int, order: str) -> dict[str, Any]:
    """Label a set until `ENOUGH` of all labels, typed and guessed, are right, or all are typed.

    Returns:
        The curve: labels, corrections and keystrokes so far, and the share of all labels that are right
        then; the seconds of each training, from the button to new guesses.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "images")
        folder.mkdir()
        truth = unlabel(name, seed, folder)
        lines = [["LINES", str(SETS[name][0].get("LINES", 1))]]
        session = Labelling(folder, START, Path(place, "work"), lines)
        labels = corrected = keys = 0
        curve, trainings = [], {}
        wait(session, lambda: is_read(session))
        while True:
            said = [session._label(n) or session._text(n) for n in range(len(session.names))]
            right = np.mean([text == truth[image] for text, image in zip(said, session.names, strict=True)])
            curve.append((labels, corrected, keys, float(right)))
            if right >= ENOUGH or labels == len(truth):
                break
            item = next_item(session, order)
            labels, corrected = labels + 1, corrected + (item["guess"] != truth[item["name"]])
            keys += count_keys(item, truth[item["name"]])
            session.answer(item["name"], truth[item["name"]], item["guess"])
            if labels in TRAIN_AT:
                start = time.perf_counter()
                session.train()
                before = session.round
                wait(session, lambda before=before: session.round > before or not session.training)
                if session.round == before:
                    raise RuntimeError(session.message)
                trainings[labels] = time.perf_counter() - start
                wait(session, lambda: is_read(session))
        session.close()
    typing = sum(len(label) + 1 for label in truth.values())
    return {"images": len(truth), "typing": typing, "curve": curve, "trainings": trainings}


def measure_latency() -> dict[str, float]:
    """Answer five times a second in a folder of many images: milliseconds until the next is known."""
    with tempfile.TemporaryDirectory(dir=WORK) as place:
        source, folder = Path(place, "source"), Path(place, "images")
        source.mkdir()
        folder.mkdir()
        paths = [source / name for name in unlabel(next(iter(SETS)), 0, source)]
        for number in range(MANY):
            os.link(paths[number % len(paths)], folder / f"{number} é.png")
        port, times, own = free_port(), [], work_of(folder.resolve()).name[-8:]
        command = [sys.executable, "-m", "label_app.app", str(folder)]
        environment = os.environ | {"GRADIO_SERVER_PORT": str(port)}
        with (
            running(command, port, Path(place, "log"), cwd=ROOT, env=environment),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
        ):
            answer = None
            for _ in range(ANSWERS + 1):
                start = time.perf_counter()
                turn = client.post(
                    "/label/next", json={"folder": own, "mode": "label", "answer": answer}
                ).json()
                times.append(1000 * (time.perf_counter() - start))
                item = turn["items"][0]
                client.get("/label/image", params={"folder": own, "name": turn["items"][-1]["name"]})  # ahead
                answer = {"name": item["name"], "text": item["guess"] or "x", "guess": item["guess"]}
                time.sleep(0.2)
        shutil.rmtree(work_of(folder.resolve()), ignore_errors=True)
    return {
        "images": MANY,
        "median_ms": float(np.median(times[1:])),
        "p99_ms": float(np.quantile(times[1:], 0.99)),
    }


def thin(curve: list[list[float]]) -> list[list[float]]:
    """Keep about 50 points of a curve, and its last: keystrokes, and the share of labels that are right."""
    return [[keys, right] for *_, keys, right in (*curve[: -1 : 1 + len(curve) // 50], curve[-1])]


def add(row: dict[str, Any], order: str, session: dict[str, Any]) -> None:
    """Add a session to what a set's row has of an order."""
    row |= {"images": session["images"], "typing": session["typing"]}
    last = dict(zip(("labels", "corrected", "keys", "right"), session["curve"][-1], strict=True))
    last |= {"seconds": [*session["trainings"].values()], "curves": thin(session["curve"])}
    for key, value in last.items():
        row[order].setdefault(key, []).append(value)


def draw_curves(rows: list[dict[str, Any]]) -> None:
    """Draw how the labels of each set become right, over keystrokes."""
    height = -(-len(rows) // 3)
    size = (11, 0.5 + 2.5 * height)
    figure, axes = plt.subplots(height, 3, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, row in zip(axes.flat, rows, strict=False):
        for order, label in zip(ORDERS, ("least sure first", "random order"), strict=True):
            for curve in row[order]["curves"]:
                keys, right = 100 * np.transpose(curve)
                axis.plot(keys / row["typing"], right, f"C{ORDERS.index(order)}", alpha=0.7, label=label)
        axis.plot([0, 100], [0, 100], "k--", label="typing all labels")
        axis.set(title=row["set"], xlim=(-3, 103), ylim=(-3, 103))
    lines = {line.get_label(): line for line in axes.flat[0].lines}
    figure.legend(lines.values(), lines, loc="outside upper center", ncols=len(lines))
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    figure.supxlabel("keystrokes, % of those for typing all labels")
    figure.supylabel("labels that are right, typed or guessed, %")
    figure.savefig(ROOT / "docs" / "images" / "labelling.png", dpi=100)
    plt.close(figure)


def main() -> None:
    """Run all sessions that `labelling.json` lacks, and draw the curves."""
    draw_missing(WORK)
    page = b"".join(path.read_bytes() for path in sorted((ROOT / "label_app").glob("*.py")))
    code = f"{run_folder('').name} {hashlib.sha256(page).hexdigest()[:12]}"
    earlier = written("labelling")
    names = [name for name in SETS if name not in LEFT_OUT]
    rows = {name: {"set": name} | {order: {} for order in ORDERS} for name in names}
    if earlier.get("code") == code:
        latency = earlier["latency"]
        rows |= {row["set"]: row for row in earlier["sets"]}
    else:
        latency = measure_latency()
    for draw, seed in enumerate(SEEDS):
        for name, row in rows.items():
            if len(row[ORDERS[0]].get("labels", [])) > draw:
                continue
            for order in ORDERS:
                session = simulate(name, seed, order)
                add(row, order, session)
                labels, corrected, keys, right = session["curve"][-1]
                print(
                    f"draw {seed}, {name}, {order}: {right:.1%} of {row['images']:,} labels right after "
                    f"{labels} labels, {corrected} of them typed or corrected, with "
                    f"{keys / row['typing']:.1%} of the keys",
                    flush=True,
                )
            some = [row for row in rows.values() if "images" in row]
            write("labelling", {"code": code, "sets": some, "latency": latency})
            draw_curves(some)


if __name__ == "__main__":
    main()
