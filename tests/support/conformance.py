"""Requests by schemathesis, of an OpenAPI document, to the server that the document is of."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hypothesis
import requests
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation

# Valid requests may have a condition that does not hold, or a range beyond the end.
STATUSES = ["2xx", 301, 302, 304, 401, 403, 404, 412, 416]

CONFIG = {"checks": {"positive_data_acceptance": {"expected-statuses": STATUSES}}}


def conform(
    document: dict[str, Any],
    origin: str,
    mode: GenerationMode,
    *,
    examples: int,
    headers: Mapping[str, str],
    accept: Callable[[APIOperation], bool] = lambda operation: True,
    adapt: Callable[[Case], None] = lambda case: None,
) -> Counter[int]:
    """Send the same `examples` requests for each operation that `accept` accepts.

    `adapt` may change a request before it is sent, with `headers` added. Fails for a response that
    the document does not allow, by all checks of schemathesis. Returns the statuses.
    """
    schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(CONFIG))
    statuses: Counter[int] = Counter()
    with requests.Session() as session:
        session.trust_env = False
        for found in schema.get_all_operations():
            operation = found.ok()
            if accept(operation):
                strategy = operation.as_strategy(generation_mode=mode)

                @hypothesis.settings(max_examples=examples, phases=[hypothesis.Phase.generate])
                @hypothesis.given(case=strategy)
                def send(case: Case) -> None:
                    adapt(case)
                    response = case.call(
                        base_url=origin,
                        session=session,
                        headers=dict(headers),
                        allow_redirects=False,
                    )
                    statuses[response.status_code] += 1
                    case.validate_response(response, headers=dict(headers))

                send()
    return statuses


def with_values(document: dict[str, Any], values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the document with parameters that have one of these values, as by `enum`.

    The names are those in `components`, or of path parameters of plugins' routes.
    """

    def replaced(node: Any) -> Any:
        if isinstance(node, list):
            return [replaced(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "in" in node and node.get("name") in values:
            return {**node, "schema": {"type": "string", "enum": list(values[node["name"]])}}
        return {name: replaced(value) for name, value in node.items()}

    changed: dict[str, Any] = replaced(document)
    return changed
