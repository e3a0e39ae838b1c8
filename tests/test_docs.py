"""Every command in README and docs runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from lab.compose.profiles import CONF
from lab.sweep.index import SweepIndex
from tests.conftest import ROOT
from tests.runs import config_of, jsonl

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = ("train.steps=2", "train.val_interval_steps=0")
SMALL = ("train.batch_size=1", "train.grad_accumulation_steps=1", "train.max_seq_length=128")
PRINT_ONLY = ("--cfg", "job", "--resolve")
WANDB = str(Path(sys.executable).with_name("wandb"))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# --- Every command in a bash block --------------------------------------------------------------


def commands_of(text: str) -> list[str]:
    """The commands of a page, one a line, without their comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def marks_of(command: str) -> list[pytest.MarkDecorator]:
    """Runs that only the guides have are slow: each starts processes for a combination of settings
    that the tests of its rooms run one by one. The default tests run those of README, which are
    one of each form, and compose all (below). What is measured in copies is measured in default by
    tests/reproduce/test_measure.py."""
    is_run = "--measure" in command or (command in RUNS and "--cfg" not in command)
    is_slow = is_run and command not in commands_of(text_of(ROOT / "README.md"))
    return [pytest.mark.pretrained] * ("model=local" in command) + [pytest.mark.slow] * is_slow


ALL = list(dict.fromkeys(c for page in DOCS for c in commands_of(text_of(page))))
RUNS = [command for command in ALL if command.startswith("python train.py ")]
COMMANDS = [pytest.param(command, id=command, marks=marks_of(command)) for command in ALL]


