"""The pages: their links, and what they tell people to type."""

import re
import shlex

import pytest
from runs import ROOT, notebook_functions

PAGES = [page for folder in ("", "demo_app", "docs", "env") for page in (ROOT / folder).glob("*.md")]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(page):
    """The names that a page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@each_page
def test_commands_name_what_there_is(page, study):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    files = {path.relative_to(folder).as_posix() for folder in (ROOT, ROOT / "demo_app") for path in FILES}
    for block in re.findall(r"```(?:bash|powershell)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\", "/").splitlines():
            words = shlex.split(line, comments=True)
            if "make" in words:
                assert words[words.index("make") + 1] in targets, line
            for word in words:
                if re.search(r"\.(py|ipynb|txt)(::\w+)?$", word) and not word.startswith("."):
                    assert any((folder / word.partition("::")[0]).exists() for folder in folders), line
                    script = next((folder / word for folder in folders if (folder / word).exists()), None)
            if any(word.endswith(("ocr.py", "read_many.py")) for word in words):
                options = [word for word in words if word.startswith("--")]
                assert [option for option in options if f'"{option}"' not in script.read_text()] == [], line
            text = " ".join(words)
            assert set(re.findall(r"-p ([A-Z_]+)", text)) <= set(parameters), line
