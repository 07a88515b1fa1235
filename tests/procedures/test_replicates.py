import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from playbook_jax import config as config_lib, trial as trial_lib
from playbook_jax.errors import UsageError
from playbook_jax.procedures import configurations, replicates
from playbook_jax.studies import specification
from tests.small import ROOT, digits, one_device

OBJECTIVE = {"metric": "validation/error_rate", "mode": "min"}


def write_study(path, objectives, objective=OBJECTIVE, **overrides):
    """A study that has ended, as far as replicates look at it; None is an infeasible trial."""
    rows = []
    for number, value in enumerate(objectives):
        rate = 0.05 * (number + 1)
        rows.append({"trial": number, "parameters": {"hparams.learning_rate": rate}})
        directory = path / "trials" / f"{number:03d}"
        directory.mkdir(parents=True)
        config = config_lib.complete(digits(hparams__learning_rate=rate, **overrides))
        trial_lib.write_json(directory / "config.json", config_lib.to_dict(config))
        state = trial_lib.INFEASIBLE if value is None else trial_lib.COMPLETE
        status = trial_lib.new_status(state, step=40) | {"best_step": 40, "objective": value}
        trial_lib.write_json(directory / "status.json", status)
    study = {"format": 1, "specification": {"name": "s", "objective": objective}, "trials": rows}
    trial_lib.write_json(path / "study.json", study)
    return path


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study", [0.2, 0.1, None, 0.3])


def plan(study, trial="best", baseline=None, count=3, **values):
    values.setdefault("examples", 300)
    return replicates.plan(study, trial, baseline and str(baseline), count=count, **values)


def test_the_candidate_is_the_best_trial_or_the_one_that_is_named(study):
    best = configurations.from_study(study)
    assert best.source == f"trial 1 of {study}"
    assert best.config == trial_lib.load(study / "trials" / "001").config
    assert best.objective == OBJECTIVE
    assert best.chosen == {
        "trial": 1,
        "objective": 0.1,
        "objectives": [0.1, 0.2, 0.3],
        "failures": 1,
    }
    assert configurations.from_study(study, "3").config["hparams"]["learning_rate"] == 0.2
    with pytest.raises(UsageError, match=r"--trial=2 of .* is INFEASIBLE; choose one"):
        configurations.from_study(study, "2")
    for name in ("4", "-1", "first"):
        with pytest.raises(UsageError, match=r"has the trials 0 to 3, or 'best'"):
            configurations.from_study(study, name)


def test_what_is_no_study_is_refused_and_a_group_names_its_studies(tmp_path):
    with pytest.raises(UsageError, match="holds no study"):
        configurations.from_study(tmp_path)
    with pytest.raises(UsageError, match="has no COMPLETE trial"):
        configurations.from_study(write_study(tmp_path / "none", [None, None]))
    trial_lib.write_json(
        tmp_path / "group.json", {"studies": [{"directory": "a"}, {"directory": "b"}]}
    )
    with pytest.raises(UsageError, match=r"is a group; give one of its studies: .*/a or .*/b$"):
        configurations.from_study(tmp_path)


def test_the_baseline_is_a_config_a_trial_a_study_or_earlier_replicates(tmp_path, study):
    config = configurations.from_anywhere(str(ROOT / "configs" / "digits_mlp.py"))
    assert config.config["hparams"]["learning_rate"] == 0.1
    assert config.config["notes"] == ""  # complete
    assert config.chosen is None
    trial = study / "trials" / "003"
    for path in (trial, trial / "config.json"):
        assert configurations.from_anywhere(str(path)).config == trial_lib.load(trial).config
    assert configurations.from_anywhere(str(study)) == configurations.from_study(study)

    replicates.prepare(plan(study), tmp_path / "out")
    earlier = configurations.from_anywhere(str(tmp_path / "out"))
    assert earlier.config == configurations.from_study(study).config
    assert earlier.replicates == tmp_path / "out" / "candidate"
    # Those of a baseline are not run again, so no study config is written.
    replicates.prepare(plan(study, "0", tmp_path / "out"), tmp_path / "next")
    assert not (tmp_path / "next" / "baseline_study.py").exists()
    stored = trial_lib.read_json(tmp_path / "next" / "replicates.json")
    assert stored["baseline"]["replicates"] == str(tmp_path / "out" / "candidate")

    with pytest.raises(UsageError, match="holds neither a study, nor a trial, nor replicates"):
        configurations.from_anywhere(str(tmp_path))
    with pytest.raises(UsageError, match="no config file"):
        configurations.from_anywhere(str(tmp_path / "x.py"))
    loss = {"metric": "validation/loss", "mode": "min"}
    other = write_study(tmp_path / "other", [1.0], loss)
    with pytest.raises(UsageError, match=r"has the objective validation/loss .*cannot be compared"):
        plan(study, baseline=other)


