"""How long the notebook may be, and which module may import which."""

import ast
from graphlib import TopologicalSorter

from runs import ROOT, code


def test_the_notebook_is_short_and_soon_shows_the_data(notebook):
    cells = [cell["source"] for _, cell in code()]
    lines = [line for cell in cells for line in cell]
    assert len(notebook["cells"]) <= 60 and len(lines) <= 650 and max(map(len, cells)) <= 40
    assert next(number for number, line in enumerate(lines, start=1) if "draw_images(" in line) <= 80


def imports(folder, prefix):
    """Of each module of a folder, the names of what it imports, in functions too."""
    found = {}
    for path in (ROOT / folder).glob("*.py"):
        names = found[prefix + path.stem] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names.update({node.module}, (f"{node.module}.{name.name}" for name in node.names))
            elif isinstance(node, ast.Import):
                names.update(name.name for name in node.names)
        names.discard(path.stem)  # read_many imports itself where it is the main script
    return found


def test_imports_have_no_circle_and_the_app_needs_no_training():
    app = imports("demo_app", "")
    assert not [name for names in app.values() for name in names if name.split(".")[0] == "training"]
    order = list(TopologicalSorter(imports("training", "training.") | app).static_order())
    assert {"training.run", "app", "images"} <= set(order)
