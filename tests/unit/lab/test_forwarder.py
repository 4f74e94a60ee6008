from __future__ import annotations

import pytest

from lab.forwarder import Forward


def test_a_forward_reads_as_it_writes() -> None:
    forward = Forward(40001, "10.77.0.10", 7443)
    assert Forward.parse(str(forward)) == forward


@pytest.mark.parametrize("text", ["", "1", "x=10.0.0.1:1", "1=10.0.0.1"])
def test_what_is_no_forward_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Forward.parse(text)
