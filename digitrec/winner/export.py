"""A saved model as an ONNX file that takes unscaled pixels, for programs without digitrec.

Letters: M models that are averaged, N images, D pixels of an image, C = 10 classes.
"""

from collections.abc import Sequence
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
    `label`, int64 (N,). Of a model that averages several, `log_probabilities` are the logarithms
    of the mean of their probabilities.

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

    def described(name: str, kind: int, *shape: str | int, doc: str = "") -> Any:
        return helper.make_tensor_value_info(name, kind, shape, doc_string=doc)

    members, tensors = classifier.members, _tensors(classifier)
    mean = f"logarithms of the mean of the probabilities of {len(members)} models"
    graph = helper.make_graph(
        _nodes([len(member.layers) for member in members]),
        "digitrec",
        [described(INPUT, TensorProto.UINT8, "N", classifier.pixels)],
        [
            described(
                LOG_PROBABILITIES,
                TensorProto.FLOAT,
                "N",
                CLASSES,
                doc=mean if len(members) > 1 else "",
            ),
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


def _tensors(classifier: Classifier) -> dict[str, NDArray[Any]]:
    members = classifier.members
    tensors: dict[str, NDArray[Any]] = {}
    for prefix, member in zip(_prefixes(len(members)), members, strict=True):
        scaler = member.scaler
        tensors |= {f"{prefix}data_min": scaler.data_min, f"{prefix}spread": scaler.spread}
        for number, layer in enumerate(member.layers):
            tensors[f"{prefix}weight{number}"] = layer.weight
            tensors[f"{prefix}bias{number}"] = layer.bias
    if len(members) > 1:
        tensors["first_axis"] = np.zeros(1, np.int64)
        tensors["log_count"] = np.log(np.array([len(members)], np.float32))
    return tensors


def _prefixes(members: int) -> list[str]:
    """Return the prefixes of the names of each member's tensors; those of one alone have none."""
    return [f"model{number}/" for number in range(members)] if members > 1 else [""]


def _nodes(layers: Sequence[int]) -> list[Any]:
    """Return the operations from pixels to log-probabilities and label, in their order.

    Args:
        layers: the number of layers of each member.
    """
    from onnx import TensorProto
    from onnx.helper import make_node

    prefixes = _prefixes(len(layers))
    outputs = [f"{prefix}{LOG_PROBABILITIES}" for prefix in prefixes]
    nodes = [make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT)]
    for prefix, number, output in zip(prefixes, layers, outputs, strict=True):
        nodes += _member_nodes(prefix, number, output)
    if len(outputs) > 1:
        nodes += _mean_nodes(outputs)
    return [*nodes, make_node("ArgMax", [LOG_PROBABILITIES], [LABEL], axis=1, keepdims=0)]


def _member_nodes(prefix: str, layers: int, output: str) -> list[Any]:
    """Return the operations from pixels to the log-probabilities of one model."""
    from onnx.helper import make_node

    nodes = [
        make_node("Sub", ["pixels", f"{prefix}data_min"], [f"{prefix}shifted"]),
        make_node("Div", [f"{prefix}shifted", f"{prefix}spread"], [f"{prefix}x0"]),
    ]
    for layer in range(layers):
        inputs = [f"{prefix}{name}{layer}" for name in ("x", "weight", "bias")]
        nodes.append(make_node("Gemm", inputs, [f"{prefix}z{layer}"], transB=1))
        if layer < layers - 1:
            nodes.append(make_node("Relu", [f"{prefix}z{layer}"], [f"{prefix}x{layer + 1}"]))
    return [*nodes, make_node("LogSoftmax", [f"{prefix}z{layers - 1}"], [output], axis=1)]


def _mean_nodes(outputs: Sequence[str]) -> list[Any]:
    """Return the operations from log-probabilities (N, C) of each to those of their mean."""
    from onnx.helper import make_node

    rows = [f"{output}/row" for output in outputs]  # (1, N, C)
    return [
        *(
            make_node("Unsqueeze", [output, "first_axis"], [row])
            for output, row in zip(outputs, rows, strict=True)
        ),
        make_node("Concat", rows, ["all"], axis=0),  # (M, N, C)
        make_node("ReduceLogSumExp", ["all"], ["log_sum"], axes=[0], keepdims=0),
        make_node("Sub", ["log_sum", "log_count"], [LOG_PROBABILITIES]),
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
