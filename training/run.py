"""Run the whole notebook from a terminal: `python -m training.run -p DATASET ../mine -p EPOCHS 60`.

The notebook with its outputs goes into the folder `WORK`. After a run on the default data set, with default
parameters, its outputs also replace those in `study.ipynb`, and its table goes into the pages that show it.
"""

import argparse
import ast
import contextlib
import difflib
import json
import logging
import os
import re
import sys
from pathlib import Path

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError

from training.fetching import DEFAULT_DATASET

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.DOTALL)


class Kernel(AsyncKernelManager):
    """A kernel that writes what is not of Python, TensorFlow's remarks, to a file."""

    remarks = ROOT / "work" / "kernel.log"

    async def start_kernel(self, **options: object) -> None:
        """Start it, with tqdm told not to ask for Jupyter's progress bars."""
        options["env"] = {"PYTHONWARNINGS": "ignore:IProgress not found"} | os.environ
        options["extra_arguments"] += ["--IPKernelApp.capture_fd_output=False"]
        with self.remarks.open("w") as log:
            await super().start_kernel(**options, stderr=log)


class Log(logging.Handler):
    """Prints what the cells print and show, but neither papermill's own words nor the names of figures."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the text of a record; a bar, which begins with a carriage return, stays in its line."""
        text = record.getMessage()
        if record.funcName == "log_output_message" and not re.fullmatch("<.+>", text):
            print(text, end="" if text[:1] == "\r" or text[-1:] == "\n" else "\n", flush=True)


def read_parameters(notebook: Path, words: list[list[str]]) -> dict[str, object]:
    """Make parameters of names and texts: numbers, True, False and None of what looks so.

    Raises:
        SystemExit: If the notebook has no such parameter, or one needs a number, with a sentence.
    """
    known = papermill.inspect_notebook(notebook)
    parameters: dict[str, object] = dict(words)
    for name, text in words:
        if name not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0)[0]
            sys.exit(f"There is no parameter {name}. Did you mean {nearest}?")
        if known[name]["default"][0] not in "\"'":  # a text stays one: the folder may be named 2024
            with contextlib.suppress(ValueError, SyntaxError):
                word = text.title() if text.lower() in ("true", "false", "none") else text
                parameters[name] = ast.literal_eval(word)
        if re.match(r"-?[\d.]", known[name]["default"]) and not isinstance(parameters[name], int | float):
            sys.exit(f"{name} must be a number, such as {known[name]['default']}, not {text}.")
    return parameters


def is_bug(error: papermill.PapermillExecutionError) -> bool:
    """Tell a bug from bad input, for which a cell or a module of the project has a `raise`."""
    if len(error.traceback) < 2:  # the cell is no Python
        return True
    place, *lines = papermill.exceptions.strip_color(error.traceback[-2]).splitlines()
    ours = re.match(r"Cell In|File .*\b(training|demo_app)[/\\]\w+\.py:", place)
    return not ours or not any(re.match(r"-+> \d+ +raise ", line) for line in lines)


def publish(book: nbformat.NotebookNode, root: Path) -> bool:
    """Put a run's outputs and table into the repository `root`, if they belong there, and tell whether."""
    results = root / "docs" / "results.json"  # where a run with the default parameters has written it
    if not set(book.metadata.pop("papermill").parameters) <= {"DATASET", "EXAMPLES"}:
        return False
    if Path(json.loads(results.read_text("utf-8"))["dataset"]).stem != Path(DEFAULT_DATASET).name:
        return False  # also without a network: the default is synthetic images then
    book.cells = [cell for cell in book.cells if "injected-parameters" not in cell.metadata.tags]
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    (summary,) = [cell.outputs[0].data["text/plain"] for cell in code if "results" in cell.metadata.tags]
    for cell in book.cells:
        kept = {name: cell.metadata[name] for name in cell.metadata if name not in ("papermill", "execution")}
        cell.metadata = nbformat.from_dict({name: value for name, value in kept.items() if value})
    for count, cell in enumerate(code, start=1):
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for part in (cell, *cell.outputs):
            if "execution_count" in part:
                part.execution_count = count
    nbformat.write(book, root / "study.ipynb")
    for page in (root / "readme.md", root / "demo_app" / "README.md"):
        page.write_text(TABLE.sub(lambda _: summary + "\n", page.read_text("utf-8")), "utf-8")
    return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.run", description=__doc__.splitlines()[0])
    help = "set a parameter of study.ipynb; may be repeated"
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=help)
    notebook = ROOT / "study.ipynb"
    parameters = read_parameters(notebook, parser.parse_args().p)
    work = ROOT / parameters.get("WORK", "work")
    executed, Kernel.remarks = work / "study.ipynb", work / "kernel.log"
    sys.stdout.reconfigure(errors="replace")  # a pipe of Windows may not know what bars are drawn with
    papermill.log.logger.setLevel("INFO")
    papermill.log.logger.addHandler(Log())
    work.mkdir(parents=True, exist_ok=True)
    print(
        "study.ipynb is running. Its first cells take some seconds because they import TensorFlow.",
        flush=True,
    )
    options = {"log_output": True, "progress_bar": False, "kernel_manager_class": Kernel}
    try:
        book = papermill.execute_notebook(notebook, executed, parameters, cwd=ROOT, **options)
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command resumes from here.")
    except DeadKernelError:
        sys.exit(f"The notebook's process died, perhaps because it ran out of memory: see {Kernel.remarks}.")
    except papermill.PapermillExecutionError as error:
        if error.ename == "SystemExit":  # a machine that has done its part
            return print(error.evalue)
        print(f"\n{executed} is the notebook up to the cell that failed.", flush=True)
        sys.exit(str(error) if is_bug(error) else f"{error.ename}: {error.evalue}")
    kept = "study.ipynb and demo_app/README.md are unchanged."
    if publish(book, ROOT):
        kept = "Its outputs are in study.ipynb, too."
    print(f"\n{executed} is the notebook with its outputs. {kept}")


if __name__ == "__main__":
    main()
