"""A saved model as an ONNX file that takes unscaled pixels, for programs without digitrec.

Letters: N images, D pixels of an image, C = 10 classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from digitrec.errors import InputError
from digitrec.space.shape import CLASSES
from digitrec.winner.classifier import Classifier
from digitrec.winner.output import check_target, written_whole

OPSET, IR_VERSION = 17, 8  # of 2022, so that runtimes since that year can read the file
INPUT, LOG_PROBABILITIES, LABEL = "images", "log_probabilities", "label"

TOLERANCE = 1e-4  # relative, of a log-probability; the order of a sum changes its rounding


def export_onnx(classifier: Classifier, target: str) -> None:
    """Write a model as an ONNX file after checking that onnxruntime computes the same with it.

    The input is `images`, uint8 (N, D); the outputs are `log_probabilities`, float32 (N, C), and
    `label`, int64 (N,).

    Raises:
        InputError: onnx or onnxruntime is not installed, or the file cannot be written.
    """
    path = check_target(target)
    _check_is_installed()
    content = build_onnx(classifier).SerializeToString()
    difference = _difference(classifier, content)
    if not difference <= TOLERANCE:
        raise InputError(
            f"{target}: not written, because onnxruntime gives log-probabilities that differ by "
            f"{difference:.2g} of their size; install another version of it"
        )
    with written_whole(path) as file:
        file.write(content)


def build_onnx(classifier: Classifier) -> Any:
    """Return the model as an `onnx.ModelProto`, the scaling included."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def described(name: str, kind: int, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    tensors = _tensors(classifier)
    graph = helper.make_graph(
        _nodes(len(classifier.layers)),
        "digitrec",
        [described(INPUT, TensorProto.UINT8, "N", classifier.pixels)],
        [
            described(LOG_PROBABILITIES, TensorProto.FLOAT, "N", CLASSES),
            described(LABEL, TensorProto.INT64, "N"),
        ],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(
        graph, producer_name="digitrec", opset_imports=[opset], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _tensors(classifier: Classifier) -> dict[str, NDArray[np.float32]]:
    tensors = {"data_min": classifier.scaler.data_min, "spread": classifier.scaler.spread}
    for number, layer in enumerate(classifier.layers):
        tensors |= {f"weight{number}": layer.weight, f"bias{number}": layer.bias}
    return tensors


def _nodes(layers: int) -> list[Any]:
    """Return the operations from pixels to log-probabilities and label, in their order."""
    from onnx import TensorProto
    from onnx.helper import make_node

    nodes = [
        make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
        make_node("Sub", ["pixels", "data_min"], ["shifted"]),
        make_node("Div", ["shifted", "spread"], ["x0"]),
    ]
    for layer in range(layers):
        inputs = [f"x{layer}", f"weight{layer}", f"bias{layer}"]
        nodes.append(make_node("Gemm", inputs, [f"z{layer}"], transB=1))
        if layer < layers - 1:
            nodes.append(make_node("Relu", [f"z{layer}"], [f"x{layer + 1}"]))
    return [
        *nodes,
        make_node("LogSoftmax", [f"z{layers - 1}"], [LOG_PROBABILITIES], axis=1),
        make_node("ArgMax", [LOG_PROBABILITIES], [LABEL], axis=1, keepdims=0),
    ]


def _check_is_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--onnx needs {error.name}, which is not installed: pip install 'digitrec[onnx]'"
        ) from error


def _difference(classifier: Classifier, content: bytes) -> float:
    """Return the largest difference of onnxruntime's log-probabilities, relative to 1 + size."""
    import onnxruntime

    pixels = classifier.pixels
    images = np.random.default_rng(0).integers(0, 256, size=(100, pixels), dtype=np.uint8)
    images[0], images[1] = 0, 255
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run([LOG_PROBABILITIES], {INPUT: images})
    expected = classifier.log_probabilities(images)
    return float((np.abs(found - expected) / (1 + np.abs(expected))).max())
