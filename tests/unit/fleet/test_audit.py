"""A chain that is whole, and every way to break it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.audit import FIELDS, record_hash, verify_chain


def chain(count: int) -> list[dict[str, str]]:
    records: list[dict[str, str]] = []
    for number in range(1, count + 1):
        record = {field: f"{field} {number}" for field in FIELDS}
        record |= {"name": f"auditRecords/{number}", "previous_hash": records[-1]["hash"] if records else ""}
        record["hash"] = record_hash(record)
        records.append(record)
    return records


def test_a_whole_chain_and_its_end() -> None:
    assert verify_chain(chain(5)) == ""
    assert verify_chain(chain(5)[2:]) == ""
    assert verify_chain([]) == ""


@given(st.integers(0, 4), st.sampled_from(FIELDS), st.text(max_size=5))
def test_a_changed_field_is_found(at: int, field: str, value: str) -> None:
    records = chain(5)
    before = records[at][field]
    records[at][field] = value
    assert bool(verify_chain(records)) == (value != before)


def test_a_record_taken_out_put_in_or_replaced_is_found() -> None:
    assert "missing" in verify_chain(chain(5)[:2] + chain(5)[3:])
    assert "missing" in verify_chain(chain(5)[::-1])
    forged = chain(5)
    forged[2] = {**forged[2], "principal": "nobody"}
    forged[2]["hash"] = record_hash(forged[2])
    assert "auditRecords/4 does not hold the hash" in verify_chain(forged)


def test_fields_cannot_run_into_each_other() -> None:
    assert record_hash({"name": "ab", "time": "c"}) != record_hash({"name": "a", "time": "bc"})
