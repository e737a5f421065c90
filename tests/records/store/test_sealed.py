"""What is sealed comes back whole, or not at all: every byte counts."""

import random

import pytest

from corral.supervisor.records.store.sealed import HEADER_BYTES, MAGIC, VERSION, WORTH_BYTES, seal, unseal
from corral.worker.contract import codec
from corral.worker.contract.errors import Corrupted

pytestmark = pytest.mark.core

SMALL = codec.encode({"seen": 7})
LONG = codec.encode({"pages": ["the horse is brown"] * 40})
NOISE = random.Random(7).randbytes(WORTH_BYTES * 2)


def reason(blob: bytes, limit: int | None = None) -> object:
    with pytest.raises(Corrupted) as refusal:
        unseal(blob, "checkpoint 7") if limit is None else unseal(blob, "checkpoint 7", limit)
    assert refusal.value.data["record"] == "checkpoint 7"
    return refusal.value.data["reason"]


@pytest.mark.parametrize("data", [b"", b"null", SMALL, LONG, NOISE], ids=len)
@pytest.mark.parametrize("compress", [True, False])
def test_what_was_sealed_comes_back(data: bytes, compress: bool) -> None:
    assert unseal(seal(data, compress=compress), "x") == data


def test_what_is_worth_it_is_compressed_and_what_grows_is_not() -> None:
    assert len(seal(LONG, compress=True)) < len(LONG) / 2
    assert len(seal(LONG, compress=False)) == HEADER_BYTES + len(LONG)
    assert len(seal(NOISE, compress=True)) == HEADER_BYTES + len(NOISE)


@pytest.mark.parametrize("data", [SMALL, LONG], ids=len)
def test_every_byte_that_is_changed_is_noticed(data: bytes) -> None:
    blob = seal(data, compress=True)
    for at in range(len(blob)):
        for bit in range(8):
            changed = bytearray(blob)
            changed[at] ^= 1 << bit
            reason(bytes(changed))


@pytest.mark.parametrize("data", [SMALL, LONG], ids=len)
def test_what_is_cut_off_or_grows_is_noticed_wherever(data: bytes) -> None:
    blob = seal(data, compress=True)
    for end in range(len(blob)):
        reason(blob[:end])
    reason(blob + b"\0")
    reason(blob + blob)


def test_a_newer_format_is_named_as_such() -> None:
    blob = bytearray(seal(SMALL, compress=False))
    blob[len(MAGIC)] = VERSION + 1
    assert reason(bytes(blob)) == "newer-version"


def test_a_value_larger_than_a_caller_may_seal_is_refused() -> None:
    blob = seal(LONG, compress=True)
    assert unseal(blob, "x", len(LONG)) == LONG
    assert reason(blob, len(LONG) - 1) == "too-large"


def test_json_from_before_there_were_envelopes_is_read() -> None:
    for data in (b"null", SMALL, LONG, b' {"a": 1}\n', b'"\xc3\xbc"'):
        assert unseal(data, "x") == data


def test_a_header_holds_what_no_json_has() -> None:
    damaged = b'"' + seal(SMALL, compress=False)[1:]
    assert reason(damaged) == "no-envelope"
    assert reason(damaged + b'"') == "no-envelope"
