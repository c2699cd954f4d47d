"""The Python API: `tune` trains a study, `open_study` opens one; both return a `Study`."""

import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from digitrec.request import SEARCH_OPTIONS, Request, default_of, options_of_request
from digitrec.space.hyperparameters import HYPERPARAMETERS
from digitrec.store.folder import Folder

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from digitrec.data.digits import Digits
    from digitrec.data.memory import Data
    from digitrec.results.outcome import StudyResult
    from digitrec.results.study import Study

IN_MEMORY = "digits"  # in the default study directory, the name of data that are no file
RAYS = ("RAY_", "TUNE_")  # what the names of Ray's variables of the environment begin with


def tune(data: "Data" = "sample", labels: "ArrayLike | None" = None, **options: Any) -> "Study":
    """Train the missing trials of a study, as `digitrec tune` does, and return the study.

    The same call continues a study that stopped, and a wider one trains only what is new. If this
    process is connected to Ray, that Ray is used and stays as it is; otherwise Ray is started, and
    ended when the study is trained.

    Args:
        data: the digits to learn from: `sample`, `openml`, a file or its address in an object
            store; a DataFrame with the columns label, pixel0, pixel1, ...; or pixels from 0 to 255
            of any numeric dtype, (N, D) or (N, height, width), with `labels`.
        labels: the digit on each image, 0 to 9, (N,), where `data` does not have them.
        **options: the options of `digitrec tune`, with underscores in their names. A
            hyperparameter takes a value, a `Range`, text such as "1e-3..2", or a list of these.
            `test_data` takes what `data` takes, or a pair of images and labels.

    Returns:
        The study. Its `complete` is False if trials failed.

    Raises:
        InputError: the data, an option or the directory is not accepted; nothing was trained.
        OSError: the study directory can no longer be used, or Ray did not start.
        KeyboardInterrupt: a Ctrl-C came. The tables of what is finished are written by then;
            `open_study` shows them, and the same call continues the study.
    """
    request, given = make_request(data, labels, options)
    with _environment_restored():
        result = run(request, Console(), given)
    if result.interrupted:
        raise KeyboardInterrupt(
            f"{result.directory} keeps what is finished; the same call continues the study"
        )
    from digitrec.results.study import Study

    return Study(result)


def open_study(path: str | os.PathLike[str]) -> "Study":
    """Return the study in a directory, finished or not; write and train nothing.

    Args:
        path: of the study directory, or its address in an object store.

    Raises:
        InputError: there is no study in the directory, or its `study.json` is damaged.
    """
    from digitrec.results.outcome import look
    from digitrec.results.study import Study

    return Study(look(Folder.at(os.fspath(path))))


def run(
    request: Request, console: Console, given: "Mapping[str, Digits] | None" = None
) -> "StudyResult":
    """Check the machine, then run a study, for `tune` and for the command line.

    Args:
        request: what to train, and where.
        console: shows what is wrong with the machine, and the progress.
        given: digits that are in memory, as for `run_study`.

    Raises:
        InputError: as from `run_study`.
    """
    from digitrec.doctor.examine import cheap_checks, describe_diagnosis

    for one in cheap_checks(request):
        console.print(describe_diagnosis(one), highlight=False, soft_wrap=True)
    with warnings.catch_warnings():  # in a notebook, Ray asks for ipywidgets, which it does without
        warnings.filterwarnings("ignore", "IProgress not found")
        logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
        from digitrec.study import run_study  # torch and Ray take seconds to import
        from digitrec.tuning import session

    return run_study(request, console, session.Session, given)


def make_request(
    data: "Data", labels: "ArrayLike | None", options: Mapping[str, Any]
) -> "tuple[Request, dict[str, Digits]]":
    """Return the request of a call of `tune`, and the digits in memory, as for `run_study`.

    Raises:
        InputError: an option, or an image or a label in memory, is not accepted.
    """
    from digitrec.data.memory import as_digits
    from digitrec.store.directory import GIVEN, GIVEN_TEST

    sources = {"data": (data, labels), "test_data": (options.get("test_data"), None)}
    found = {name: as_digits(*source) for name, source in sources.items()}
    memory = {name: digits for name, digits in found.items() if digits is not None}
    files = {"data": GIVEN, "test_data": GIVEN_TEST}
    rest = {name: value for name, value in {**options, "data": data}.items() if name not in memory}
    if "data" in memory and rest.get("out") is None:
        rest["out"] = Path("results") / IN_MEMORY
    directory = Request.of(**rest).directory
    places = {name: str(directory / files[name]) for name in memory}
    given = {files[name]: replace(digits, source=places[name]) for name, digits in memory.items()}
    return Request.of(**rest, **places), given


@contextmanager
def _environment_restored() -> Iterator[None]:
    """Leave Ray's variables as they are: a program may start a Ray of its own afterwards."""
    before = _rays_variables()
    try:
        yield
    finally:
        for name in _rays_variables().keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _rays_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(RAYS)}


def _options() -> dict[str, tuple[Any, str]]:
    """Return the default and the help of each option of `tune`."""
    searched = {each.name: (each.values, each.help) for each in HYPERPARAMETERS.values()}
    drawing = {name: (default, each.help) for name, (each, default) in SEARCH_OPTIONS.items()}
    of_request = options_of_request().items()
    others = {name: (default_of(name), each.help) for name, each in of_request if name != "data"}
    return searched | drawing | others


def _document() -> None:
    """Give `tune` the signature and the descriptions of its options, as editors show them."""
    first, second, _ = inspect.signature(tune).parameters.values()
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, (default, _) in _options().items()
    ]
    signature = inspect.Signature([first, second, *keywords], return_annotation="Study")
    tune.__signature__ = signature  # type: ignore[attr-defined]
    lines = [f"    {name}: {text}".replace("%%", "%") for name, (_, text) in _options().items()]
    tune.__doc__ = "\n".join([f"{inspect.getdoc(tune)}\n\nOptions:", *lines])


_document()