@pytest.mark.playbook("replicates-before-adopting")
def test_replicates_have_fresh_seeds_and_the_candidates_config(tmp_path, study):
    asked = plan(study, baseline=ROOT / "configs" / "digits_mlp.py")
    replicates.prepare(asked, tmp_path / "out")
    for name in ("candidate", "baseline"):
        made = specification.load(tmp_path / "out" / f"{name}_study.py")
        base = config_lib.to_dict(made.base_config)
        ours = json.loads(json.dumps(asked.sides[name].config))
        ours["checkpoint"] |= OBJECTIVE
        assert base == ours
        assert (made.num_trials, made.algorithm) == (3, "list")
        configs = [
            specification.trial_config(made.base_config, i, point, made.vary_seed)
            for i, point in enumerate(made.points)
        ]
        # Never the candidate's own: with that one it was the best of its study.
        assert [config.seed for config in configs] == [1, 2, 3]
        assert all(
            config_lib.differences(base, config_lib.to_dict(config))[0].startswith("seed: 0 →")
            and len(config_lib.differences(base, config_lib.to_dict(config))) == 1
            for config in configs
        )
    more = replicates.points(plan(study, count=5), "candidate")
    assert more[:3] == replicates.points(asked, "candidate")


def test_seeds_go_around_at_the_largest(tmp_path):
    study = write_study(tmp_path / "study", [0.1], seed=2**32 - 2)
    seeds = [point["seed"] for point in replicates.points(plan(study), "candidate")]
    assert seeds == [2**32 - 1, 0, 1]


def test_seeds_of_their_own_vary_too_where_all_seeds_vary(tmp_path):
    study = write_study(tmp_path / "study", [0.1])
    path = study / "trials" / "000" / "config.json"
    config = trial_lib.read_json(path)
    config["seeds"]["data"] = 5
    trial_lib.write_json(path, config)
    replicates.prepare(plan(study), tmp_path / "out")
    made = specification.load(tmp_path / "out" / "candidate_study.py")
    config = specification.trial_config(made.base_config, 1, made.points[1], made.vary_seed)
    assert set(config_lib.seeds(config).values()) == {2}
    # Where another one varies alone, it stays.
    replicates.prepare(plan(study, vary="dropout"), tmp_path / "alone")
    made = specification.load(tmp_path / "alone" / "candidate_study.py")
    config = specification.trial_config(made.base_config, 1, made.points[1], made.vary_seed)
    assert config_lib.seeds(config) == {"initialization": 0, "data": 5, "dropout": 2}


def test_a_source_with_quotes_makes_a_study_config_all_the_same(tmp_path):
    study = write_study(tmp_path / 's"""\\"t', [0.1])
    replicates.prepare(plan(study), tmp_path / "out")
    path = tmp_path / "out" / "candidate_study.py"
    assert ast.get_docstring(ast.parse(path.read_text())).startswith("Replicates of trial 0")
    assert specification.load(path).num_trials == 3


@pytest.mark.playbook("trial-variance")
def test_nothing_varies_but_the_notes_where_arithmetic_is_measured(tmp_path, study):
    asked = plan(study, vary="nothing", count=2)
    replicates.prepare(asked, tmp_path / "out")
    made = specification.load(tmp_path / "out" / "candidate_study.py")
    assert [set(point) for point in made.points] == [{"notes"}] * 2
    assert made.base_config.seed == 0
    with pytest.raises(UsageError, match="needs no --baseline"):
        plan(study, baseline=study, vary="nothing")
    with pytest.raises(UsageError, match="unknown --vary 'sed'; did you mean 'seed'"):
        plan(study, vary="sed")


