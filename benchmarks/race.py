"""The race: seconds of `fit`, from random weights, until held-out images are read with at most 1% wrong.

`python benchmarks/race.py` lets the notebook, briefly, from random weights and with half the augmentation,
and the tutorial recipe run in turns for three seeds. Both learn from the same training split;
the validation split only stops the clock. A run of the tutorial recipe without its early stopping tells where
that would have ended it. It writes `race.json` and `docs/images/race.png`.
"""

import matplotlib.pyplot as plt
import numpy as np
import tutorial
from runs import ROOT, run, run_folder, write

SEEDS = (1, 2, 3)
GOAL = 0.99


def seconds_to_goal(rows: list[tuple[float, float]]) -> float | None:
    """Find the seconds after which the goal was first reached; None if it never was."""
    return next((seconds for seconds, match in rows if match >= GOAL), None)


def main() -> None:
    """Run the race and draw it."""
    rows = {"CustomOCR": [], "tutorial recipe": [], "tutorial recipe, early stopping": []}
    for seed in SEEDS:
        history = run(f"race-{seed}", SEED=seed, START="random", EPOCHS=10, BATCH_SIZE=16, AUGMENTATION=0.5)[
            "history"
        ]
        seconds = np.cumsum(history["seconds"]).tolist()
        rows["CustomOCR"].append(list(zip(seconds, history["val_exact_match"], strict=True)))
        epochs = tutorial.measure(run_folder(f"race-tutorial-{seed}.json"), seed, GOAL)
        rows["tutorial recipe"].append([row[:2] for row in epochs])
        rows["tutorial recipe, early stopping"].append([row[:2] for row in tutorial.stop_early(epochs)])
        print(
            f"seed {seed}, seconds:",
            {name: seconds_to_goal(runs[-1]) for name, runs in rows.items()},
            flush=True,
        )
    reached = {name: [seconds_to_goal(run) for run in runs] for name, runs in rows.items()}
    write("race", {"goal": GOAL, "seeds": SEEDS, "seconds": reached, "epochs": rows})
    figure, axis = plt.subplots(figsize=(7, 3.5))
    for style, (name, runs) in zip(("tab:blue", "tab:orange", "k:"), rows.items(), strict=True):
        for number, points in enumerate(runs):
            label = name if number == 0 else None
            axis.plot(*np.transpose(points) * [[1], [100]], style, alpha=0.7, label=label)
    axis.axhline(100 * GOAL, color="black", linewidth=0.5)
    axis.set(xlabel="seconds of fit", ylabel="exact match, held out, %")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(ROOT / "docs" / "images" / "race.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
