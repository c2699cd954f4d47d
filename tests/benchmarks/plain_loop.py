"""How long does the plain training loop take that digitrec replaces?

It is the loop that the project started from: pandas, scikit-learn, one `DataLoader` and one model
per configuration, `.item()` at every step, a figure at the end. PyTorch uses one thread per core.
42,000 rows, the 5 x 5 grid and 3 epochs take about 90 s on two cores.

    python -m tests.benchmarks.plain_loop --data train.csv --out build/plain
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset

Result = TypeVar("Result")
Batches = DataLoader[tuple[Tensor, Tensor]]

METRICS = {
    "train_loss": "Training Loss",
    "val_loss": "Validation Loss",
    "train_accuracy": "Training Accuracy",
    "val_accuracy": "Validation Accuracy",
}
COLUMNS = [
    *("lr", "batch_size", "epoch"),
    *("train_loss", "train_accuracy", "val_loss", "val_accuracy"),
]


class Arrays(NamedTuple):
    """The prepared data: scaled features and labels of both sides of the split."""

    train_features: NDArray[np.float64]
    train_labels: NDArray[np.int64]
    val_features: NDArray[np.float64]
    val_labels: NDArray[np.int64]


class CustomDataset(Dataset[tuple[Tensor, Tensor]]):
    """Features and labels as tensors, one image at a time."""

    def __init__(self, features: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        self.features = torch.tensor(features, dtype=torch.float32)
        self.labels = torch.tensor(labels, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        return self.features[idx], self.labels[idx]


class DigitRecModel(nn.Module):
    """784-256-128-10 with ReLU."""

    def __init__(self, input_size: int, hidden_size1: int, hidden_size2: int, output_size: int):
        super().__init__()
        self.fc1 = nn.Linear(input_size, hidden_size1)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(hidden_size1, hidden_size2)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(hidden_size2, output_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.fc1(x))
        x = self.relu2(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


def prepare(df: pd.DataFrame) -> Arrays:
    """Split and scale the data."""
    features, labels = df.drop("label", axis=1), df["label"]
    train, val, train_labels, val_labels = train_test_split(
        features, labels, test_size=0.2, random_state=42
    )
    scaler = MinMaxScaler()
    train, val = scaler.fit_transform(train), scaler.transform(val)
    return Arrays(train, train_labels.to_numpy(), val, val_labels.to_numpy())


def on_device_of(model: nn.Module, loader: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches on the model's device."""
    device = next(model.parameters()).device
    for inputs, labels in loader:
        yield inputs.to(device), labels.to(device)


def train_epoch(
    model: nn.Module, loader: Batches, criterion: nn.Module, optimizer: optim.Optimizer
) -> tuple[float, float]:
    """Train on every batch; returns loss (mean of the batches' means) and accuracy."""
    model.train()
    correct, total, running_loss = 0, 0, 0.0
    for inputs, labels in on_device_of(model, loader):
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        _, predicted = torch.max(outputs.data, 1)
        total += labels.size(0)
        correct += int((predicted == labels).sum().item())
        running_loss += loss.item()
    return running_loss / len(loader), correct / total


def validate(model: nn.Module, loader: Batches, criterion: nn.Module) -> tuple[float, float]:
    """Return loss (mean of the batches' means) and accuracy."""
    model.eval()
    correct, total, running_loss = 0, 0, 0.0
    with torch.no_grad():
        for inputs, labels in on_device_of(model, loader):
            outputs = model(inputs)
            running_loss += criterion(outputs, labels).item()
            _, predicted = torch.max(outputs.data, 1)
            total += labels.size(0)
            correct += int((predicted == labels).sum().item())
    return running_loss / len(loader), correct / total


