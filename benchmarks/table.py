"""Write the pages' tables of benchmarks from their JSON files: `python benchmarks/table.py`."""

import json
import re
from typing import Any

from runs import ROOT


def load(name: str) -> dict[str, Any] | None:
    """Load a benchmark's JSON; None if it hasn't been run yet, which leaves its rows out."""
    path = ROOT / "benchmarks" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def markdown(rows: list[tuple[str, ...]], machine: dict[str, Any]) -> str:
    """Make a table of rows of cells, the first its head, and name the machine below."""
    rows = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    note = f"{machine['cores']} cores of an {machine['processor']}, TensorFlow {machine['tensorflow']}."
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", note])


def benchmarks() -> str:
    """Make the table of the default data set."""
    folds, labels, race, speed, serving = map(load, ("folds", "labels", "race", "speed", "serving"))
    low, high = folds["interval"]
    rows = [
        ("measured", "CustomOCR", "tutorial recipe"),
        (
            "pooled 10-fold exact match",
            f"{folds['exact_match']:.2%}: {folds['wrong']} of {folds['images']} wrong, "
            f"95% interval {low:.2%} to {high:.2%}",
            "",
        ),
    ]
    for size in labels["sizes"]:
        rows.append(
            (
                f"exact match with {size['labels']} labelled images",
                f"{size['mean']:.2%}, mean of {len(size['exact_match'])} draws "
                f"({min(size['exact_match']):.2%} to {max(size['exact_match']):.2%})",
                f"{size['tutorial']:.2%}",
            )
        )
    one, many = speed["one_image_ms"], speed["thousand_images_per_second"]
    if race:
        rows.append(
            (
                f"seconds of fit from random weights to {race['goal']:.0%} of a held-out tenth, each seed",
                *(
                    ", ".join(f"{seconds:.0f}" if seconds else "never" for seconds in race["seconds"][name])
                    for name in ("CustomOCR", "tutorial recipe")
                ),
            )
        )
    rows += [
        ("one image, bytes to text, ms", f"{one['ours']:.1f}", f"{one['tutorial']:.1f}"),
        ("images a second, 1,000 in memory", f"{many['ours']:.0f}", f"{many['tutorial']:.0f}"),
        ("the app over HTTP, image in, JSON out: one client, ms", f"{serving['one_client_median_ms']:.0f}", ""),
        (
            f"the same, {serving['clients']} clients, images a second",
            f"{serving['clients_images_per_second']:.0f}",
            "",
        ),
        ("a zip of 1,000 images through the page's API, s", f"{serving['thousand_images_seconds']:.1f}", ""),
        ("parameters", *(f"{speed['parameters'][name]:,}" for name in ("ours", "tutorial"))),
    ]
    return markdown(rows, speed["machine"])


def own_images() -> str:
    """Make the table of other data sets."""
    content = load("own_images")
    rows = [("images", "test", "exact match", "CER", "whole run", "tutorial recipe", "its CER")]
    for row in content["sets"]:
        low, high = row["interval"]
        rows.append(
            (
                row["set"],
                str(row["test"]),
                f"{row['exact_match']:.1%} ({low:.1%} to {high:.1%})",
                f"{row['cer']:.1%}",
                f"{row['seconds'] / 60:.1f} min",
                *(
                    f"{row['tutorial'][name]:.1%}" if row["tutorial"] else ""
                    for name in ("exact_match", "cer")
                ),
            )
        )
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
            f"- {content['images']:,} drawn images: the same texts as `ocr.py --csv`, {content['right']:,} "
            f"of them right. A reading takes {content['bytes_per_reading']:.0f} bytes of Parquet.",
            f"- {content['images_of_the_rest']:,} of them on a cluster of two nodes, of which one was killed "
            f"half-way, after {node['its_processor_seconds']:.0f} s of processor: each image once.",
            f"- The same with the command itself killed half-way: {command['kept']:,} stayed, and the second "
            "start read the rest: each image once.",
        ]
    )


TABLES = {  # by the marker in a page
    "benchmarks": benchmarks,
    "own images": own_images,
    "scale": scale,
    "scale checks": scale_checks,
}
PAGES = (ROOT / "readme.md", ROOT / "docs" / "scale.md")


def main() -> None:
    """Put the tables into the pages."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for marker, table in TABLES.items():
            block = re.compile(rf"(?<=<!-- {marker} -->\n).*?(?=<!-- /{marker} -->)", re.DOTALL)
            text = block.sub(lambda _, table=table: table() + "\n", text)
        page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
