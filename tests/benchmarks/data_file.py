"""The CSV file that all contenders read."""

from pathlib import Path

import pandas as pd

from digitrec.data.digits import read_digits


def csv_of(data: str, folder: Path, rows: int | None = None) -> Path:
    """Return a CSV file in the Kaggle layout, written to `folder` unless `data` is one already.

    Args:
        data: `sample`, or a file that `digitrec tune --data` takes.
        folder: where to write.
        rows: how many of the first rows; None takes all.
    """
    if rows is None and data.lower().endswith((".csv", ".csv.gz")):
        return Path(data).resolve()
    digits = read_digits(data)
    table = pd.DataFrame(digits.images[:rows]).add_prefix("pixel")
    table.insert(0, "label", digits.labels[:rows])
    file = folder / f"{Path(data).name.split('.')[0]}-{len(table)}.csv"
    table.to_csv(file, index=False)
    return file
