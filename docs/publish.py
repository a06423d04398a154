"""Keep the outputs of an executed notebook: `python docs/publish.py EXECUTED.ipynb`.

The outputs go into `study.ipynb`, without the cell that set the parameters, and the table of the
notebook's conclusion goes into `readme.md` and `demo_app/README.md`: if the run was on the default data set,
which these pages speak of, with the default parameters.
"""

import json
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
DEFAULT = "captcha-version-2-images"
RESULTS = ROOT / "docs" / "results.json"
TABLE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.DOTALL)


def publish(executed: Path) -> None:
    """Copy outputs and table from an executed notebook."""
    book = nbformat.read(executed, as_version=4)
    parameters = book.metadata.papermill.parameters
    has_results = set(parameters) <= {"DATASET", "EXAMPLES"}  # where they lie by default
    # Without a network, the default is drawn images.
    if not has_results or Path(json.loads(RESULTS.read_text("utf-8"))["dataset"]).stem != DEFAULT:
        print(f"{executed} is the notebook with its outputs; study.ipynb and the pages stay as they are.")
        return
    book.cells = [cell for cell in book.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    book.metadata.pop("papermill", None)
    count = 0
    for cell in book.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            count += 1
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for part in (cell, *cell.outputs):
                if "execution_count" in part:
                    part.execution_count = count
            if tags == ["results"]:
                summary = cell.outputs[0].data["text/plain"]
    nbformat.write(book, ROOT / "study.ipynb")
    for name in ("readme.md", "demo_app/README.md"):
        page = ROOT / name
        page.write_text(TABLE.sub(lambda _: summary + "\n", page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
