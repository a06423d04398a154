"""The label curve: exact match with 10 to 100 labelled images in all, on the rest.

`python benchmarks/labels.py` runs the notebook for five draws of each size, and the tutorial recipe on the
first draw; it goes on where it stopped, prints a table, writes `labels.json` and `docs/images/labels.png`.
"""

import matplotlib.pyplot as plt
import numpy as np
import tutorial
from runs import ROOT, run, run_folder, write

SIZES = (100, 50, 25, 10)
SEEDS = (1, 2, 3, 4, 5)


def main() -> None:
    """Run all draws and draw the curve."""
    runs = {size: [] for size in SIZES}
    for seed in SEEDS:
        for size in SIZES:
            runs[size].append(run(f"labels-{size}-seed-{seed}", LABELS=size, SEED=seed))
            match = runs[size][-1]["metrics"]["exact_match"]
            print(f"draw {seed}, {size} labels: exact match {match:.2%}", flush=True)
    rows = []
    print("labels  exact match of all draws (mean, least)  before any label, validation  tutorial recipe")
    for size, results in runs.items():
        matches = [result["metrics"]["exact_match"] for result in results]
        before = [result["start"]["val_exact_match"] for result in results]
        peer = tutorial.measure(run_folder(f"tutorial-{size}.json"), SEED=SEEDS[0], LABELS=size)[
            "exact_match"
        ]
        rows.append(
            {
                "labels": size,
                "exact_match": matches,
                "mean": float(np.mean(matches)),
                "cer": [result["metrics"]["cer"] for result in results],
                "seconds": [result["seconds"] for result in results],
                "tutorial": peer,
            }
        )
        print(
            f"{size:6}  {' '.join(f'{match:.2%}' for match in matches)} ({np.mean(matches):.2%}, "
            f"{min(matches):.2%})  {np.mean(before):.1%}  {peer:.2%}",
            flush=True,
        )
    write("labels", {"seeds": SEEDS, "sizes": rows})
    figure, axis = plt.subplots(figsize=(7, 3.5))
    sizes = [row["labels"] for row in rows]
    axis.plot(sizes, [100 * row["mean"] for row in rows], "o-", label="CustomOCR, mean of five draws")
    for row in rows:
        axis.plot([row["labels"]] * len(SEEDS), 100 * np.array(row["exact_match"]), "k.", alpha=0.4)
    axis.plot(sizes, [100 * row["tutorial"] for row in rows], "s--", label="tutorial recipe, first draw")
    axis.set(xlabel="labelled images, training and validation together", ylabel="exact match on the rest, %")
    axis.set(xscale="log", ylim=(-3, 103))
    axis.set_xticks(sizes, map(str, sizes))
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(loc="center right")
    figure.savefig(ROOT / "docs" / "images" / "labels.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
