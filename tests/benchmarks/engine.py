"""How close is the training step to the machine's own matrix products, and which form is fastest?

For each shape of stack in the plan of a grid, it measures, on one thread, in microseconds per trial
and update: the step in each form (the project's two kinds of products, with the gradient written
out; autograd; optionally `torch.compile` of autograd), and the float32 matrix products of the same
shapes and count alone. The digits are random, the rounds alternate, and the results are medians.
The default grid takes about 20 s per round.

    python -m tests.benchmarks.engine --rows 42000 --rounds 5 [--stack-sizes auto,1,5] [--compile]

With --extras 8, it measures instead what momentum, dropout, weight decay and so on add to the plain
step of a stack of 8, per batch size.

    python -m tests.benchmarks.engine --extras 8 --rounds 15

Letters: K trials of a stack, B images of a batch, I inputs and O outputs of a layer.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from digitrec.engine.model import StackedMLP, init_mlp
from digitrec.engine.products import OneDNNProducts, Products, TorchProducts, choose_products
from digitrec.engine.step import Step
from digitrec.engine.train import Totals, Training, TrainingData, train_on
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.points import Space
from digitrec.space.shape import layer_sizes
from digitrec.space.stacks import Stack, plan_stacks
from tests.benchmarks.plain_loop import floats, integers

SIZES = layer_sizes(784)
IMAGES = 8192  # of a measurement; 25 MB, more than a core's own caches hold
INK = 0.19  # share of an MNIST image that is not background
RATE = 0.01  # small enough that no form diverges on random labels
LIMIT = "bare products, best"  # the name of what the other forms are compared with

EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "Nesterov momentum": {"momentum": 0.9, "nesterov": True},
    "weight decay": {"weight_decay": 0.01},
    "dropout": {"dropout": 0.2},
    "label smoothing": {"label_smoothing": 0.1},
    "momentum, weight decay, dropout": {"momentum": 0.9, "weight_decay": 0.01, "dropout": 0.2},
    "adamw": {"optimizer": "adamw"},
}

Form = Callable[[], object]  # one pass over the images with one form of the step


class Shape(NamedTuple):
    """The shape of a stack."""

    batch_size: int  # B
    members: int  # K


class Product(NamedTuple):
    """Matrix products of one shape, `times` over: (rows, inner) @ (inner, columns)."""

    times: int
    rows: int
    inner: int
    columns: int
    by_rows: bool = True  # how the right side lies in memory; else by columns, as `weight.T` does

    @property
    def operations(self) -> int:
        """Floating-point operations; a multiplication with its addition counts as two."""
        return 2 * self.times * self.rows * self.inner * self.columns


class Measured(NamedTuple):
    """Seconds of one update of a stack, for each form and shape, by round."""

    seconds: Mapping[str, Mapping[Shape, Sequence[float]]]

    def per_trial(self, form: str, shape: Shape) -> list[float]:
        """Return microseconds per trial and update, by round."""
        return [1e6 * seconds / shape.members for seconds in self.seconds[form][shape]]

    def grid_seconds(self, form: str, updates: Mapping[Shape, int]) -> list[float]:
        """Return the seconds of so many updates of each shape, by round."""
        per_shape = [[n * s for s in self.seconds[form][shape]] for shape, n in updates.items()]
        return [sum(seconds) for seconds in zip(*per_shape, strict=True)]

    def shares(self, form: str, updates: Mapping[Shape, int]) -> list[float]:
        """Return a form's time over the bare products' for so many updates, by round."""
        limit = self.grid_seconds(LIMIT, updates)
        return [a / b for a, b in zip(self.grid_seconds(form, updates), limit, strict=True)]


def measure(
    shapes: Iterable[Shape], *, rounds: int, images: int = IMAGES, compiled: bool = False
) -> Measured:
    """Time every form at every shape, in turn, so many rounds; on the threads that torch has."""
    data = made_digits(images)
    forms = {shape: forms_of(shape, data, compiled) for shape in shapes}
    seconds: dict[str, dict[Shape, list[float]]] = {}
    for first in (True, *[False] * rounds):
        for shape, named in forms.items():
            updates = math.ceil(images / shape.batch_size)
            for name, form in named.items():
                start = time.perf_counter()
                form()
                per_update = (time.perf_counter() - start) / updates
                of_form = seconds.setdefault(name, {}).setdefault(shape, [])
                if not first:  # which fills caches and makes oneDNN's and the compiler's kernels
                    of_form.append(per_update)
    return Measured(seconds)


def made_digits(images: int) -> TrainingData:
    """Return random images with as much background as digits have, and random labels.

    Ink is everywhere, so no pixels are left out of a batch, as they are of one of real digits.
    """
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(images, SIZES[0], generator=generator)
    ink = torch.rand(images, SIZES[0], generator=generator) < INK
    labels = torch.randint(SIZES[-1], (images,), generator=generator)
    return TrainingData(
        train_images=grey * ink,
        train_labels=labels,
        pixels=torch.arange(SIZES[0]),
        val_images=grey[:0],
        val_labels=labels[:0],
    )


def forms_of(shape: Shape, data: TrainingData, compiled: bool) -> dict[str, Form]:
    """Return every form of the step that this machine has."""
    batches = torch.arange(len(data.train_labels)).split(shape.batch_size)
    forms = {"torch": explicit_form(shape, data, TorchProducts())}
    if has_onednn():
        forms["oneDNN"] = explicit_form(shape, data, OneDNNProducts())
    forms["autograd"] = autograd_form(shape, data, batches, autograd_loss)
    if compiled:
        loss = torch.compile(autograd_loss)
        forms["autograd, compiled"] = autograd_form(shape, data, batches, loss)
    return forms | bare_forms(shape, len(batches))


def explicit_form(shape: Shape, data: TrainingData, products: Products, **values: Any) -> Form:
    """Return digitrec's own step; `values` are further hyperparameters."""
    step = made_step(shape, data, products, **values)
    order = torch.arange(len(data.train_labels), device=data.pixels.device)
    return lambda: train_on(step, data, order, Totals(step.model), epoch=1)


