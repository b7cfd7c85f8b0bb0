"""What a node shows of its connections: a mapping and a set, which find an address in any form of it."""

from __future__ import annotations

from typing import Any

import pytest

from pea2pea import Config, Side
from pea2pea._admission import Admission, ConnectingView, ConnectionsView

ADDR = ("2001:db8::1", 80)
SPELLINGS = [ADDR, ("2001:DB8::1", 80), ("2001:db8:0:0::1", 80), ("2001:db8::1%1", 80)]
NO_ADDRESSES: list[Any] = [None, "x", 7, (), ("2001:db8::1",), ("2001:db8::1", "80"), ("2001:db8::1", 80, 0), (80, "x")]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_address_that_is_being_set_up_is_found_in_any_form(spelling: tuple[str, int]) -> None:
    admission = Admission(Config())
    view = ConnectingView(admission)
    assert spelling not in view
    admission.reserve(ADDR, Side.INITIATOR)
    assert spelling in view
    assert list(view) == [ADDR]
    assert (spelling[0], 81) not in view


@pytest.mark.parametrize("other", [*NO_ADDRESSES, ["2001:db8::1", 80]])
def test_what_is_no_address_is_not_being_set_up(other: object) -> None:
    admission = Admission(Config())
    admission.reserve(ADDR, Side.INITIATOR)
    assert other not in ConnectingView(admission)


@pytest.mark.parametrize("other", NO_ADDRESSES)
def test_what_is_no_address_is_no_key_of_a_connection(other: Any) -> None:
    view = ConnectionsView(Admission(Config()))
    assert other not in view
    assert view.get(other) is None
    with pytest.raises(KeyError):
        view[other]
