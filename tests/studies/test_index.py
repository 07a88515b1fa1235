"""The index page over all studies."""

import dataclasses
import datetime
import os
import subprocess
import sys

import pytest

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.reports import index, report
from playbook_jax.errors import UsageError
from playbook_jax.studies import conclusion
from playbook_jax.studies.store import adoptions, ledger
from tests import small, synthetic_group, synthetic_study as synthetic
from tests.html_page import Page

HOSTILE = "<script>alert(1)</script> & \"'"
INDEX = pytest.mark.playbook("index-of-studies")


@pytest.fixture
def root(tmp_path):
    """Two studies, of which one is not over, and a group."""
    root = tmp_path / "runs #1"
    good = synthetic_group.good
    synthetic.write(root / "a", good(), num_trials=6)
    synthetic.write(root / "b", good(infeasible=lambda units: True), num_trials=8, started=5)
    synthetic_group.write(root / "pair", {"nesterov": good(), "adam": good(0.04)}, num_trials=3)
    (root / "pair.py").unlink()
    for number, path in enumerate([root / "a", root / "b", *sorted((root / "pair").glob("*="))]):
        provenance = {
            "command": ["launch", f"--workdir={path}"],
            "commit": "0123456789abcdef",
            "dirty": True,
            "started": f"2026-01-0{number + 1}T10:00:00+00:00",
        }
        trial_lib.write_json(path / "trials/000/provenance.json", provenance)
    report.write(root / "a")
    return root


def rows(page):
    """The rows of the table, by the study's name."""
    heads = [e.text for e in page.all("th")]
    found = {}
    for row in page.all("tr")[1:]:
        cells = [e for e in page.all("td") if e.around[-1] is row]
        found[cells[0].get("data-v")] = dict(zip(heads, cells, strict=True))
    return found


@INDEX
def test_a_row_a_study_with_the_playbooks_columns(root):
    page = Page(index.write(root).read_text())
    page.check(root)
    found = rows(page)
    assert set(found) == {
        "synthetic",
        "pair",
        "pair, optimizer=nesterov",
        "pair, optimizer=adam",
    }
    assert len(page.all("tr")) == 6  # two studies have one name
    (best,) = {
        ledger.entry(study).best_validation for study in ledger.find(root) if study.path.name == "a"
    }
    cells = [row for row in page.all("tr") if "launch" in row.text and "/a" in row.text]
    assert len(cells) == 1
    (row,) = cells
    texts = [e for e in page.all("td") if e.around[-1] is row]
    by_head = dict(zip([e.text for e in page.all("th")], texts, strict=True))
    assert by_head["trials"].text == "6"
    assert by_head["state"].text == "complete"
    assert float(by_head["best validation"].get("data-v")) == best
    assert by_head["best validation"].text == f"{100 * best:.2f}\u00a0%validation error rate"
    assert by_head["notes"].text.startswith("Which learning rate")
    assert "0123456789ab with changes" in by_head["reproduction"].text
    time = datetime.datetime(2026, 1, 1, 10, tzinfo=datetime.UTC)
    assert by_head["started"].get("data-v") == str(int(time.timestamp()))
    links = {e.text: e.get("href") for e in page.all("a") if row in e.around}
    assert links == {"synthetic": "a/report.html", "config": "a/study.json"}


@INDEX
def test_a_group_has_a_row_of_its_own_before_its_studies(root):
    page = Page(index.write(root).read_text())
    names = [e.get("data-v") for e in page.all("td", "of")]
    at = names.index("pair")
    assert set(names[at + 1 : at + 3]) == {"pair, optimizer=nesterov", "pair, optimizer=adam"}
    row = rows(page)["pair"]
    assert row["trials"].text == "6"
    own = [rows(page)[name]["best validation"].get("data-v") for name in names[at + 1 : at + 3]]
    assert float(row["best validation"].get("data-v")) == min(map(float, own))
    assert row["config"].text == "config"
    (link,) = [e for e in page.all("a") if e.get("href") == "pair/group.json"]
    assert row["config"] in link.around


def test_states(root):
    def state(of):
        page = Page(index.render(root, [s for s in ledger.find(root) if s.path.name == of]))
        (cell,) = [e for e in page.all("td", "keep") if e.text and not e.get("data-v")]
        return cell.text

    assert state("a") == "complete"
    assert state("b") == "unfinished"
    path = root / "b/trials/005/status.json"
    for number in range(5, 8):
        (root / f"b/trials/00{number}").mkdir()
    trial_lib.write_json(path, trial_lib.new_status(trial_lib.RUNNING))
    assert state("b") == "running"
    for number in range(5, 8):
        trial_lib.write_json(
            root / f"b/trials/00{number}/status.json",
            trial_lib.new_status(trial_lib.FAILED, "out of memory"),
        )
    assert state("b") == "no result"
    synthetic.write(root / "c", synthetic_group.good(), num_trials=2, started=0)
    assert state("c") == "not started"


@INDEX
def test_launches_are_marked_with_their_evidence(root):
    assert "launches" not in [e.text for e in Page(index.write(root).read_text()).all("th")]
    evidence = root / "a_replicates"
    evidence.mkdir()
    (evidence / "adoption.html").write_text("")
    launch = adoptions.Launch(
        "2026-01-02T10:00:00+00:00",
        3,
        {},
        "validation/error_rate",
        0.02,
        {},
        "../a_replicates",
        "adopt",
        HOSTILE,
    )
    rows = {"format": 1, "launches": [dataclasses.asdict(launch)]}
    trial_lib.write_json(root / "a" / adoptions.FILE_NAME, rows)
    page = Page(index.write(root).read_text())
    page.check(root)
    (link,) = [e for e in page.all("a") if e.get("href") == "a_replicates/adoption.html"]
    assert link.text == f"2026-01-02: trial 3, adopt: {HOSTILE}"


def test_markup_in_studies_is_shown_as_text(root):
    stored = trial_lib.read_json(root / "a/study.json")
    stored["specification"] |= {"name": HOSTILE, "goal": HOSTILE}
    trial_lib.write_json(root / "a/study.json", stored)
    provenance = {"command": ["x", HOSTILE], "commit": HOSTILE, "started": HOSTILE}
    trial_lib.write_json(root / "a/trials/000/provenance.json", provenance)
    os.rename(root / "a", root / "<b>&'\"")
    text = index.write(root).read_text()
    page = Page(text)
    page.check(root)
    assert text.count("<script>") == 1
    row = rows(page)[HOSTILE]
    assert row["notes"].text == HOSTILE
    assert HOSTILE[:12] in row["reproduction"].text


def test_an_empty_directory_has_a_page(tmp_path):
    page = Page(index.write(tmp_path).read_text())
    assert "There are no studies here yet." in [e.text for e in page.all("p")]
    with pytest.raises(UsageError, match="is no directory"):
        index.write(tmp_path / "nowhere")


@INDEX
def test_it_is_written_with_the_ledger(root):
    conclusion.write_ledger(root / "a")
    page = Page((root / "index.html").read_text())
    page.check(root)
    assert "ledger.csv" in {e.get("href") for e in page.all("a")}
    (root / "index.html").unlink()
    conclusion.write_ledger(root / "pair" / "optimizer=adam")  # beside the group, and not in it
    assert (root / "index.html").exists()
    assert not (root / "pair" / "index.html").exists()
    (root / "index.html").unlink()
    done = subprocess.run(
        [sys.executable, small.ROOT / "scripts/studies.py", f"--root={root}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Index: {root / 'index.html'}\n")
