"""Build the documentation as a site with search: `make docs`, which gives this script an environment of its own.

The pages stay where GitHub shows them and link each other as files. So the site is built from a folder with the
layout of the repository that holds each tracked page and each file that a page links. A link to a folder leads to
the address that `--repository` gives, or becomes text. A dead link or anchor fails the build.

Source: https://www.mkdocs.org/user-guide/configuration/#validation
"""

import argparse
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)([^)]*)\)")
ITEM = re.compile(r"([-*]|\d+\.) ")
#: Sections of the site in their order; a pattern that ends with a star is every page of the folder.
SECTIONS = (
    ("Start", ("README.md", "docs/index.md", "docs/glossary.md")),
    ("Tutorials", ("docs/tutorial*.md",)),
    ("How-to guides", ("docs/how-to/*.md",)),
    ("Reference", ("docs/reference/*.md", "benchmarks/results.md", "faults/results.md")),
    ("Explanation", ("docs/explanation/*.md",)),
    ("Decisions", ("docs/adr/*.md",)),
    ("Project", ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
)


def stage(target: Path, repository: str) -> None:
    """Copy each tracked page and each file that one links into `target`."""
    shutil.rmtree(target, ignore_errors=True)
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in tracked.stdout.split():
        page = ROOT / name
        text = LINK.sub(lambda link, page=page: staged_link(page, link, target, repository), page.read_text("utf-8"))
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(lists_apart(text), "utf-8")


def lists_apart(text: str) -> str:
    """Return a page with an empty line before each list: GitHub starts one without, Markdown's first parser did not."""
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        before = lines[-1] if lines else ""
        if not fenced and ITEM.match(line) and before and before[0] != " " and not ITEM.match(before):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def staged_link(page: Path, link: re.Match[str], target: Path, repository: str) -> str:
    """Return the link as the site has it, and copy the file that it names when it is no page."""
    words, address, _anchor = link.groups()
    named = (page.parent / address).resolve()
    if not named.is_relative_to(ROOT):
        return link[0]
    inside = named.relative_to(ROOT)
    if named.is_dir():
        return f"[{words}]({repository}/tree/HEAD/{inside})" if repository else words
    if named.is_file() and named.suffix != ".md":
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(named, target / inside)
    return link[0]


def navigation(staged: Path) -> list[dict[str, list[str]]]:
    """Return the pages of each section; titles are the pages' own headings."""
    return [
        {title: [str(page.relative_to(staged)) for pattern in patterns for page in sorted(staged.glob(pattern))]}
        for title, patterns in SECTIONS
    ]


def main() -> int:
    """Build the site into the folder that `--out` names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--repository", default="", help="address that links to folders lead to")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    staged = out.with_name(out.name + "-pages")
    stage(staged, arguments.repository.rstrip("/"))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    config = load_config(
        config_file=str(ROOT / "scripts" / "docs_site.yml"),
        docs_dir=str(staged),
        site_dir=str(out),
        repo_url=arguments.repository or None,
        nav=navigation(staged),
        strict=True,
    )
    build(config)
    shutil.rmtree(staged)
    print(f"{sum(1 for _ in out.rglob('*.html'))} pages in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
