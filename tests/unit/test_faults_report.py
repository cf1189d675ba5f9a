"""What the fault suite says of a run: good or not, how to replay it, the page, and the soak's two looks."""

from __future__ import annotations

from typing import Any

from faults.report import details, page
from faults.run import complaints, good
from faults.soak import compare, staying


def result(**changes: Any) -> dict[str, Any]:
    """A run of one pair in which everything held."""
    pair = {"pair": "execute:kill9", "project": "execute-kill9", "how": "execute-1", "seconds": 2.0, "back": 1.0,
            "executions": 3, "outcomes": {"completed": 3}, "all_ended": 9.0, "violations": [],
            "not_back": ""}  # fmt: skip
    whole = {"seed": 7, "commit": "abc", "date": "2026-01-01T10:00:00+00:00", "minutes": 1.0, "rate": 1.0,
             "executions": 3, "dead_letters": 1, "settled_after": 1.0, "pairs": [pair], "elsewhere": [],
             "unsettled": [], "leftovers": [], "clients": [], "good": True}  # fmt: skip
    return {**whole, **changes}


def test_one_violation_or_leftover_is_not_good_and_says_how_to_replay_it() -> None:
    """Whatever is wrong, wherever, makes the run fail; a pair's own fault comes with its command line."""
    assert good(result())
    assert complaints(result()) == []
    for name in ("elsewhere", "unsettled", "leftovers", "clients"):
        assert not good(result(**{name: ["something"]}))
    bad = result()
    bad["pairs"][0]["violations"] = ["end: p/e: 2 terminal events"]
    assert not good(bad)
    assert complaints(bad)[-1] == "again: make faults SEED=7 ONLY=execute:kill9"


def test_the_page_names_what_was_run_and_what_was_not() -> None:
    """Seed, commit, each cell; a pair that was not run is said to be not run."""
    said = page({"matrix": result()})
    assert "| matrix | 7 | `abc` | 1 | 3 | 1.0 | yes |" in said
    assert "3, 9 s" in said
    assert "not run" in said


def test_a_value_that_is_missing_at_the_second_look_is_not_good() -> None:
    """A process or a number of it that cannot be looked at any more is no leak that was not there; the page says so."""
    rows = compare({"submit": {"tasks": 8.0}, "s3": {"rss": 1e6}}, {"submit": {}})
    assert [(row["what"], row["after"], row["within"]) for row in rows] == [
        ("submit tasks", None, False),
        ("s3 rss", None, False),
    ]
    assert "| s3 rss | 1 MiB | ? | 194 MiB | **missing** |" in details({"soak": result(soak=rows)})


def test_leftovers_by_design_are_no_leak_of_a_soak() -> None:
    """The last fact of what is gone; the first one of a session is none."""
    assert staying("ocf.evt.p.s.destroyed")
    assert staying("ocf.evt.p.e.cleaned")
    assert staying("ocf.cmd.cancel.p.e", {"ocf.cmd.cancel.p.e"})
    assert not staying("ocf.cmd.cancel.p.e")
    assert not staying("ocf.evt.p.s.created")
    assert not staying("ocf.evt.p.e.completed")


def test_the_second_look_of_a_soak_finds_what_grew() -> None:
    """Less is no leak, a little is tolerance, more is named."""
    before = {"submit": {"rss": 100e6, "fds": 16.0, "tasks": 8.0}, "OCF_OUTPUT": {"subjects": 0.0, "consumers": 1.0}}
    after = {"submit": {"rss": 90e6, "fds": 60.0, "tasks": 9.0}, "OCF_OUTPUT": {"subjects": 1.0, "consumers": 1.0}}
    assert [row["what"] for row in compare(before, after) if not row["within"]] == ["submit fds", "OCF_OUTPUT subjects"]