def train_configuration(
    arrays: Arrays,
    lr: float,
    batch_size: int,
    epochs: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Iterator[dict[str, float]]:
    """Train one configuration and yield the metrics of each epoch."""
    torch.manual_seed(seed)
    train_dataset = CustomDataset(arrays.train_features, arrays.train_labels)
    val_dataset = CustomDataset(arrays.val_features, arrays.val_labels)
    train_loader = DataLoader(train_dataset, batch_size=batch_size, shuffle=True)
    val_loader = DataLoader(val_dataset, batch_size=batch_size, shuffle=False)
    model = DigitRecModel(arrays.train_features.shape[1], 256, 128, 10).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=lr)
    for epoch in range(1, epochs + 1):
        train_loss, train_accuracy = train_epoch(model, train_loader, criterion, optimizer)
        val_loss, val_accuracy = validate(model, val_loader, criterion)
        values = (lr, batch_size, epoch, train_loss, train_accuracy, val_loss, val_accuracy)
        yield dict(zip(COLUMNS, values, strict=True))


def train_grid(arrays: Arrays, options: argparse.Namespace) -> pd.DataFrame:
    """Train every learning rate with every batch size, one after the other."""
    rows: list[dict[str, float]] = []
    for lr in options.lr:
        for batch_size in options.batch_size:
            rows += train_configuration(arrays, lr, batch_size, options.epochs, options.seed)
    return pd.DataFrame(rows)


def draw(results: pd.DataFrame, file: Path) -> None:
    """Draw each metric over the epochs, a line per configuration."""
    plt.figure(figsize=(18, 9))
    for place, (metric, title) in enumerate(METRICS.items(), start=1):
        plt.subplot(2, 2, place)
        for (lr, batch_size), run in results.groupby(["lr", "batch_size"], sort=False):
            plt.plot(run["epoch"], run[metric], label=f"LR: {lr}, BS: {batch_size}")
        plt.xlabel("Epochs")
        plt.ylabel("Loss" if "loss" in metric else "Accuracy")
        plt.title(title)
        plt.legend()
    plt.tight_layout()
    plt.savefig(file)
    plt.close()


class Stopwatch:
    """Seconds of each part of a program."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, part: str, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, and note how long it took."""
        start = time.perf_counter()
        result = work()
        self.seconds[part] = round(time.perf_counter() - start, 3)
        return result


def parse_options(description: str | None) -> argparse.Namespace:
    """Return the options, the same for the plain loop and the usual Ray Tune program."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="sample", help="a CSV file, or 'sample'")
    parser.add_argument("--lr", type=floats, default=[0.001, 0.01, 0.1, 0.5, 1.0])
    parser.add_argument("--batch-size", type=integers, default=[32, 64, 128, 256, 512])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for results and figure")
    return parser.parse_args()


def floats(text: str) -> list[float]:
    """Parse numbers separated by commas."""
    return [float(item) for item in text.split(",")]


def integers(text: str) -> list[int]:
    """Parse whole numbers separated by commas."""
    return [int(item) for item in text.split(",")]


def run(options: argparse.Namespace, train: Callable[[Arrays], pd.DataFrame]) -> None:
    """Read, prepare, train and draw; print the seconds of each part as the last line."""
    options.out.mkdir(parents=True, exist_ok=True)
    if options.data == "sample":  # written first, untimed, so that every program reads a CSV file
        from tests.benchmarks.data_file import csv_of

        folder = tempfile.TemporaryDirectory()
        options.data = csv_of("sample", Path(folder.name))
    watch = Stopwatch()
    df = watch.time("read", lambda: pd.read_csv(options.data))
    arrays = watch.time("prepare", lambda: prepare(df))
    results = watch.time("grid", lambda: train(arrays))
    results.to_csv(options.out / "results.csv", index=False)
    watch.time("figure", lambda: draw(results, options.out / "figure.png"))
    print(json.dumps(watch.seconds))


if __name__ == "__main__":
    OPTIONS = parse_options(__doc__)
    run(OPTIONS, lambda arrays: train_grid(arrays, OPTIONS))
