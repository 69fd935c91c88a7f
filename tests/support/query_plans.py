"""Rows that PostgreSQL reads, from its query plans, which do not depend on the machine."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext

Plan = dict[str, Any]


def plans_of(ask: Callable[[], object]) -> list[Plan]:
    """Return the plans of the queries of `ask`, by EXPLAIN (ANALYZE, BUFFERS)."""
    with CaptureQueriesContext(connection) as captured:
        ask()
    plans = []
    for query in captured.captured_queries:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query['sql']}")
            (plan,) = cursor.fetchone()
        plans.append((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    return plans


def rows_of(plan: Plan) -> Iterator[tuple[str, float]]:
    """Yield each table of a plan and the number of rows read, filtered ones included."""
    if "Relation Name" in plan:
        rows = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        yield plan["Relation Name"], rows * plan["Actual Loops"]
    for below in plan.get("Plans", ()):
        yield from rows_of(below)