def call(*command: object, cwd: Path) -> str:
    """Run a program, which must succeed; its standard output, then its standard error."""
    done = subprocess.run(
        list(map(str, command)), check=False, cwd=cwd, env=environment(), timeout=120,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return kept | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of one documented run, with W&B's files."""
    workdir = tmp_path_factory.mktemp("finished")
    call(sys.executable, ROOT / "train.py", *SHORT, cwd=workdir)
    return workdir


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is long enough to predict others from."""
    workdir = tmp_path_factory.mktemp("recorded")
    overrides = ("tracker=none", "train.val_interval_steps=0", "train.steps=24", *SMALL)
    call(sys.executable, ROOT / "train.py", *overrides, "hydra.run.dir=run", cwd=workdir)
    return workdir / "run"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose memory grew."""
    workdir = tmp_path_factory.mktemp("grown")
    overrides = ("tracker=none", "reload=none", "fault=module_list", "train.steps=16", *SMALL)
    call(sys.executable, ROOT / "train.py", *overrides, "hydra.run.dir=run", cwd=workdir)
    return workdir / "run"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was ended by Ctrl-C."""
    workdir = tmp_path_factory.mktemp("interrupted")
    overrides = ("tracker=none", "train.val_interval_steps=0", "train.steps=40", *SMALL)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides, "hydra.run.dir=run"],
        cwd=workdir, env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step "))
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait() == 130
    return workdir / "run"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of one sweep of two jobs."""
    workdir = tmp_path_factory.mktemp("swept")
    quiet = ("-m", "seed=1,2", "tracker=none", *SHORT)
    call(sys.executable, ROOT / "train.py", *quiet, cwd=workdir)
    return workdir


Fixture = Callable[[str], Path]


def run_or_sweep(word: str, fixture: Fixture) -> Path:
    """The folder that a page calls RUN or SWEEP, or a job's folder in it (``SWEEP/1``)."""
    name, _, job = word.partition("/")
    assert name in ("RUN", "SWEEP")
    pattern = "outputs/runs/*/*" if name == "RUN" else "outputs/sweeps/*/*"
    [folder] = fixture("finished" if name == "RUN" else "swept").glob(pattern)
    return folder / job


def run_train(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    """Run ``python train.py`` with 2 steps; only compose where it would need a network."""
    words = [_with_files(word, workdir, fixture) for word in arguments]
    given = dict(word.partition("=")[::2] for word in words)
    train = (sys.executable, ROOT / "train.py")
    if "--cfg" in given:
        assert yaml.safe_load(call(*train, *words, cwd=workdir))["train"]["steps"] > 0
        return
    if _needs_network(given):
        words = [word.partition(",")[0] for word in words if word != "-m"]
        assert config_of(*words).train.steps > 0
        assert yaml.safe_load(call(*train, *words, *PRINT_ONLY, cwd=workdir))["train"]["steps"] > 0
        return
    if "-m" in given:
        words = [shorter for word in words if (shorter := _shorter_list(word))]
        words += [w for w in TWO_OF.get(given.get("experiment", ""), ()) if _key(w) not in given]
    quiet = () if "tracker" in given else ("tracker=none",)
    # mlx-lm's step is compiled for a minute on a CPU that has not seen it before.
    plain = ("train.compile=false",) if "mlx_lm" in given.get("trainer", "") else ()
    small = SMALL if "model.path" in given else ()
    call(*train, *words, *SHORT, *quiet, *plain, *small, cwd=workdir)
    summaries = [json.loads(text_of(path)) for path in (workdir / "outputs").rglob("summary.json")]
    jobs = _jobs_in(workdir) if "-m" in given else 1
    assert [(s["state"], s["steps"]) for s in summaries] == [("completed", 2)] * jobs


TWO_OF = {
    "interval_sweep": ["reload.interval_steps=0,1"],
    "remedies": ["fault=none,streams", "reload=none"],
    "threshold_sweep": ["reload.memory_threshold_gb=0,1"],
}


def _key(word: str) -> str:
    return word.partition("=")[0]


def _shorter_list(word: str) -> str:
    """The override for a sweep of two values or trials, here instead of on a cluster."""
    key, _, value = word.partition("=")
    if key == "hydra/launcher":
        return word.replace("slurm", "local")
    if key == "hydra.launcher.partition":
        return ""
    if key == "hydra.sweeper.n_trials":
        return f"{key}=2"
    return word if "(" in value else ",".join(word.split(",")[:2])


def _jobs_in(workdir: Path) -> int:
    [index] = (SweepIndex.read(p.parent) for p in workdir.glob("outputs/sweeps/*/*/sweep.json"))
    return len(index.jobs) or 2


def _with_files(word: str, workdir: Path, fixture: Fixture) -> str:
    """The override, once the model or file that it names exists."""
    key, _, value = word.partition("=")
    if key == "model.path":
        assert f"MODEL := {value}\n" in text_of(ROOT / "Makefile")
        return f"{key}={fixture('pretrained')}"
    if key == "data.path":
        assert value.endswith(".jsonl")
        samples = ({"prompt": f"{i} + 1 = ", "completion": str(i + 1)} for i in range(40))
        (workdir / value).write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return word


def _needs_network(given: dict[str, str]) -> bool:
    model = CONF / "model" / f"{given.get('model', 'tiny')}.yaml"
    online = given.get("tracker") == "wandb_online" or given.get("data") == "hub"
    return online or "hub_id" in yaml.safe_load(text_of(model))


def run_module(arguments: Sequence[str], workdir: Path, _: Fixture) -> None:
    module, *rest = arguments
    if module == "benchmarks":
        call(sys.executable, "-m", module, *rest, "--list", cwd=workdir)  # names are checked
        return
    if module == "benchmarks.remedies":
        assert rest == ["SWEEP"]
        assert "SWEEP" in call(sys.executable, "-m", module, "--help", cwd=workdir).upper()
        return
    assert (module, rest) == ("lab.machine", [])
    assert json.loads(call(sys.executable, "-m", module, cwd=workdir))["cores"] > 0


def run_make(arguments: Sequence[str], workdir: Path, _: Fixture) -> None:
    assert arguments
    told = call("make", "-n", "-C", ROOT, *arguments, cwd=workdir)  # CI makes them for real
    assert "Nothing to be done" not in told


def run_activate(arguments: Sequence[str], workdir: Path, _: Fixture) -> None:
    [script] = arguments
    assert f"VENV := {script.removesuffix('/bin/activate')}\n" in text_of(ROOT / "Makefile")


COMPLETE = """
tab() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=2
    hydra_bash_completion
    echo "${COMPREPLY[@]}"
}
complete -p python
tab "python train.py debug=pr"
tab "python train.py reload.int"
"""


def run_eval(arguments: Sequence[str], workdir: Path, _: Fixture) -> None:
    """In a bash whose ``python`` is that of the installation, as where it is activated."""
    beside = (str(Path(sys.executable).parent), os.environ["PATH"])
    told = subprocess.run(
        ["bash", "-c", f'eval "{arguments[0]}"\n{COMPLETE}'],
        check=True, cwd=ROOT, capture_output=True, text=True, timeout=60,
        env=environment() | {"PATH": os.pathsep.join(beside)},
    ).stdout.splitlines()  # fmt: skip
    assert told[0].endswith("-F hydra_bash_completion python")
    assert told[1:] == ["debug=profile", "reload.interval_steps="]


def run_leet(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    [folder] = arguments
    assert "wandb leet [PATH]" in call(WANDB, "leet", "--help", cwd=workdir)
    inspect = (WANDB, "leet", "inspect", "--summary", "--json", folder)
    assert json.loads(call(*inspect, cwd=fixture("finished")))["config"]["train"]["steps"] == 2


def run_sync(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    [pattern] = arguments
    folder = fixture("finished")
    found = [path.relative_to(folder) for path in folder.glob(pattern)]
    assert "Would sync 1 run" in call(WANDB, "sync", "--dry-run", *found, cwd=folder)


def run_resume(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    if arguments == ["SWEEP"]:
        sweep = run_or_sweep("SWEEP", fixture)
        shutil.rmtree(sweep / "1")
        call(sys.executable, "-m", "lab.cli", "resume", sweep, cwd=sweep.parents[3])
        assert json.loads(text_of(sweep / "1" / "summary.json"))["state"] == "completed"
        return
    assert arguments == ["RUN"]
    folder = fixture("interrupted")
    before = len(jsonl(folder / "metrics.jsonl"))
    call(sys.executable, "-m", "lab.cli", "resume", folder, cwd=workdir)
    assert before < 40 == len(jsonl(folder / "metrics.jsonl"))


def run_reproduce(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    [word] = arguments
    run = run_or_sweep(word, fixture)
    told = call(sys.executable, "-m", "lab.cli", "reproduce", run, cwd=workdir)
    assert "identical: 2 steps, loss, learning rate, tokens and weights, bit for bit" in told


def run_ls(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    told = call(sys.executable, "-m", "lab.cli", "ls", *arguments, cwd=fixture("finished"))
    assert "completed 2/2" in " ".join(told.split())


def run_clean(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    told = call(sys.executable, "-m", "lab.cli", "clean", *arguments, cwd=fixture("finished"))
    assert " MB " in told


def run_export(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    word, file = arguments
    run = run_or_sweep(word, fixture)
    assert "config.yaml" in call(sys.executable, "-m", "lab.cli", "export", run, file, cwd=workdir)


def run_doctor(arguments: Sequence[str], workdir: Path, _: Fixture) -> None:
    assert "device" in call(sys.executable, "-m", "lab.cli", "doctor", *arguments, cwd=workdir)


def run_plot(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    assert arguments == ["RUN"]
    [picture] = fixture("finished").glob("outputs/runs/*/*/memory.png")
    picture.unlink()
    call(sys.executable, "-m", "lab.cli", "plot", picture.parent, cwd=workdir)
    assert picture.exists()


def run_explain(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    if measures := "--measure" in arguments:
        folder = fixture("grown")
    else:
        folder = run_or_sweep(arguments[0], fixture)
    told = call(sys.executable, "-m", "lab.cli", "explain", folder, *arguments[1:], cwd=workdir)
    if measures:
        assert "remedy reload_process" in told
        return
    assert json.loads(told)["version"] == 1 if "--json" in arguments else "short" in told


def run_data(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    _with_files(f"data.path={arguments[0]}", workdir, fixture)
    words = [
        str(fixture("pretrained")) if word.startswith("models/") else word for word in arguments
    ]
    told = call(sys.executable, "-m", "lab.cli", "data", *words, cwd=workdir)
    assert "train.jsonl: 40 samples (completion)" in told


def run_evaluate(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    word, *rest = arguments
    folder = run_or_sweep(word, fixture)
    if "--data" in rest:
        (workdir / rest[-1]).write_text('{"text": "a text"}\n')
    told = call(sys.executable, "-m", "lab.cli", "evaluate", folder, *rest, cwd=workdir)
    assert "weights of step 2" in told


def run_generate(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    word, *rest = arguments
    folder = run_or_sweep(word, fixture)
    assert call(sys.executable, "-m", "lab.cli", "generate", folder, *rest, cwd=workdir)


def run_fuse(arguments: Sequence[str], workdir: Path, _: Fixture) -> None:
    assert arguments[0] == "RUN"  # tests/train/test_generate_fuse.py fuses one
    assert "usage: lab fuse" in call(sys.executable, "-m", "lab.cli", "fuse", "--help", cwd=workdir)


def run_compare(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    folder = run_or_sweep(arguments[0], fixture)
    call(sys.executable, "-m", "lab.cli", "compare", folder, *arguments[1:], cwd=workdir)
    table = "compare.csv" if "--csv" in arguments else "compare.parquet"
    assert all((folder / name).is_file() for name in ("compare.html", "compare.png", table))


def run_whatif(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    name, *words = arguments
    assert name in ("RUN", "SWEEP/0")
    folder = fixture("recorded")
    told = call(sys.executable, "-m", "lab.cli", "whatif", folder, *words, cwd=workdir)
    assert "recommended" in told
    assert (folder / "whatif.png").is_file()


def run_lab_sync(arguments: Sequence[str], workdir: Path, fixture: Fixture) -> None:
    [word] = arguments
    folder = run_or_sweep(word, fixture)
    told = call(sys.executable, "-m", "lab.cli", "sync", folder, cwd=folder.parents[3])
    assert told.count("outputs/wandb/offline-run-") == {"RUN": 1, "SWEEP": 2}[word]


def run_wandb_sweep(arguments: Sequence[str], workdir: Path, _: Fixture) -> None:
    [file] = arguments  # tests/sweep/test_sweepers.py runs what W&B's agent makes of it
    assert yaml.safe_load(text_of(ROOT / file))["program"] == "train.py"
    assert "[OPTIONS] CONFIG" in call(WANDB, "sweep", "--help", cwd=workdir)


def run_wandb_agent(arguments: Sequence[str], workdir: Path, _: Fixture) -> None:
    assert arguments == ["ENTITY/PROJECT/SWEEP"]
    assert "[OPTIONS] SWEEP_ID" in call(WANDB, "agent", "--help", cwd=workdir)


RUNNERS: dict[str, Callable[[Sequence[str], Path, Fixture], None]] = {
    "python train.py": run_train,
    "python -m": run_module,
    "make": run_make,
    ".": run_activate,
    "eval": run_eval,
    "wandb leet": run_leet,
    "wandb sync": run_sync,
    "wandb sweep": run_wandb_sweep,
    "wandb agent": run_wandb_agent,
    "lab ls": run_ls,
    "lab clean": run_clean,
    "lab resume": run_resume,
    "lab reproduce": run_reproduce,
    "lab data": run_data,
    "lab evaluate": run_evaluate,
    "lab generate": run_generate,
    "lab fuse": run_fuse,
    "lab compare": run_compare,
    "lab explain": run_explain,
    "lab plot": run_plot,
    "lab export": run_export,
    "lab doctor": run_doctor,
    "lab whatif": run_whatif,
    "lab sync": run_lab_sync,
}


def runner_of(command: str) -> tuple[Callable[[Sequence[str], Path, Fixture], None], list[str]]:
    words = shlex.split(command)
    for length in (2, 1):
        found = RUNNERS.get(" ".join(words[:length]))
        if found is not None:
            return found, words[length:]
    pytest.fail(f"tests/test_docs.py does not know how to run: {command}")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(
    command: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner, arguments = runner_of(command)
    runner(arguments, tmp_path, request.getfixturevalue)


@pytest.mark.parametrize("command", [pytest.param(c, id=c) for c in RUNS if "--cfg" not in c])
def test_a_run_or_the_first_job_of_a_sweep_composes(
    command: str, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [word for word in runner_of(command)[1] if word != "-m" and "(" not in word]
    first = [word if "[" in word else word.partition(",")[0] for word in given]
    words = [_with_files(word, tmp_path, lambda _: model_folder) for word in first]
    assert config_of(*words).train.steps > 0


def test_commands_are_found_and_unknown_ones_refused() -> None:
    page = "```bash\nmake a  # b\n\npython \\\n  x\n```\n```\nnot one\n```\n```bash\nlab y\n```\n"
    assert commands_of(page) == ["make a", "python x", "lab y"]
    assert len(COMMANDS) > 10
    for command in ("lab fly RUN", "python other.py", "curl x", "wandb login"):
        with pytest.raises(pytest.fail.Exception, match="does not know"):
            runner_of(command)