def made_step(shape: Shape, data: TrainingData, products: Products, **values: Any) -> Step:
    """Return digitrec's step of equal trials, on the device of the data."""
    trial = Trial(Configuration(lr=RATE, batch_size=shape.batch_size, **values), seed=0)
    stack = Stack((trial,) * shape.members)
    model = init_mlp(SIZES, seed=0, members=shape.members, device=data.pixels.device)
    return Training.of(stack, model).step(stack, data.pixels, products)


Loss = Callable[[StackedMLP, Tensor, Tensor], tuple[Tensor, Tensor]]


def autograd_form(
    shape: Shape, data: TrainingData, batches: tuple[Tensor, ...], loss: Loss
) -> Form:
    """Return the same step by autograd, SGD by hand: each trial has its own learning rate."""
    model = init_mlp(SIZES, seed=0, members=shape.members)
    rates = torch.full((shape.members, 1, 1), RATE)
    return lambda: train_epoch_by_autograd(model, rates, data, batches, loss)


def train_epoch_by_autograd(
    model: StackedMLP, rates: Tensor, data: TrainingData, batches: tuple[Tensor, ...], loss: Loss
) -> None:
    """Update the model in place with every batch in turn."""
    totals = Totals(model)
    for parameter in (*model.weights, *model.biases):
        parameter.requires_grad_()
    for rows in batches:
        labels = data.train_labels[rows]
        total, logits = loss(model, data.train_images[rows], labels)
        total.backward()
        descend(model.weights, rates)
        descend(model.biases, rates.squeeze(2))
        totals.add(logits.detach(), labels)
    totals.means()


