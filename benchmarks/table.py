"""Write the readme's table of benchmarks from their JSON files: `python benchmarks/table.py`."""

import json
import re

from runs import ROOT


def table() -> str:
    """Make the table, as Markdown."""
    folds, labels, speed = (
        json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("folds", "labels", "speed")
    )
    low, high = folds["interval"]
    rows = [
        ("measured", "CustomOCR", "tutorial recipe"),
        ("---", "---", "---"),
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
    rows += [
        ("one image, bytes to text, ms", f"{one['ours']:.1f}", f"{one['tutorial']:.1f}"),
        ("images a second, 1,000 in memory", f"{many['ours']:.0f}", f"{many['tutorial']:.0f}"),
        ("parameters", *(f"{speed['parameters'][name]:,}" for name in ("ours", "tutorial"))),
    ]
    machine = speed["machine"]
    note = f"{machine['cores']} cores of an {machine['processor']}, TensorFlow {machine['tensorflow']}."
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", note])


def main() -> None:
    """Put the table into the readme."""
    readme = ROOT / "readme.md"
    block = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- /benchmarks -->)", re.DOTALL)
    readme.write_text(block.sub(lambda _: table() + "\n", readme.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
