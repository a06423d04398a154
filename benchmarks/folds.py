"""Pooled 10-fold exact match: every image read by a network that never saw it.

`python benchmarks/folds.py` runs the notebook once per fold, goes on where it stopped, prints a table and
writes `folds.json` and `docs/images/folds.png`, which shows every misread image and every doubtful label.
"""

import matplotlib.pyplot as plt
import runs
from folders import find_images
from images import open_image

from training.evaluation import wilson_interval
from training.fetching import fetch
from training.plots import draw_images

DOUBTFUL = {"mxnw4": "mxmw4", "wgnwp": "wgmwp", "cdcb3": "edcb3", "ep85x": "cp85x"}  # and what it may be


def main() -> None:
    """Run the folds and pool them."""
    folds, misread = [], []
    print("fold  images  wrong  CER")
    for fold in range(10):
        results = runs.run(f"fold-{fold}", FOLD=fold)
        metrics = results["metrics"]
        folds.append({"fold": fold, "images": results["split"]["test"], "cer": metrics["cer"]})
        misread += [{"fold": fold} | image for image in metrics["misread"]]
        print(
            f"{fold:4} {folds[-1]['images']:7} {len(metrics['misread']):6}  {metrics['cer']:.2%}", flush=True
        )
    images = sum(fold["images"] for fold in folds)
    right = images - len(misread)
    low, high = wilson_interval(right, images)
    doubtful = sum(image["label"] in DOUBTFUL for image in misread)
    print(f"pooled: {right} of {images} right, {right / images:.2%}, 95% interval {low:.2%} to {high:.2%}")
    print(f"{doubtful} of the {len(misread)} wrong ones have a doubtful label")
    runs.write(
        "folds",
        {
            "images": images,
            "wrong": len(misread),
            "wrong_and_doubtful": doubtful,
            "doubtful": DOUBTFUL,
            "exact_match": right / images,
            "interval": [low, high],
            "folds": folds,
            "misread": misread,
        },
    )
    folder, _ = fetch(runs.DATASET, runs.WORK / "data", seed=0)
    paths = {path.name: path for path in find_images(folder)[0]}
    titles = {image["file"]: f"{image['label']} read {image['text']}" for image in misread}
    for name in paths:
        if (label := name.partition(".")[0]) in DOUBTFUL:
            read = titles.get(name, f"{label} read as labelled")
            titles[name] = f"{read}\nperhaps {DOUBTFUL[label]}"
    figure = draw_images([open_image(paths[name]) for name in titles], [*titles.values()])
    figure.savefig(runs.ROOT / "docs" / "images" / "folds.png", dpi=120, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
