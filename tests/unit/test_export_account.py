"""An export's account as it is kept, to go on with."""

from __future__ import annotations

import json
from decimal import Decimal

from clickstream.export import ExportAccount, account_from_fields, fields_from_account
from clickstream.models import Money


def test_an_account_that_was_kept_is_the_same() -> None:
    """Counts, exact totals and the digest survive the way into JSON and back."""
    totals = tuple(
        Money.model_construct(currency_code=code, amount=Decimal(amount))
        for code, amount in (("EUR", "-0.100"), ("JPY", "9" * 40))
    )
    account = ExportAccount(3, 2**53 + 1, totals, bytes(range(32)))

    read = account_from_fields(json.loads(json.dumps(fields_from_account(account))))

    assert account == read
    assert [total.text for total in totals] == [total.text for total in read.totals]
