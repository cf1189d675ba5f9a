"""A forge on this machine with `demo/repo` in it, for docs/tutorial-pull-request.md: `python -m demo.forge FOLDER`.

It is Gitea where `make gitea` has built it, else the stand-in of the tests: git over HTTP and the API, without pages.
FOLDER/env has its addresses, FOLDER/token.txt a token. It runs until it is stopped.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.forge import TOKEN, stand_in
from tests.support.gitea import PROGRAM, running_gitea

REPO = Path(__file__).with_name("repo")


@contextmanager
def forge(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Serve; the kind, the repository's URL, the API's URL and a token."""
    files = {
        str(path.relative_to(REPO)): path.read_text() for path in REPO.rglob("*.*") if "__pycache__" not in path.parts
    }
    if PROGRAM.exists():
        with running_gitea(folder / "data", files) as gitea:
            yield "Gitea", gitea.repository, gitea.api_url, gitea.token
        return
    with stand_in(folder / "data", files) as simple:
        yield "a stand-in for Gitea", simple.url, simple.api_url, TOKEN


def main() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    with forge(folder) as (kind, url, api, token):
        (folder / "token.txt").write_text(token)
        name = url.split("://")[1].partition("/")[2].removesuffix(".git")
        login = url.replace("://", f"://bot:{token}@")
        lines = {"REPO_URL": url, "LOGIN_URL": login, "API_URL": api, "REPO": name}
        written = folder / "env.new"
        written.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        written.rename(folder / "env")
        sys.stdout.write(f"{kind}: {url}\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    raise SystemExit(main())
