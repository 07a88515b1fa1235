import contextlib
import io
import shlex

import pytest

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.analysis import findings
from playbook_jax.analysis.data import study as study_lib
from playbook_jax.analysis.findings import ACT, FINE, Finding
from playbook_jax.analysis.reports import commands, report
from playbook_jax.studies import conclusion, specification as specification_lib
from playbook_jax.studies.space import samplers
from playbook_jax.studies.store.directory import StudyDirectory
from tests import synthetic_study as synthetic
from tests.html_page import Page
from tests.small import ROOT

RATE = "hparams.learning_rate"
ACTION = [Finding("Q?", ACT, "A.", action="Do.")]


def lines(study, found=()):
    return {c.purpose: shlex.split(" ".join(c.words)) for c in commands.commands(study, found)}


@pytest.fixture(scope="module")
def concluded(tmp_path_factory):
    """A study of the repository's own config as the launcher leaves it, and what the launcher prints.

    The trials are made up: the third one is the best.
    """
    path = tmp_path_factory.mktemp("a b") / "study"
    spec = specification_lib.load(ROOT / "configs" / "studies" / "digits_mlp.py")
    spaces = {**spec.scientific, **spec.nuisance}
    points = samplers.sample(spec.algorithm, spaces, 4, spec.seed)
    trials = [{"trial": i, "parameters": p} for i, p in enumerate(points)]
    directory = StudyDirectory(path)
    directory.write(spec, trials)
    statuses = {}
    for i, point in enumerate(points):
        config = specification_lib.trial_config(spec.base_config, i, point, spec.vary_seed)
        writer = trial_lib.Writer(directory.trial_directory(i), config_lib.to_dict(config))
        writer.write("provenance.json", {"threads": 1})
        status = trial_lib.new_status("COMPLETE", step=1000)
        statuses[i] = status | {"best_step": 500, "objective": abs(i - 2) / 10}
        writer.write("status.json", statuses[i])
    printed = io.StringIO()
    command = ["scripts/launch_study.py", f"--workdir={path}"]
    with contextlib.redirect_stdout(printed):
        assert conclusion.conclude(directory, spec, trials, statuses, command)
    directory.release()
    return path, printed.getvalue()


def test_the_command_for_the_best_trial_is_the_launchers_own(concluded):
    path, printed = concluded
    (line,) = [line for line in printed.splitlines() if line.startswith("Train the best trial")]
    expected = shlex.split(line.split(": ", 1)[1])
    assert expected[:2] == ["scripts/reproduce.py", f"--trial={path}/trials/002"]
    study = study_lib.load(path)
    assert list(lines(study)["Train the best trial, 2, again, bit for bit."]) == expected
    # As one copies it from the page, quotes and all.
    page = Page((path / report.NAME).read_text())
    shown = {shlex.join(shlex.split(e.text)) for e in page.all("pre")}
    assert shlex.join(expected) in shown
    assert all("'" in e.text for e in page.all("pre") if "a b" in e.text)
    assert "'" in (path / "best_config.py").read_text()


def test_the_config_that_is_ready_to_run_is_the_best_trials(concluded):
    path, printed = concluded
    assert f"Its config, to begin the next one with: {path}/best_config.py" in printed
    trained = trial_lib.load(path / "trials" / "002").config
    found = config_lib.load(path / "best_config.py")
    assert not config_lib.differences(trained, config_lib.to_dict(found))


def test_what_comes_next_depends_on_the_study(concluded):
    study = study_lib.load(concluded[0])
    launch = ["scripts/launch_study.py", "--config=configs/studies/digits_mlp.py"]
    fine = lines(study, [Finding("Q?", FINE, "A.")])
    assert [purpose.split()[0] for purpose in fine] == ["Train", "Add", "See", "Write"]
    act = lines(study, ACTION)
    assert [purpose.split()[0] for purpose in act] == ["Train", "Change", "Add", "See", "Write"]
    changed = next(words for purpose, words in act.items() if purpose.startswith("Change"))
    assert changed == [*launch, f"--workdir={study.directory}_2"]
    added = next(words for purpose, words in act.items() if purpose.startswith("Add"))
    assert added == [*launch, f"--workdir={study.directory}"]


def test_an_unfinished_study_goes_on(tmp_path):
    truth = synthetic.Truth(synthetic.bowl({RATE: 0.5}))
    synthetic.write(tmp_path / "s", truth, num_trials=5, started=0)
    study = study_lib.load(tmp_path / "s")
    assert [p.split(":")[0] for p in lines(study, findings.check(study))] == [
        "Continue the study",
        "Write this report anew.",
    ]
    # The study's config is not in the repository: its place has to be filled in.
    words = next(iter(lines(study).values()))
    assert words[:2] == ["scripts/launch_study.py", "--config=YOUR_STUDY.py"]


def test_paths_are_shown_as_one_types_them(tmp_path):
    inside = synthetic.made([], spaces={}, directory=ROOT / "runs" / "s")
    assert commands.display_path(inside) == "runs/s"
    outside = synthetic.made([], spaces={}, directory=tmp_path)
    assert commands.display_path(outside) == str(tmp_path.resolve())
    bucket = synthetic.made([], spaces={}, directory="gs://bucket/s")
    assert commands.display_path(bucket) == "gs://bucket/s"


@pytest.mark.parametrize("found", [True, False])
def test_the_config_that_was_launched_is_named_where_it_still_is(tmp_path, found):
    truth = synthetic.Truth(synthetic.bowl({RATE: 0.5}))
    synthetic.write(tmp_path / "s", truth, num_trials=5)
    config = tmp_path / "my study.py"
    if found:
        config.write_text("")
    provenance = tmp_path / "s" / "trials" / "000" / "provenance.json"
    launched = ["scripts/launch_study.py", f"--config={config}", "--workdir=s"]
    trial_lib.write_json(provenance, {"command": launched})
    added = [
        words
        for purpose, words in lines(study_lib.load(tmp_path / "s")).items()
        if "Add" in purpose
    ]
    assert added[0][1] == f"--config={config if found else 'YOUR_STUDY.py'}"
