"""The docs speak of what exists: links, verbs, targets, settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from ocf.cli.app import app
from ocf.functions.settings.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("tests/**/README.md"),
        *ROOT.glob("*/results.md"),
    ]
)
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)?(?:#([^)\s]+))?\)")
_VERB = re.compile(
    r"(?:^|`|\$ |bin/)ocf "
    r"((?:session |dlq |context |credential |result |trigger |hook |schedule |history |suite )?[a-z][a-z-]*)",
    re.MULTILINE,
)
_TARGET = re.compile(r"(?:^|`|\$ )make ([a-z][a-z0-9-]*)", re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and a heading that is in it."""
    for target, anchor in _LINK.findall(page.read_text()):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{named(page)}: {target}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{named(page)}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_verb_and_target_exists(page: Path) -> None:
    """Nobody is told to type a command that is not there."""
    text = page.read_text()
    command = get_command(app)
    verbs = {
        name if not hasattr(sub, "commands") else f"{name} {inner}"
        for name, sub in command.commands.items()  # type: ignore[attr-defined]
        for inner in (getattr(sub, "commands", None) or {"": None})
    }
    for verb in _VERB.findall(text):
        assert verb in verbs or verb.split()[0] in verbs, f"{named(page)}: ocf {verb}"
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):|^([a-z0-9 -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {word for pair in targets for part in pair for word in part.split()}
    for target in _TARGET.findall(text):
        assert target in known, f"{named(page)}: make {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ("CHANGELOG.md", "results.md")], ids=named)
def test_every_named_file_exists(page: Path) -> None:
    """A path of the repository in a page is a file or folder of it. The changelog may name removed ones."""
    top = "functions|events|ocf|scripts|tests|faults|benchmarks|knative|schemas|console|demo|docs"
    for path in re.findall(rf"(?<![\w/.$-])((?:{top})/[\w./*-]+)", page.read_text()):
        name = path.rstrip(".,")
        assert any(ROOT.glob(name.rstrip("/"))) or (ROOT / name).exists(), f"{named(page)}: {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(ROOT / "docs")], ids=named)
def test_pages_are_short(page: Path) -> None:
    """A page has at most 250 lines; details of measurements lie beside the measurements. One is generated whole."""
    assert len(page.read_text().splitlines()) <= (350 if page.name == "install-with-kn.md" else 250)


def test_the_index_leads_to_every_page() -> None:
    """docs/index.md, or the index of the decisions, links each page."""
    linked = {
        (index.parent / target).resolve()
        for index in (ROOT / "docs/index.md", ROOT / "docs/adr/README.md")
        for target, _ in _LINK.findall(index.read_text())
    }
    missing = [named(page) for page in ROOT.glob("docs/**/*.md") if page.resolve() not in linked]
    assert missing == ["docs/index.md"]


def test_the_glossary_defines_each_term_in_one_sentence() -> None:
    """A term is a heading, and its definition one line that ends with a full stop."""
    lines = (ROOT / "docs/glossary.md").read_text().splitlines()
    terms = [number for number, line in enumerate(lines) if line.startswith("### ")]
    assert len(terms) > 40
    for number in terms:
        assert lines[number + 1].endswith("."), lines[number]
        assert lines[number + 2 : number + 3] in ([], [""]) or lines[number + 2].startswith("#"), lines[number]


def test_every_setting_has_a_meaning() -> None:
    """The configuration page would otherwise have an empty cell where a question is."""
    without = [field.alias for field in Settings.model_fields.values() if not field.description]
    assert without == []


def test_no_change_is_told_twice() -> None:
    """A line of the changelog stands in one version only: a rebase once copied one into three."""
    lines = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("- ")]
    assert [line for line in set(lines) if lines.count(line) > 1] == []
