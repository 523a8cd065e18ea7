"""The command line: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import secateur
from secateur.cli.main import main

COMMANDS = (
    "run",
    "resume",
    "compare",
    "sweep",
    "prune",
    "recover",
    "inspect",
    "measure",
    "export",
    "report",
    "recipes",
    "criteria",
    "models",
    "datasets",
    "runtimes",
)
SMALL = [
    *("--set", "data.limit=96", "--set", "steps.measure.runtimes=[]", "--epochs", "1", "--ratio", "0.5"),
    "--quiet",
]


class Said:
    """What a command gave back."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def secateur_cli(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Said(stopped.value.code, said.out, said.err)

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "first"
    with pytest.raises(SystemExit) as stopped:
        main(["run", "transfer-channel", "--out", str(out), *SMALL])
    assert stopped.value.code == 0
    return out


def test_help_lists_every_command_and_each_has_examples(secateur_cli) -> None:  # type: ignore[no-untyped-def]
    said = secateur_cli("--help")
    assert said.code == 0
    for command in COMMANDS:
        assert command in said.out
        own = secateur_cli(command, "--help")
        assert own.code == 0
        assert f"secateur {command}" in own.out.split("Example")[-1]


def test_version_and_module_are_the_same_program() -> None:
    said = subprocess.run([sys.executable, "-m", "secateur", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"secateur {secateur.__version__}\n"


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom secateur.cli.main import main\n"
        "try: main(['run', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(int('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_run_prints_steps_and_the_result_plainly(tmp_path: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    said = secateur_cli("run", "transfer-channel", "--out", tmp_path / "r", *SMALL, "--model", "resnet_digits")
    assert said.code == 0
    assert said.err == ""
    assert "\x1b" not in said.out, "colours have no place in a pipe"
    assert "[3/7] prune" in said.out
    assert "[7/7] report" in said.out
    assert "Test top-1" in said.out
    assert "report.html, artifact, model.onnx" in said.out
    recipe = (tmp_path / "r" / "recipe.yaml").read_text()
    assert "ratio: 0.5" in recipe
    assert recipe.count("epochs: 1\n") == 3


def test_resume_of_a_finished_run(finished: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    said = secateur_cli("resume", finished)
    assert said.code == 0
    assert said.out.count("done before the stop") == 7


def test_prune_saves_an_artifact_that_loads(tmp_path: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    said = secateur_cli("prune", "resnet_digits", "--ratio", "0.5", "--out", tmp_path / "a", "--ignore", "layer3")
    assert said.code == 0
    assert "Verified" in said.out
    record = json.loads((tmp_path / "a" / "plan.json").read_text())
    assert record["params"][1] < record["params"][0]
    model = secateur.load(tmp_path / "a", model=secateur.models.create("resnet_digits")).model
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["layer1.0.conv1.weight"][0] == 8
    assert shapes["layer3.0.conv1.weight"][0] == 64, "ignored"


@pytest.mark.parametrize("verb", [("prune", "--ratio", "0.5"), ("sparsify", "--ratio", "0.5")])
def test_other_commands_open_what_prune_and_sparsify_saved(verb, tmp_path: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    """Without the network's code, and without being asked to save a graph."""
    folder = tmp_path / "small"
    command, *options = verb
    assert secateur_cli(command, "lenet5", *options, "--out", folder).code == 0
    inspected = secateur_cli("inspect", folder)
    assert inspected.code == 0, inspected.err
    exported = secateur_cli("export", folder, tmp_path / "small.onnx")
    assert exported.code == 0, exported.err
    assert (tmp_path / "small.onnx").is_file()


def test_prune_by_a_ratio_per_layer(tmp_path: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    shares = ("--ratio", "fc1=0.5", "--ratio", "fc2=0.25")
    assert secateur_cli("prune", "lenet300", *shares, "--out", tmp_path / "a").code == 0
    model = secateur.load(tmp_path / "a", model=secateur.models.create("lenet300")).model
    assert [tensor.shape[0] for name, tensor in model.state_dict().items() if "weight" in name] == [150, 75, 10]


def test_prune_to_a_target(tmp_path: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    said = secateur_cli("prune", "lenet300", "--params", "50%", "--scope", "global", "--out", tmp_path / "a")
    assert said.code == 0
    before, after = json.loads((tmp_path / "a" / "plan.json").read_text())["params"]
    assert after == pytest.approx(0.5 * before, rel=0.01)


def test_prune_to_an_energy_and_to_a_file_size(tmp_path: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    assert secateur_cli("prune", "lenet300", "--energy", "50%", "--out", tmp_path / "a").code == 0
    assert json.loads((tmp_path / "a" / "plan.json").read_text())["plan"]["provenance"]["target"] == {"energy": 0.5}
    assert secateur_cli("prune", "lenet300", "--size", "300kB", "--out", tmp_path / "b").code == 0
    assert (tmp_path / "b" / "model.safetensors").stat().st_size == pytest.approx(300_000, rel=0.01)


def test_prune_by_a_criterion_that_needs_images(tmp_path: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    options = ("lenet5", "--ratio", "0.5", "--criterion", "taylor", "--out", tmp_path / "a")
    said = secateur_cli("prune", *options)
    assert said.code == 2
    assert "needs calibration data" in said.err
    assert "--data" in said.err
    said = secateur_cli("prune", *options, "--input-shape", "1,28,28", "--data", "digits", "--images", "20")
    assert said.code == 0, said.err
    assert '"taylor"' in (tmp_path / "a" / "plan.json").read_text()


def test_criteria_say_what_they_need(secateur_cli) -> None:  # type: ignore[no-untyped-def]
    lines = {line.split()[0]: line for line in secateur_cli("criteria").out.splitlines()}
    assert "inputs, labels" in lines["taylor"]
    assert "arXiv:1607.03250" in lines["apoz"]
    assert "inputs" not in lines["l1"]


def test_inspect_names_groups_and_what_is_pinned(secateur_cli) -> None:  # type: ignore[no-untyped-def]
    said = secateur_cli("inspect", "lenet5")
    assert said.code == 0
    assert "431,080 parameters" in said.out
    assert "conv1" in said.out
    assert "Pinned (never cut)" in said.out


def test_measure_compares_the_networks_of_a_run(finished: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    options = ("--batch", "1", "--rounds", "3", "--seconds", "0.5", "--processes", "0", "--runtimes", "pytorch")
    said = secateur_cli("measure", finished, *options, "--images", "40")
    assert said.code == 0
    assert "over dense" in said.out
    assert "172,218" in said.out
    assert "Top-1 accuracy" in said.out  # a run knows its data
    assert "backward" in said.out
    names = secateur_cli("measure", "lenet5", "lenet300", *options, "--no-backward")
    assert names.code == 0
    assert "backward" not in names.out
    assert "Top-1" not in names.out


def test_measure_goes_through_every_runtime(secateur_cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    options = ("--batch", "1", "--rounds", "3", "--seconds", "0.5", "--processes", "0", "--no-backward")
    options += ("--runtimes", "onnxruntime", "--runtimes", "pytorch", "--data", "digits", "--images", "30")
    said = secateur_cli("measure", "lenet300", *options)
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    scored = {line[0]: line[-4:] for line in lines if line[1:2] == ["lenet300"] and line[-1:] == ["30"]}
    assert list(scored) == ["pytorch", "onnxruntime"]
    assert scored["pytorch"] == scored["onnxruntime"]  # accuracy, %, loss, images


def test_measure_runs_files(finished: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    options = ("--batch", "1", "--rounds", "3", "--seconds", "0.5", "--input-shape", "1,8,8", "--processes", "0")
    said = secateur_cli("measure", finished / "model.onnx", *options, "--runtimes", "pytorch")
    assert said.code == 0
    assert "onnxruntime" in said.out
    assert secateur_cli("measure", finished / "model.onnx").code == 2


@pytest.mark.parametrize("dynamic", ["sizes", "batch"])
def test_what_an_exported_file_leaves_free(tmp_path: Path, dynamic: str, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "small.onnx"
    said = secateur_cli("export", "torchvision:squeezenet1_1", file, "--input-shape", "3,64,64", "--dynamic", dynamic)
    assert said.code == 0
    (given,) = onnx.load(file, load_external_data=False).graph.input
    free = [bool(size.dim_param) for size in given.type.tensor_type.shape.dim]
    assert free == [True, False, dynamic == "sizes", dynamic == "sizes"]


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_export(tmp_path: Path, finished: Path, ending: str, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / f"small.{ending}"
    said = secateur_cli("export", finished, file)
    assert said.code == 0
    assert "100 % same labels" in said.out
    assert "64 test images" in said.out
    assert file.stat().st_size > 10_000


def test_export_of_int8_is_calibrated_and_scored_on_the_run_s_own_images(
    tmp_path: Path, finished: Path, secateur_cli
) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "small.onnx"
    said = secateur_cli("export", finished, file, "--int8", "--images", "50")
    assert said.code == 0
    assert "onnx int8 (calibrated on" in said.out
    assert "signal-to-noise ratio" in said.out
    assert "on 50 test images: top-1 accuracy" in said.out
    assert file.is_file()


def test_runtimes_are_listed_with_how_to_get_the_missing_ones(monkeypatch: pytest.MonkeyPatch, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    from secateur.runtimes import packages

    monkeypatch.setattr(packages, "_found", lambda name: name == "torch")
    said = secateur_cli("runtimes")
    assert said.code == 0
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert "pip install torch==" in lines["litert"]
    assert '"secateur[litert]"' in lines["litert"]
    assert "pip install" not in lines["pytorch"]


def test_report_is_written_again(tmp_path: Path, finished: Path, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    (finished / "report.html").unlink()
    said = secateur_cli("report", finished, "--picture", tmp_path / "result.svg")
    assert said.code == 0
    assert (finished / "report.html").stat().st_size > 10_000
    assert "<svg" in (tmp_path / "result.svg").read_text()


@pytest.mark.parametrize(
    ("command", "word"),
    [("recipes", "transfer-channel"), ("criteria", "l2"), ("models", "resnet56"), ("datasets", "digits")],
)
def test_lists(command: str, word: str, secateur_cli) -> None:  # type: ignore[no-untyped-def]
    assert word in secateur_cli(command).out
    narrowed = secateur_cli(command, word)
    assert narrowed.code == 0
    assert word in narrowed.out
    assert secateur_cli(command, "no-such-thing").code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "transfer-chanel"], "transfer-channel"),
        (["run", "missing.yaml"], "missing.yaml"),
        (["run", "transfer-channel", "--ratio", "1.5"], "--ratio"),
        (["run", "transfer-channel", "--ratio", "much"], "'--ratio'"),
        (["run", "transfer-channel", "--set", "steps.prune.scope=globl"], "Did you mean global?"),
        (["run", "transfer-channel", "--model", "resnet65"], "resnet56"),
        (["run", "transfer-channel", "--data", "nowhere/at/all"], "nowhere"),
        (["run", "transfer-channel", "--weights", "none.safetensors"], "none.safetensors"),
        (["sweep"], "RECIPE"),
        (["rnu"], "run"),
        (["run", "transfer-channel", "--wieghts", "x"], "--weights"),
        (["resume", "nowhere"], "no run in"),
        (["prune", "resnet20", "--out", "x"], "--ratio, --std, --params, --macs"),
        (["prune", "resnet20", "--ratio", "0.1", "--macs", "0.5", "--out", "x"], "one of"),
        (["prune", "resnet20", "--macs", "lots", "--out", "x"], "lots"),
        (["prune", "resnet20", "--ratio", "1", "--out", "x"], "1"),
        (["prune", "resnet20", "--ratio", "half", "--out", "x"], "--ratio wants one number, or LAYER=NUMBER"),
        (["prune", "resnet20", "--ratio", "0.5", "--ratio", "layer1=0.2", "--out", "x"], "LAYER=NUMBER for every"),
        (["prune", "resnet20", "--ratio", "layer9=0.5", "--out", "x"], "named 'layer9'"),
        (["prune", "resnet20", "--ratio", "layer1=0.5", "--macs", "0.5", "--out", "x"], "got --ratio and --macs"),
        (["prune", "resnet20", "--ratio", "layer1=0.5", "--scope", "global", "--out", "x"], "per layer is local"),
        (["prune", "resnet20", "--ratio", "0.1", "--criterion", "l3", "--out", "x"], "l2"),
        (["prune", "resnet20", "--ratio", "0.1", "--scope", "glob", "--out", "x"], "global"),
        (["prune", "resnet20", "--ratio", "0.1", "--backend", "grph", "--out", "x"], "graph"),
        (["prune", "resnet20", "--ratio", "0.1", "--only", "layer9", "--out", "x"], "layer"),
        (["prune", "resnet20", "--ratio", "0.1", "--input-shape", "3,a", "--out", "x"], "--input-shape"),
        (["prune", "resnet20", "--ratio", "0.1", "--input-shape", "1,28,28", "--out", "x"], "28"),
        (["inspect", "."], "plan.json"),
        (["measure"], "A"),
        (["measure", "lenet5", "lenet5"], "twice"),
        (["measure", "lenet5", "resnet20"], "--input-shape"),
        (["measure", "lenet5", "--runtimes", "pytoch"], "Did you mean 'pytorch'"),
        (["measure", "lenet5", "--int8"], "--data"),
        (["measure", "gone.onnx", "--input-shape", "1,8,8"], "gone.onnx"),
        (["export", "lenet5", "x.pt3"], "pt2"),
        (["export", "lenet5", "x.onnx", "--int8"], "--calibration"),
        (["export", "lenet5", "x.onnx", "--int8", "--calibration", "cifar10:nowhere"], "nowhere"),
        (["report", "nowhere"], "no run in"),
    ],
)
def test_bad_input_is_status_2_and_one_clear_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secateur_cli
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    said = secateur_cli(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert words in said.err
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_no_command_at_all_shows_the_help(secateur_cli) -> None:  # type: ignore[no-untyped-def]
    said = secateur_cli()
    assert said.code == 2
    assert "Commands" in said.out
    assert said.err == ""


def test_debug_shows_the_traceback(secateur_cli) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(secateur.core.errors.UnknownNameError):
        main(["run", "transfer-chanel", "--debug"])


def test_markup_in_names_is_printed_as_it_is(secateur_cli) -> None:  # type: ignore[no-untyped-def]
    assert "[bold]x[/bold]" in secateur_cli("run", "[bold]x[/bold]").err


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_ends_with_130(tmp_path: Path) -> None:
    out = tmp_path / "my run"
    command = [sys.executable, "-m", "secateur", "run", "transfer-channel", "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--set", "steps.adapt.epochs=500"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Under nohup or as a background job the signal is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (out / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"secateur resume '{out}'" in err
    assert "Traceback" not in err


def test_a_closed_pipe_ends_quietly() -> None:
    said = subprocess.run(
        f"{sys.executable} -m secateur models | head -n 1", shell=True, capture_output=True, text=True, check=False
    )
    assert said.stderr == ""
    assert "Network" in said.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_what_takes_long_says_so_on_a_terminal_and_only_there() -> None:
    import pty

    head = "from secateur.core.progress import working\n"
    code = head + "with working('Cutting', after_s=0) as now:\n    now('Repairing')\nprint('out')"
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (plain.stdout, plain.stderr) == ("out\n", "")
    ours, theirs = pty.openpty()
    shown = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    seen = os.read(ours, 10_000).decode()
    os.close(ours)
    assert shown.stdout == b"out\n"
    assert "Repairing" in seen