def test_a_workdir_keeps_what_it_is_for(tmp_path, study):
    out = tmp_path / "out"
    replicates.prepare(plan(study, count=3), out)
    first = (out / "candidate_study.py").read_text()
    # The same again changes nothing; more replicates, or a baseline, may join.
    replicates.prepare(plan(study, count=3), out)
    assert (out / "candidate_study.py").read_text() == first
    replicates.prepare(plan(study, count=4, baseline=study / "trials" / "000"), out)
    replicates.prepare(plan(study, count=4), out)
    assert trial_lib.read_json(out / "replicates.json")["baseline"]["chosen"] is None
    for other in (
        {"trial": "0"},
        {"vary": "nothing"},
        {"baseline": study / "trials" / "003"},
    ):
        before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
        with pytest.raises(UsageError, match=r"out holds replicates with .*; use another"):
            replicates.prepare(plan(study, **other), out)
        assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="is not empty and holds no replicates"):
        replicates.prepare(plan(study), tmp_path / "full")


def test_replicates_of_before_a_config_key_existed_go_on_and_serve_as_baseline(tmp_path, study):
    out, after = tmp_path / "out", tmp_path / "next"
    replicates.prepare(plan(study), out)
    replicates.prepare(plan(study, "0", out), after)
    for path in (out, after):
        stored = trial_lib.read_json(path / "replicates.json")
        for name in ("candidate", "baseline"):
            if stored[name]:
                del stored[name]["config"]["seeds"]
        trial_lib.write_json(path / "replicates.json", stored)
    replicates.prepare(plan(study, "0", out), after)
    replicates.prepare(plan(study), out)


def test_validation_examples_are_counted_where_the_metric_may_be_a_count():
    config = config_lib.to_dict(config_lib.complete(digits()))
    assert replicates.validation_examples(config, "validation/error_rate") == 300
    assert replicates.validation_examples(config, "validation/polyak/error_rate") == 300
    assert replicates.validation_examples(config, "validation/loss") is None


