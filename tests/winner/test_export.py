import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from digitrec.cli import main as cli
from digitrec.errors import InputError
from digitrec.winner import export
from digitrec.winner.classifier import Classifier
from digitrec.winner.export import export_onnx
from tests.saved_model import (
    SIZES,
    make_average,
    make_classifier,
    make_images,
    make_parameters,
    make_scaler,
    write_average,
    write_model,
)

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'digitrec[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each test name its files as a user would: by a short relative path."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "study" / "best")


@pytest.mark.parametrize("rows", [1, 20])
def test_the_exported_model_gives_what_the_classifier_gives(
    rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", "study", "--onnx", "model.onnx"]) == 0
    said = capsys.readouterr().out
    assert said == "model    model.onnx; onnxruntime gives the same results\n"
    session = onnxruntime.InferenceSession("model.onnx")
    scores, labels = session.run(None, {"images": make_images(rows)})
    expected = make_classifier().log_probabilities(make_images(rows))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert labels.tolist() == expected.argmax(1).tolist()


def test_the_exported_average_gives_the_mean_of_the_probabilities(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_average(Path("averaged/best"))
    assert cli.main(["export", "averaged", "--onnx", "model.onnx"]) == 0
    assert capsys.readouterr().out == (
        "model    model.onnx; onnxruntime gives the same results; mean of the probabilities of 3 "
        "models\n"
    )
    session, images = onnxruntime.InferenceSession("model.onnx"), make_images(20)
    scores, labels = session.run(None, {"images": images})
    each = [np.exp(member.log_probabilities(images)) for member in make_average().members]
    np.testing.assert_allclose(np.exp(scores), np.mean(each, axis=0), rtol=1e-4, atol=1e-6)
    assert labels.tolist() == np.mean(each, axis=0).argmax(1).tolist()
    scored, _ = onnx.load("model.onnx").graph.output
    assert scored.doc_string == "logarithms of the mean of the probabilities of 3 models"


def test_the_exported_average_of_probabilities_that_underflow_keeps_their_logarithm() -> None:
    parameters = make_parameters() | {"4.bias": np.linspace(0, 1000, 10, dtype=np.float32)}
    one = Classifier.from_parameters(parameters, make_scaler())
    export_onnx(Classifier.average([one, one]), "model.onnx")


def test_the_exported_model_says_what_goes_in_and_comes_out() -> None:
    export_onnx(make_classifier(), "model.onnx")
    session = onnxruntime.InferenceSession("model.onnx")
    described = [(put.name, put.type, put.shape) for put in session.get_inputs()]
    assert described == [("images", "tensor(uint8)", ["N", SIZES[0]])]
    described = [(put.name, put.type, put.shape) for put in session.get_outputs()]
    assert described == [
        ("log_probabilities", "tensor(float)", ["N", 10]),
        ("label", "tensor(int64)", ["N"]),
    ]
    assert onnx.load("model.onnx").producer_name == "digitrec"


def test_a_model_that_onnxruntime_computes_otherwise_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = make_parameters() | {"4.bias": np.full(10, 0.5, np.float32)}
    other["4.bias"][3] = 0
    build = export.build_onnx
    wrong = Classifier.from_parameters(other, make_scaler())
    monkeypatch.setattr(export, "build_onnx", lambda _: build(wrong))
    with pytest.raises(InputError, match=r"model\.onnx: not written, because onnxruntime gives"):
        export_onnx(make_classifier(), "model.onnx")
    assert not Path("model.onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_to_install_it(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; from digitrec.cli import main as cli; "
        "sys.exit(cli.main(['export', 'study', '--onnx', 'model.onnx']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"digitrec: --onnx needs {package}, which is not installed: pip install 'digitrec[onnx]'\n"
    )
    assert not Path("model.onnx").exists()
