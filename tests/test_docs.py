"""The pages: their links, and what they tell people to type."""

import re
import shlex

import pytest
from runs import ROOT

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
    blocks = re.findall(r"```(?:bash|powershell)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in "\n".join(blocks).replace("\\", "/").splitlines():
        words = shlex.split(line, comments=True)
        assert "make" not in words or words[words.index("make") + 1] in targets, line
        assert set(re.findall(r"-p ([A-Z_]+)", " ".join(words))) <= vars(study).keys(), line
        for word in words:
            if re.search(r"^\w.*\.(py|ipynb|txt)(::\w+)?$", word):
                places = [folder / word.partition("::")[0] for folder in (ROOT, ROOT / "demo_app")]
                script = next((place for place in places if place.exists()), None)
                assert script, line
                if script.parent.name == "demo_app" and script.suffix == ".py":
                    options = [option for option in words if option.startswith("--")]
                    assert all(f'"{option}"' in script.read_text() for option in options), line
