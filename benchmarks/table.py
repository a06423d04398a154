"""Write the tables of benchmarks into their pages from JSON files: `python benchmarks/table.py`."""

import json
import re
import statistics
from collections.abc import Callable
from typing import Any

from runs import ROOT, load


def grid(rows: list[tuple[str, ...]]) -> str:
    """Make a table of rows of cells, the first its head."""
    rows = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def markdown(rows: list[tuple[str, ...]], machine: dict[str, Any]) -> str:
    """Make a table as `grid` does, and name the machine below."""
    note = f"{machine['cores']} cores of an {machine['processor']}, TensorFlow {machine['tensorflow']}."
    return f"{grid(rows)}\n\n{note}"


def benchmarks() -> str:
    """Make the table of the default data set."""
    folds, race, speed, serving = map(load, ("folds", "race", "speed", "serving"))
    low, high = folds["interval"]
    rows = [
        ("measured", "CustomOCR", "tutorial recipe"),
        (
            "pooled 10-fold exact match",
            f"{folds['exact_match']:.2%}: {folds['wrong']} of {folds['images']} wrong, of which "
            f"{folds['wrong_and_doubtful']} have a doubtful label, "
            f"95% interval {low:.2%} to {high:.2%}",
            "",
        ),
    ]
    one, many = speed["one_image_ms"], speed["thousand_images_per_second"]
    rows += [
        (
            f"seconds of training from random weights to {race['goal']:.0%} on validation, by seed",
            *(
                ", ".join(f"{seconds:.0f}" if seconds else "never" for seconds in race["seconds"][name])
                for name in ("CustomOCR", "tutorial recipe")
            ),
        ),
        ("one image, bytes to text, ms", f"{one['ours']:.1f}", f"{one['tutorial']:.1f}"),
        ("images a second, 1,000 in memory", f"{many['ours']:.0f}", f"{many['tutorial']:.0f}"),
        (
            "the app over HTTP, image in, JSON out: one client, ms",
            f"{serving['one_client_median_ms']:.0f}",
            "",
        ),
        (
            f"the same, {serving['clients']} clients, images a second",
            f"{serving['clients_images_per_second']:.0f}",
            "",
        ),
        ("a zip of 1,000 images over HTTP, s", f"{serving['thousand_images_seconds']:.1f}", ""),
        ("parameters", *(f"{speed['parameters'][name]:,}" for name in ("ours", "tutorial"))),
    ]
    return markdown(rows, speed["machine"])


def percent(values: list[float]) -> str:
    """Give the median of draws with the least and the most."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.1%}" + (f" ({low:.1%} to {high:.1%})" if len(values) > 1 else "")


def labels() -> str:
    """Make the table of all data sets by the number of labels."""
    content = load("labels")
    head = ("images", "labels", "test", "draws", "exact match", "CER")
    rows = [(*head, "sure", "right if sure", "before training", "time")]
    for row in content["rows"]:
        sure, test = sum(row["sure"]), sum(row["test"])
        rows.append(
            (
                row["set"],
                f"{row['labels']:,}",
                f"{test / len(row['test']):,.0f}",
                str(len(row["test"])),
                percent(row["exact_match"]),
                f"{statistics.median(row['cer']):.2%}",
                f"{sure / test:.0%}",
                f"{sum(row['sure_and_right']) / sure:.2%}" if sure else "",
                f"{statistics.median(row['before']):.0%}",
                f"{statistics.median(row['seconds']):.0f} s" if row["seconds"] else "",
            )
        )
    return markdown(rows, content["machine"])


def labelling() -> str:
    """Make the table of labelling with the model's help."""
    content = load("labelling")
    head = ("set", "images", "draws", "answers", "answers, random order")
    rows = [(*head, "keystrokes", "keystrokes, random order", "training")]
    for row in content["sets"]:
        first, other = row["least sure"], row["random"]
        needed = (f"{statistics.median(order['labels']):.0f}" for order in (first, other))
        seconds = first["seconds"][0]
        rows.append(
            (
                row["set"],
                f"{row['images']:,}",
                str(len(first["labels"])),
                *needed,
                *(f"{statistics.median(order['keys']) / row['typing']:.1%}" for order in (first, other)),
                f"{statistics.median(seconds):.0f} s" if seconds else "none",
            )
        )
    latency = content["latency"]
    note = (
        f"In a folder of {latency['images']:,} images, the next one shows {latency['median_ms']:.0f} ms "
        f"after an answer, and in 99% of cases within {latency['p99_ms']:.0f} ms."
    )
    return f"{markdown(rows, content['machine'])}\n\n{note}"