def test_counting_validation_examples_takes_no_device():
    # A launcher that held the accelerator would leave none to its workers.
    code = (
        "from playbook_jax.procedures import configurations, replicates; from tests import small;"
        "from playbook_jax import config; import jax;"
        "values = config.to_dict(config.complete(small.digits()));"
        "print(replicates.validation_examples(values, 'validation/error_rate'));"
        "print(jax._src.xla_bridge.backends_are_initialized())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "300\nFalse\n", result.stderr


def run(*arguments):
    command = [sys.executable, "scripts/replicate.py", "--workers=1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=one_device())


def contents(directory):
    """What replicates have left, by path, with the time of the last change."""
    return {p: p.stat().st_mtime_ns for p in Path(directory).glob("*/trials/*/status.json")}


@pytest.mark.playbook("replicates-before-adopting", "trial-variance-once", "adopt-if-better")
def test_replicates_run_go_on_and_are_weighed(tmp_path, study):
    out = tmp_path / "out"
    asked = [f"--study={study}", f"--baseline={study / 'trials' / '000'}", f"--workdir={out}"]
    first = run(*asked, "--replicates=2")
    assert first.returncode == 0, first.stderr
    assert "warning" not in first.stderr
    assert "CANNOT TELL YET: so few replicates cannot tell, whatever they are. About 1 more" in (
        " ".join(first.stdout.split())
    )
    found = json.loads((out / "adoption.json").read_text())
    assert found["verdict"] == "cannot tell yet"
    for name, rate in (("candidate", 0.1), ("baseline", 0.05)):
        directories = sorted((out / name / "trials").iterdir())
        configs = [trial_lib.load(directory).config for directory in directories]
        assert [config["seed"] for config in configs] == [1, 2]
        assert {config["hparams"]["learning_rate"] for config in configs} == {rate}
        objectives = [trial_lib.load(directory).status["objective"] for directory in directories]
        assert found[name]["objectives"] == objectives
        assert found[name]["validation_examples"] == 300
    provenance = trial_lib.load(out / "candidate" / "trials" / "000").provenance
    assert provenance["command"][0] == "scripts/replicate.py"

    before = contents(out)
    assert len(before) == 4
    again = run(*asked, "--replicates=2")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert contents(out) == before
    more = run(*asked, "--replicates=3")
    assert more.returncode == 0, more.stderr
    assert len(json.loads((out / "adoption.json").read_text())["candidate"]["objectives"]) == 3
    assert before.items() <= contents(out).items()
    fewer = run(*asked, "--replicates=2")
    assert fewer.returncode == 2
    assert "num_trials: 3 → 2" in fewer.stderr

    # The next candidate meets these replicates as its baseline, which are not run again.
    chained = run(f"--study={study}", "--trial=3", f"--baseline={out}", "--replicates=2",
                  f"--workdir={tmp_path / 'next'}")  # fmt: skip
    assert chained.returncode == 0, chained.stderr
    found = json.loads((tmp_path / "next" / "adoption.json").read_text())
    assert len(found["baseline"]["objectives"]) == 3
    assert not (tmp_path / "next" / "baseline").exists()
    # And all can be weighed again without a run.
    weighed = run("--compare", f"--workdir={tmp_path / 'next'}")
    assert weighed.returncode == 0
    assert weighed.stdout in chained.stdout
    # The study knows where they are, for its report.
    noted = json.loads((study / "replicated.json").read_text())
    assert [(study / path).resolve() for path in noted["workdirs"]] == [out, tmp_path / "next"]


@pytest.mark.playbook("trial-variance")
def test_repeats_with_the_same_seed_are_bit_identical_on_a_cpu(tmp_path, study):
    out = tmp_path / "out"
    result = run(f"--study={study}", "--vary=nothing", "--replicates=2", f"--workdir={out}")
    assert result.returncode == 0, result.stderr
    assert "All 2 repeats with the same seed are bit-identical" in result.stdout
    assert json.loads((out / "adoption.json").read_text())["repeats"]["distinct"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir=DIR is missing"),
        (["--workdir=DIR"], "--study=DIR is missing"),
        (["--workdir=DIR", "--study=STUDY", "--replicates=1"], "one run shows no variance"),
        (["--workdir=DIR", "--study=STUDY", "--worth=-1"], "--worth=-1 must not be negative"),
        (["--workdir=DIR", "--study=STUDY", "--trial=7"], "has the trials 0 to 3, or 'best'"),
        (["--workdir=DIR", "--study=DIR"], "holds no study"),
        (["--workdir=DIR", "--compare"], "holds no replicates"),
        (["--workdir=DIR", "--study=STUDY", "--baseline=BAD"], "unknown optimizer 'adma'"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, study, arguments, message):
    bad = write_study(tmp_path / "bad", [0.1], optimizer="adma") / "trials" / "000"
    names = {"DIR": tmp_path / "out", "STUDY": study, "BAD": bad}
    for name, path in names.items():
        arguments = [a.replace(f"={name}", f"={path}") for a in arguments]
    result = run(*arguments)
    assert result.returncode == 2, result.stdout
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.playbook("trial-variance")
@pytest.mark.parametrize("vary", ["initialization", "data", "dropout"])
def test_one_seed_varies_alone(tmp_path, vary):
    study = write_study(tmp_path / "study", [0.1], seed=7)
    replicates.prepare(plan(study, vary=vary), tmp_path / "out")
    made = specification.load(tmp_path / "out" / "candidate_study.py")
    configs = [
        specification.trial_config(made.base_config, i, point, made.vary_seed)
        for i, point in enumerate(made.points)
    ]
    # From its own, which follows from `seed`; the others stay.
    own = dict.fromkeys(("initialization", "data", "dropout"), 7)
    assert [config_lib.seeds(config) for config in configs] == [
        own | {vary: seed} for seed in (8, 9, 10)
    ]
    with pytest.raises(UsageError, match=f"out holds replicates with --vary={vary}"):
        replicates.prepare(plan(study), tmp_path / "out")
    with pytest.raises(UsageError, match=f"has replicates with --vary={vary}, not seed"):
        plan(study, baseline=tmp_path / "out")
