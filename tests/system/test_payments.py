"""A handler that asks by `task.delivery` pays once: the short form of tests/chaos/payments.py."""

import random
from pathlib import Path

from chaos.payments import payments

PAYMENTS = 30


def test_each_payment_is_made_once_whatever_interrupts_it(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    verdict = payments(tmp_path, seed, PAYMENTS)
    print(verdict)
    assert verdict.wrong == []
    assert verdict.payments == PAYMENTS
    assert verdict.repeated > 0
