"""Quick checks that a Ray cluster answers at an address.

Ray itself tries for 20 seconds with a missing or wrong token, and for minutes if nothing answers,
and then gives no reason.
"""

import os
import socket

from digitrec.errors import InputError
from digitrec.tuning import ray_internals
from digitrec.tuning.ray_internals import CLUSTER_QUESTION
from digitrec.tuning.token import HOW_TO_GET_ONE, find_token

CONNECT_SECONDS = 5.0
Metadata = tuple[tuple[str, str], ...]


def check_address(address: str) -> None:
    """Check that the head of a Ray cluster answers and would accept this process.

    Args:
        address: HOST:PORT of the head's GCS, or "auto"; "local" is always accepted.

    Raises:
        InputError: it is not the address of a Ray cluster, nothing answers, or the token is wrong.
    """
    if address == "local":
        return
    where = find_head() if address == "auto" else address
    if where is None:
        return
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal() or "/" in where:
        raise InputError(
            f"{where} is not the address of a Ray cluster, which is HOST:PORT (of its GCS, often "
            "6379) or 'auto'. To run on a cluster by its dashboard's address, use `ray job submit`"
        )
    try:
        connect(where)
    except (OSError, OverflowError) as error:
        raise no_cluster(where, error) from error
    check_token(where, token_to_show(found=address == "auto"))


def find_head() -> str | None:
    """Return the address of the Ray cluster that this machine is part of.

    None: with this version of Ray, only connecting finds it.

    Raises:
        InputError: the machine is part of no cluster, or of more than one.
    """
    try:
        return ray_internals.find_head()
    except (ConnectionError, ValueError) as error:
        raise InputError(f"auto: {error}") from error


def connect(address: str) -> None:
    """Check that a program listens at HOST:PORT.

    Raises:
        OSError, OverflowError: none does.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def no_cluster(address: str, reason: object) -> InputError:
    """Return the error that no cluster is at an address."""
    return InputError(f"no Ray cluster answers at {address}: {reason}")


def answers(address: str) -> bool:
    """Return whether a program listens at HOST:PORT."""
    try:
        connect(address)
    except OSError:
        return False
    return True


def token_to_show(*, found: bool) -> Metadata:
    """Return the token that Ray would send to a head, as metadata of a call; empty: none.

    Args:
        found: whether the address was found, not given; Ray then sends a token by default.

    Raises:
        InputError: Ray is told to send a token, but there is none.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    token = find_token()
    if mode == "token" and token is None:
        raise InputError(f"RAY_AUTH_MODE is token, and there is no token: {HOW_TO_GET_ONE}")
    if token and (mode == "token" or (found and not mode)):
        return (("authorization", f"Bearer {token.text}"),)
    return ()


def check_token(address: str, metadata: Metadata) -> None:
    """Check that a head accepts a token, or asks for none.

    Raises:
        InputError: it refuses the token, or it is not the head of a Ray cluster.
    """
    if os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}:
        return  # Ray's handling of certificates is not repeated here
    import grpc  # a tenth of a second, which only clusters need

    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            channel.unary_unary(CLUSTER_QUESTION)(b"", timeout=CONNECT_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise no_cluster(address, "another program listens there") from error
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                wrong = "does not accept this token" if metadata else "asks for a token"
                raise InputError(
                    f"the Ray cluster at {address} {wrong}: {HOW_TO_GET_ONE}, and set "
                    "RAY_AUTH_MODE to token"
                ) from error
