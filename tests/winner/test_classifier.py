import itertools
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from digitrec.data.digits import fit_scaler
from digitrec.errors import InputError
from digitrec.store.folder import NOT_OURS
from digitrec.winner import classifier as module
from digitrec.winner.classifier import Classifier, load_classifier
from tests.saved_model import (
    SIZES,
    Tensors,
    make_average,
    make_classifier,
    make_images,
    make_parameters,
    make_scaler,
    make_tensors,
    write_average,
    write_model,
)

NOT_SAFETENSORS = "not a readable safetensors file; it is damaged, cut short or of another format"


def refusal(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_classifier(directory)
    return str(caught.value).removeprefix(f"{directory}/")


def test_the_classifier_gives_what_torch_gives() -> None:
    parameters, scaler, images = make_parameters(), make_scaler(), make_images(40)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(SIZES)]
    relu = torch.nn.ReLU()
    model = torch.nn.Sequential(layers[0], relu, layers[1], relu, layers[2])
    model.load_state_dict({name: torch.from_numpy(values) for name, values in parameters.items()})
    with torch.no_grad():
        expected = model(torch.from_numpy(scaler.scale(images))).log_softmax(1).numpy()
    found = Classifier.from_parameters(parameters, scaler).log_probabilities(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_saved_model_is_the_one_it_was_saved_from(tmp_path: Path) -> None:
    loaded = load_classifier(write_model(tmp_path))
    original = make_classifier()
    images = make_images(20)
    assert loaded.layer_sizes == list(SIZES)
    np.testing.assert_array_equal(
        loaded.log_probabilities(images), original.log_probabilities(images)
    )


def test_an_average_gives_the_mean_of_its_members_probabilities() -> None:
    average, images = make_average(), make_images(40)
    assert len(average.members) == 3
    each = [np.exp(member.log_probabilities(images)) for member in average.members]
    found = average.log_probabilities(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), np.mean(each, axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-6)


def test_an_average_of_a_model_with_itself_is_that_model() -> None:
    one, images = make_classifier(), make_images(40)
    found = Classifier.average([one, one]).log_probabilities(images)
    np.testing.assert_array_equal(found, one.log_probabilities(images))
    assert Classifier.average([one]) == one
    assert one.members == (one,)


def test_the_mean_of_probabilities_that_underflow_keeps_their_logarithm() -> None:
    parameters = make_parameters() | {"4.bias": np.linspace(0, 1000, 10, dtype=np.float32)}
    one = Classifier.from_parameters(parameters, make_scaler())
    found = Classifier.average([one, one]).log_probabilities(make_images(5))
    np.testing.assert_allclose(found, one.log_probabilities(make_images(5)), rtol=1e-6)
    assert found.min() < -500


def test_a_saved_average_is_the_one_it_was_saved_from(tmp_path: Path) -> None:
    loaded, original = load_classifier(write_average(tmp_path)), make_average()
    images = make_images(20)
    np.testing.assert_array_equal(
        loaded.log_probabilities(images), original.log_probabilities(images)
    )
    sizes = [[6, 5, 4, 10], [6, 7, 10], [6, 3, 4, 5, 10]]
    assert [member.layer_sizes for member in loaded.members] == sizes


def test_models_for_images_of_other_sizes_have_no_average(tmp_path: Path) -> None:
    scaler = fit_scaler(np.zeros((2, 5), np.uint8))
    other = Classifier.from_parameters(make_parameters((5, 10)), scaler)
    with pytest.raises(InputError, match="images of different sizes: 6, 5 pixels"):
        Classifier.average([make_classifier(), other])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop", "model.safetensors: its models have the numbers 0, 2; they count from 0"),
        ("cut", "model.safetensors: no scaler.data_max; it is not a model of digitrec"),
        ("mix", "model.safetensors: no scaler.data_min; it is not a model of digitrec"),
        (
            [{"layer_sizes": list(SIZES)}],
            "model.safetensors: layers of [[6, 5, 4, 10], [6, 7, 10], [6, 3, 4, 5, 10]], but "
            "model.json says [6, 5, 4, 10]; they belong to different models",
        ),
        ({}, "model.json: its members are not a list of models; it is damaged"),
        ([3], "model.json: its members are not a list of models; it is damaged"),
    ],
)
def test_an_average_that_does_not_fit_together_is_refused(
    change: Any, message: str, tmp_path: Path
) -> None:
    best = write_average(tmp_path)
    tensors = load((best / "model.safetensors").read_bytes())
    about = json.loads((best / "model.json").read_text())
    if change == "drop":
        tensors = {name: each for name, each in tensors.items() if "members.1." not in name}
    elif change == "cut":
        del tensors["members.2.scaler.data_max"]
    elif change == "mix":
        tensors["0.weight"] = ONES
    else:
        about["members"] = change
    write_model(best, save(tensors), json.dumps(about).encode())
    assert refusal(best) == message


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 20])
def test_blocks_do_not_change_the_result(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = make_classifier()
    whole = classifier.log_probabilities(make_images(rows))
    monkeypatch.setattr(module, "BLOCK_ROWS", 8)
    np.testing.assert_allclose(classifier.log_probabilities(make_images(rows)), whole, rtol=1e-5)
    assert whole.shape == (rows, 10)


def test_large_logits_do_not_overflow() -> None:
    parameters = make_parameters() | {"4.bias": np.linspace(-1e30, 1e30, 10, dtype=np.float32)}
    classifier = Classifier.from_parameters(parameters, make_scaler())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classifier.log_probabilities(make_images(2))
    assert found.argmax(1).tolist() == [9, 9]
    assert found[:, 9].tolist() == [0, 0]


def test_images_of_another_size_are_refused() -> None:
    classifier = make_classifier()
    with pytest.raises(InputError, match=r"images of shape 3 x 5; the model takes rows x 6"):
        classifier.log_probabilities(make_images(3)[:, :5])


def test_a_model_is_loaded_and_used_without_torch_ray_and_pandas(tmp_path: Path) -> None:
    write_model(tmp_path)
    code = (
        "import sys, pathlib, numpy; from digitrec.winner.classifier import load_classifier; "
        f"classifier = load_classifier(pathlib.Path({str(tmp_path)!r})); "
        "classifier.log_probabilities(numpy.zeros((3, 6), numpy.uint8)); "
        "sys.exit(bool({'torch', 'ray', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def without(name: str) -> Tensors:
    tensors = make_tensors()
    del tensors[name]
    return tensors


ONES = np.ones((4, 4), np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("scaler.data_min"), "no scaler.data_min; it is not a model of digitrec"),
        (
            without("2.bias"),
            "the parameters are 0.bias, 0.weight, 2.weight, 4.bias, 4.weight, not those of an MLP",
        ),
        (
            {"extra": ONES},
            "the parameters are 0.bias, 0.weight, 2.bias, 2.weight, 4.bias, 4.weight, extra, not "
            "those of an MLP",
        ),
        ({"2.weight": ONES}, "2.weight has shape 4 x 4; expected outputs x 5"),
        ({"2.weight": ONES[0]}, "2.weight has shape 4; expected outputs x 5"),
        ({"2.bias": ONES}, "2.bias has shape 4 x 4; expected 4"),
        (
            {"4.weight": ONES[:3], "4.bias": ONES[0, :3]},
            "the last layer has 3 outputs; expected 10, one per digit",
        ),
        ({"4.bias": np.zeros(10)}, "4.bias holds float64; expected float32"),
        (
            {"4.bias": np.full(10, np.nan, np.float32)},
            "4.bias holds a number that is not finite",
        ),
        ({"scaler.data_min": ONES[0]}, "the scaler is of 4 and of 6 pixels"),
        (
            {"scaler.data_min": ONES},
            "scaler.data_min has shape 4 x 4; expected one number per pixel",
        ),
        (
            {"scaler.data_max": np.full(6, -1, np.float32)},
            "the scaler's lowest value of pixel 0 is above its highest",
        ),
        (
            dict.fromkeys(("scaler.data_min", "scaler.data_max"), ONES[0]),
            "0.weight has shape 5 x 6; expected outputs x 4",
        ),
    ],
)
def test_a_model_that_does_not_fit_together_is_refused(
    tensors: Tensors, message: str, tmp_path: Path
) -> None:
    whole = tensors if len(tensors) > 4 else make_tensors() | tensors
    assert refusal(write_model(tmp_path, save(whole))) == f"model.safetensors: {message}"


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (b"", "model.json: not readable JSON; it is damaged or cut short"),
        (b"[" * 100_000, "model.json: not readable JSON; it is damaged or cut short"),
        (b"\xff", "model.json: not readable JSON; it is damaged or cut short"),
        (
            b"[]",
            "model.json: not a model that this digitrec reads: format 1, activation relu",
        ),
        (
            b'{"format": 2, "activation": "relu"}',
            "model.json: not a model that this digitrec reads: format 1, activation relu",
        ),
        (
            b'{"format": 1, "activation": "relu", "layer_sizes": [6, 7, 10]}',
            "model.safetensors: layers of [6, 5, 4, 10], but model.json says [6, 7, 10]; they "
            "belong to different models",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    about: bytes, message: str, tmp_path: Path
) -> None:
    assert refusal(write_model(tmp_path, about=about)) == message


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = "no such model; `digitrec tune` writes it"
    assert refusal(tmp_path) == f"model.safetensors: {missing}"
    (tmp_path / "model.safetensors").write_bytes(save(make_tensors()))
    assert refusal(tmp_path) == f"model.json: {missing}"
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    assert refusal(tmp_path) == "model.safetensors: it is a directory, not a regular file"


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_of_another_format_is_refused_and_never_executed(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    for content in (trap, b"", b"PK\x03\x04", b"{}", save(make_tensors()).replace(b"F32", b"F64")):
        assert refusal(write_model(tmp_path, content)) in {
            f"model.safetensors: {NOT_SAFETENSORS}",
            f"model.safetensors: {NOT_OURS}",
        }
    assert not sprung.exists()


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), write=st.sampled_from([write_model, write_average]))
def test_a_damaged_model_is_refused_in_one_line_or_still_a_whole_model(
    data: st.DataObject, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = write(tmp_path) / "model.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(0, 3))):
        # Half of the damage goes where it can be more than another weight.
        last = data.draw(st.sampled_from([header, len(content)])) - 1
        content[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    path.write_bytes(content[:kept])
    try:
        classifier = load_classifier(tmp_path)
    except InputError:
        assert "\n" not in refusal(tmp_path)
    else:
        assert classifier.layer_sizes == list(SIZES)
        assert kept == len(content)