READERS = {
    "custom_ocr": "CustomOCR",
    "rapidocr": "PP-OCR",
    "ddddocr": "ddddocr",
    "tesseract": "Tesseract",
    "fast_plate_ocr": "fast-plate-ocr",
    "tutorial": "tutorial recipe",
}


def by_set(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Give, for each set of images, the rows by their readers."""
    sets = {}
    for row in rows:
        sets.setdefault(row["set"], {})[row["reader"]] = row
    return sets


def peers() -> str:
    """Make the table of exact matches of all readers."""
    content = load("peers")
    rows = [("images", "labels", "test", *READERS.values())]
    for name, some in by_set(content["rows"]).items():
        first = some["custom_ocr"]
        cells = (f"{some[reader]['exact_match']:.1%}" if reader in some else "" for reader in READERS)
        rows.append((name, f"{first['labels']:,}", f"{first['test']:,}", *cells))
    return markdown(rows, content["machine"])


def kinds() -> str:
    """Make the readme's table of real images."""
    sets = by_set(load("peers")["rows"])
    real = ("photographed number plates", "words and lines of receipts", "lines of books, 1476 to 1509")
    rows = [("images", "labels", "test", "CustomOCR", "PP-OCR")]
    for name in (*real, "four digits"):
        ours, theirs = (sets[name][reader] for reader in ("custom_ocr", "rapidocr"))
        shares = (f"{reader['exact_match']:.0%}" for reader in (ours, theirs))
        rows.append((name, f"{ours['labels']:,}", f"{ours['test']:,}", *shares))
    return grid(rows)


def peers_cost() -> str:
    """Make the table of what the readers take."""
    content = load("peers")
    rows = [("engine", "ms an image", "memory", "parameters", "seconds to train", "lines of code")]
    plates = {row["reader"]: row for row in content["rows"] if row["set"] == "photographed number plates"}
    for reader, name in READERS.items():
        own = plates[reader]
        parameters = own.get("parameters") or content["parameters"].get(reader)
        rows.append(
            (
                name,
                f"{own['ms']:.1f}" if "ms" in own else "",
                f"{own['megabytes']:.0f} MB" if own.get("megabytes") else "",
                f"{parameters:,}" if parameters else "",
                f"{own['seconds']:.0f}" if "seconds" in own else "none",
                str(content["lines"].get(reader, "")),
            )
        )
    return markdown(rows, content["machine"])


def describe_network(row: dict[str, Any]) -> tuple[str, ...]:
    """Make the first cells of a row about a network: its architecture and settings."""
    rate = f"{row['learning_rate']:g}"
    return (row["architecture"], str(row["size"]), rate, str(row["augmentation"]), f"{row['parameters']:,}")


def describe_validation(row: dict[str, Any]) -> tuple[str, ...]:
    """Make the cells of a row about the validation split."""
    interval = f"{row['low']:.1%} to {row['high']:.1%}"
    seconds = f"{row['seconds']:.0f}" if row["seconds"] else "never"
    return (f"{row['val_loss']:.5f}", f"{row['exact_match']:.1%} ({interval})", f"{row['cer']:.2%}", seconds)


NETWORK = ("architecture", "size", "peak learning rate", "augmentation", "parameters")
VALIDATION = ("loss", "exact match", "CER", "seconds")


def screening() -> str:
    """Make the table of the networks that were trained briefly."""
    content = load("model_selection")
    rows = [(*describe_network(row), *describe_validation(row)) for row in content["screening"]]
    missing = (f"\n\n`{name}` has no row: {reason}." for name, reason in content["missing"].items())
    return markdown([(*NETWORK, *VALIDATION), *rows], content["machine"]) + "".join(missing)


def finalists() -> str:
    """Make the table of the networks that had the whole recipe."""
    content = load("model_selection")
    rows = [("labels", *NETWORK, *VALIDATION, "test splits", "ms per image")]
    for row in content["finalists"]:
        reading = (f"{row['test_exact_match']:.2%}", f"{row['milliseconds']:.1f}")
        rows.append((row["labels"], *describe_network(row), *describe_validation(row), *reading))
    return markdown(rows, content["machine"])


def scale() -> str:
    """Make the table of what reading takes."""
    content, speed, serving = map(load, ("scale", "speed", "serving"))
    rates = content["images_per_second_of_workers"]
    rows = [
        ("", "cores", "images a second", "core-hours for a hundred million", "cores for a thousand a second"),
        *(
            (
                name,
                str(cores),
                f"{rate:,.0f}",
                f"{1e8 / rate * cores / 3600:,.0f}",
                f"{1000 / rate * cores:,.1f}",
            )
            for name, cores, rate in (
                ("`read_many.py`, one worker", 1, max(rates["1"])),
                ("`read_many.py`, two workers", 2, max(rates["2"])),
                ("one process, images in memory", 2, speed["thousand_images_per_second"]["ours"]),
                (
                    f"the app over HTTP, {serving['clients']} clients, an image a call",
                    2,
                    serving["clients_images_per_second"],
                ),
                ("the app, a zip of 1,000 a call", 2, 1000 / serving["thousand_images_seconds"]),
            )
        ),
        ("one GPU", "", "not measured", "", ""),
    ]
    return markdown(rows, content["machine"])


def scale_checks() -> str:
    """Say what was shown of reading with Ray."""
    content = load("scale")
    node, command = content["node_killed"], content["command_killed"]
    return "\n".join(
        [
            f"- {content['images']:,} synthetic images: `read_many.py` gave the same texts as "
            f"`ocr.py --csv`, {content['right']:,} of them right. "
            f"A reading takes {content['bytes_per_reading']:.0f} bytes of Parquet.",
            f"- {content['images_of_the_rest']:,} of them on two Ray nodes on one machine. One node was "
            f"killed half-way, after {node['its_processor_seconds']:.0f} s of processor time. "
            "Each reading was written once.",
            f"- {content['images_of_the_rest']:,} on one machine. The command was killed half-way: "
            f"{command['kept']:,} readings were kept, and the second start read the rest. "
            "Each reading was written once.",
        ]
    )


def machines() -> str:
    """Say what was shown of training on two machines."""
    content = load("machines")
    return (
        "- Two workers, simulated by two processes on one machine: one was killed after "
        f"{content['epochs_before']} of {content['epochs']} epochs; the other stopped "
        f"{content['seconds_until_noticed']:.0f} s later with a message. Started again, they finished, "
        f"with an exact match of {content['exact_match']:.2%} on the test split."
    )


def many_images() -> str:
    """Say what was shown of images that outgrow memory."""
    content, scale = load("many_images"), load("scale")
    memory = content["bytes_by_epochs_done"]
    second = {name: value / 1e9 for name, value in memory["1"].items()}
    return (
        f"- {content['images']:,} images (2,000 drawn ones, repeated with different noise) and a quarter of "
        "the channels (`SIZE` 0.25), two epochs with a "
        f"cache on disk: {second['first']:.1f} GB of "
        f"memory when the second epoch began, {second['last']:.1f} GB when it ended, and at most "
        f"{max(row['max'] for row in memory.values()) / 1e9:.1f} GB in the whole run.\n"
        f"- The initial scan of {scale['images']:,} images took {scale['scan_seconds']:.0f} s."
    )


def fuzz() -> str:
    """Make the table of bad input."""
    content = load("fuzz")
    rows = [
        (
            "input type",
            "inputs",
            "read",
            "refused with a message",
            "outside the limits",
            "most time",
            "most memory",
        )
    ]
    counts = ("inputs", "read", "refused", "outside")
    kinds = content["kinds"]
    every = {name: sum(kind[name] for kind in kinds.values()) for name in counts}
    every |= {name: max(kind[name] for kind in kinds.values()) for name in ("seconds", "megabytes")}
    for kind, row in (kinds | {"all": every}).items():
        figures = [f"{row[name]:,}" for name in counts]
        rows.append((kind, *figures, f"{row['seconds']:.1f} s", f"{row['megabytes']:.0f} MB"))
    return markdown(rows, content["machine"])


def of_runtimes() -> str:
    """Make the table of what runs the network."""
    content = load("runtimes")
    names = {
        "tensorflow": "SavedModel, TensorFlow",
        "onnx": "ONNX, onnxruntime",
        "openvino": "ONNX, OpenVINO",
        "litert": "LiteRT, LSTM unrolled",
    }
    head = ("", "start", "memory, at the start and at the end", "one image", "network alone")
    rows = [(*head, "images a second, of 1,024", "installed")]
    for name, row in content["runtimes"].items():
        rows.append(
            (
                names[name],
                f"{row['start_s']:.2f} s",
                f"{row['loaded_mb']:.0f}, {row['end_mb']:.0f} MB",
                f"{row['one_image_ms']:.1f} ms",
                f"{row['graph_ms']:.2f} ms",
                f"{row['images_per_second']:,.0f}",
                f"{row['installed_mb']:,.0f} MB",
            )
        )
    return markdown(rows, content["machine"])


def under_load() -> str:
    """Make the table of the app under load."""
    content = load("load")
    minutes = content["seconds"] / 60
    rows = [
        ("measured", ""),
        (
            f"{content['clients']} clients for {minutes:.0f} minutes: images",
            f"{content['images']:,}, of them {content['rubbish']:,} not images, which were refused",
        ),
        ("failed", f"{content['failed']:,}"),
        ("refused because too many were waiting", f"{content['busy']:,}"),
        ("median, 99th percentile", f"{content['median_ms']:.0f} ms, {content['p99_ms']:.0f} ms"),
        (
            "memory of the app, first and last tenth of that time",
            f"{content['first_tenth_mb']} MB, {content['last_tenth_mb']} MB",
        ),
        (
            f"{content['crowd']} clients at once",
            f"{content['crowd_right']} read, {content['crowd_busy']} told to try again, "
            f"{content['crowd_failed']} failed",
        ),
    ]
    if content["crowd_busy"]:
        rows.append(
            (f"slowest refusal of the {content['crowd']}", f"{content['crowd_busy_slowest_ms'] / 1000:.1f} s")
        )
    rows += [
        (f"slowest reading of the {content['crowd']}", f"{content['crowd_right_slowest_ms'] / 1000:.1f} s"),
        (
            "one client alone, median, before and after",
            f"{content['alone_before_ms']:.0f} ms, {content['alone_after_ms']:.0f} ms",
        ),
    ]
    return markdown(rows, content["machine"])


def start() -> str:
    """Say what the starting weights were trained on, and how well they read such images."""
    about = json.loads((ROOT / "training/start/ocr_model/assets.extra/about.json").read_text("utf-8"))
    return (
        f"They were trained on {about['split']['train']:,} synthetic images and know "
        f"{len(about['alphabet'])} classes of characters. Of {about['split']['test']:,} further such images, "
        f"many deliberately hard to read, they read {about['exact_match']:.1%} without a mistake, with "
        f"a character error rate of {about['cer']:.1%}."
    )


def faults() -> str:
    """Say what was shown of a run that was killed again and again."""
    content = load("faults")
    kills = content["kills"]
    reads = sum(kill["app_reads"] for kill in kills)
    matches = ", ".join(f"{match:.2%}" for match in content["whole_runs"])
    first, second = content["same_seed_confidences"]
    same = "identical" if content["same_seed_same_texts"] and first == second else "different"
    rows = [
        ("measured", ""),
        ("times the run was killed", str(len(kills))),
        ("the app still read an image after the kill", f"{reads} of {len(kills)}"),
        (
            "epochs: interrupted run, uninterrupted runs",
            f"{content['epochs']}, {content['whole_runs_epochs'][0]}",
        ),
        ("exact match of the interrupted run", f"{content['exact_match']:.2%}"),
        ("exact match of uninterrupted runs", matches),
        ("misread images and mean confidence of two runs with the same seed", same),
    ]
    return markdown(rows, content["machine"])


PAGES = {  # their tables, by the markers around them
    "readme.md": {"kinds": kinds},
    "docs/benchmarks.md": {
        "benchmarks": benchmarks,
        "labels": labels,
        "peers": peers,
        "what peers take": peers_cost,
    },
    "docs/labelling.md": {"labelling": labelling},
    "docs/start.md": {"start": start},
    "docs/reliability.md": {"fuzz": fuzz, "load": under_load, "faults": faults},
    "docs/onnx.md": {"runtimes": of_runtimes},
    "docs/scale.md": {
        "scale": scale,
        "scale checks": scale_checks,
        "machines": machines,
        "many images": many_images,
    },
    "docs/model_selection.md": {"screening": screening, "finalists": finalists},
}


def fill(table: Callable[[], str]) -> str:
    """Make a table, or say that its benchmark has not been run yet."""
    try:
        return table()
    except FileNotFoundError:
        return "Not measured yet."


def main() -> None:
    """Put the tables into the pages."""
    for name, tables in PAGES.items():
        page = ROOT / name
        text = page.read_text("utf-8")
        for marker, table in tables.items():
            block = re.compile(rf"(?<=<!-- {marker} -->\n).*?(?=<!-- /{marker} -->)", re.DOTALL)
            text = block.sub(lambda _, table=table: fill(table) + "\n", text)
        page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