def autograd_loss(model: StackedMLP, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the trials' summed mean losses, and the logits (K, C, B)."""
    products = TorchProducts()
    logits = model.logits(model.layer_inputs(images, products)[-1], products)
    losses = torch.nn.functional.cross_entropy(
        logits, labels.expand(len(model), -1), reduction="sum"
    )
    return losses / len(labels), logits


def descend(parameters: Iterable[Tensor], rates: Tensor) -> None:
    """Subtract the gradients, each trial's times its own rate."""
    with torch.no_grad():
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.sub_(parameter.grad.mul_(rates))
            parameter.grad = None


def products_of(shape: Shape, sizes: Sequence[int] = SIZES) -> list[Product]:
    """Return every matrix product of one update, features by images as the project has them.

    The first layer's are wide: its input is shared by all trials. It needs no input gradient.
    """
    size, members = shape
    products = []
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        if layer == 0:
            products.append(Product(1, members * outputs, inputs, size, by_rows=False))
            products.append(Product(1, members * outputs, size, inputs))
        else:
            products.append(Product(members, outputs, inputs, size))
            products.append(Product(members, inputs, outputs, size))
            products.append(Product(members, outputs, size, inputs, by_rows=False))
    return products


def bare_forms(shape: Shape, updates: int, sizes: Sequence[int] = SIZES) -> dict[str, Form]:
    """Return the bare products through each library, and through the faster one for each."""
    products = products_of(shape, sizes)
    by_torch = [torch_product(product) for product in products]
    forms = {"bare products, torch": repeated(by_torch, updates)}
    if not has_onednn():
        return forms | {LIMIT: repeated(by_torch, updates)}
    by_onednn = [onednn_product(product) for product in products]
    best = [min(pair, key=quick_time) for pair in zip(by_torch, by_onednn, strict=True)]
    return forms | {
        "bare products, oneDNN": repeated(by_onednn, updates),
        LIMIT: repeated(best, updates),
    }


def repeated(products: Sequence[Form], updates: int) -> Form:
    """Return a function that makes all products in turn, so many times."""

    def run() -> None:
        with torch.inference_mode():
            for _ in range(updates):
                for product in products:
                    product()

    return run


def torch_product(product: Product) -> Form:
    """Return a function that makes a product through `torch.mm` or `torch.bmm`."""
    left, right = operands(product)
    out = torch.empty(product.times, product.rows, product.columns)
    if product.times == 1:
        return lambda: torch.mm(left[0], right[0], out=out[0])
    return lambda: torch.bmm(left, right, out=out)


def onednn_product(product: Product) -> Form:
    """Return a function that makes a product through oneDNN's linear layer."""
    left, right = operands(product)
    pairs = [(a, b.t()) for a, b in zip(left, right, strict=True)]

    def run() -> None:
        for a, b in pairs:
            torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")

    return run


def operands(product: Product) -> tuple[Tensor, Tensor]:
    """Return random sides of a product, (times, rows, inner) and (times, inner, columns)."""
    left = torch.randn(product.times, product.rows, product.inner)
    if product.by_rows:
        return left, torch.randn(product.times, product.inner, product.columns)
    return left, torch.randn(product.times, product.columns, product.inner).transpose(1, 2)


def quick_time(form: Form) -> float:
    """Return the seconds of a few calls, the fastest of five times."""
    run = repeated([form], 5)
    run()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def why_not_compile() -> str:
    """Return why `torch.compile` does not work on this machine; empty if it does."""
    try:
        torch.compile(torch.sin)(torch.zeros(1))
    except (RuntimeError, OSError) as error:  # no compiler, or one that fails
        return str(error).splitlines()[0]
    return ""


def has_onednn() -> bool:
    """Return whether this PyTorch carries oneDNN's linear layer."""
    available: bool = torch.backends.mkldnn.is_available()
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def updates_of(stacks: Iterable[Stack], train_rows: int, epochs: int) -> dict[Shape, int]:
    """Return how many updates of each shape training takes."""
    updates: dict[Shape, int] = {}
    for stack in stacks:
        shape = Shape(stack.configuration.batch_size, len(stack.members))
        more = epochs * math.ceil(train_rows / stack.configuration.batch_size)
        updates[shape] = updates.get(shape, 0) + more
    return updates


def operations(updates: Mapping[Shape, int]) -> int:
    """Return the floating-point operations of the products of so many updates of each shape."""
    return sum(
        count * product.operations
        for shape, count in updates.items()
        for product in products_of(shape)
    )


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return `median (lowest to highest)`."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def shape_table(measured: Measured) -> list[str]:
    """Return a Markdown table, a row per shape and a column per form."""
    forms = list(measured.seconds)
    lines = [
        "Microseconds per trial and update, median (lowest to highest) of the rounds:",
        "",
        f"| batch size | stack size | {' | '.join(forms)} |",
        f"| ---: | ---: |{' ---: |' * len(forms)}",
    ]
    for shape in sorted(measured.seconds[LIMIT]):
        cells = [spread(measured.per_trial(form, shape), 0) for form in forms]
        lines.append(f"| {shape.batch_size} | {shape.members} | {' | '.join(cells)} |")
    return lines


def grid_table(measured: Measured, updates: Mapping[Shape, int]) -> list[str]:
    """Return a Markdown table of the whole grid, a row per form."""
    lines = [
        f"The whole grid on one core, {operations(updates):.3g} operations in its products:",
        "",
        "| form of the step | seconds | times the bare products | GFLOP/s |",
        "| --- | ---: | ---: | ---: |",
    ]
    for form in measured.seconds:
        seconds = measured.grid_seconds(form, updates)
        rate = operations(updates) / statistics.median(seconds) / 1e9
        share = spread(measured.shares(form, updates))
        lines.append(f"| {form} | {spread(seconds)} | {share} | {rate:.0f} |")
    return lines


def measure_extras(members: int, batch_sizes: Iterable[int], rounds: int, images: int) -> Measured:
    """Time the step with each of EXTRAS, in turn, so many rounds."""
    data = made_digits(images)
    products = choose_products(torch.device("cpu"), torch.float32, data.train_images.dtype)
    seconds: dict[str, dict[Shape, list[float]]] = {name: {} for name in EXTRAS}
    for shape in (Shape(size, members) for size in batch_sizes):
        updates = math.ceil(images / shape.batch_size)
        forms = {n: explicit_form(shape, data, products, **extra) for n, extra in EXTRAS.items()}
        for first in (True, *[False] * rounds):
            for name, form in forms.items():
                start = time.thread_time()
                form()
                if not first:
                    per_update = (time.thread_time() - start) / updates
                    seconds[name].setdefault(shape, []).append(per_update)
    return Measured(seconds)


def extras_table(measured: Measured) -> list[str]:
    """Return a Markdown table: per batch size, what each extra costs beside the plain step."""
    plain, *others = measured.seconds
    lines = [
        "Microseconds of processor time per trial and update of the plain step, and the step with "
        "each extra over it, median of the rounds:",
        "",
        f"| batch size | stack size | {plain} | {' | '.join(others)} |",
        f"| ---: | ---: |{' ---: |' * len(measured.seconds)}",
    ]
    for shape, alone in measured.seconds[plain].items():
        ratios = [
            statistics.median(
                a / b for a, b in zip(measured.seconds[name][shape], alone, strict=True)
            )
            for name in others
        ]
        own = statistics.median(measured.per_trial(plain, shape))
        cells = [f"{own:.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
        lines.append(f"| {shape.batch_size} | {shape.members} | {' | '.join(cells)} |")
    return lines


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lr", type=floats, default=[0.001, 0.01, 0.1, 0.5, 1.0])
    parser.add_argument("--batch-size", type=integers, default=[32, 64, 128, 256, 512])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=42000, help="of the data, a fifth to validate")
    parser.add_argument("--workers", type=int, default=2, help="that the grid is planned for")
    parser.add_argument("--stack-sizes", default="auto", help="at most; 'auto' is digitrec's own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=IMAGES, help="of a measurement")
    parser.add_argument("--extras", type=int, metavar="K", help="measure these at a stack size")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well")
    return parser.parse_args()


def main() -> None:
    """Measure and print a plan of the grid for each stack size."""
    options = _parse_options()
    torch.set_num_threads(1)
    if options.extras:
        measured = measure_extras(
            options.extras, options.batch_size, options.rounds, options.images
        )
        print("\n".join(extras_table(measured)))
        return
    space = Space.of(lr=tuple(options.lr), batch_size=tuple(options.batch_size))
    train_rows = options.rows - math.ceil(options.rows / 5)
    reason = why_not_compile() if options.compile else "not asked for"
    if options.compile and reason:
        print(f"torch.compile is left out: {reason}\n")
    for size in options.stack_sizes.split(","):
        stacks = plan_stacks(
            space.trials(),
            workers=options.workers,
            images=train_rows * options.epochs,
            stack_size=None if size == "auto" else int(size),
        )
        updates = updates_of(stacks, train_rows, options.epochs)
        measured = measure(
            updates, rounds=options.rounds, images=options.images, compiled=not reason
        )
        print(f"Stack size {size}\n")
        print("\n".join([*shape_table(measured), "", *grid_table(measured, updates), ""]))


if __name__ == "__main__":
    main()
