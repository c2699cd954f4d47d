"""The dashboard of a Ray cluster."""

import json

from digitrec.errors import InputError

CONNECT_SECONDS = 5.0


def asks_for_token(url: str) -> bool:
    """Return whether a dashboard admits only users with the token.

    Raises:
        InputError: no Ray dashboard answers at this address.
    """
    import http.client  # with ssl, a tenth of a second, which `tune` does not need
    import urllib.error
    import urllib.request

    spec = f"{url.rstrip('/')}/api/authentication_mode"
    try:
        with urllib.request.urlopen(spec, timeout=CONNECT_SECONDS) as answer:
            return str(json.load(answer)["authentication_mode"]) == "token"
    except urllib.error.HTTPError as error:
        reason = f" ({error.code})"
    except urllib.error.URLError as error:
        raise InputError(f"no Ray dashboard answers at {url}: {error.reason}") from error
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
        reason = ""
    raise InputError(
        f"{url}: what answers there is not a Ray dashboard{reason}, whose port is often 8265"
    )
