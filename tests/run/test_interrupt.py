"""A first signal becomes a flag, a second one acts as it always did."""

import os
import signal
import threading

import pytest

from dpet_jax.run.interrupt import EXIT_RESUMABLE, Interrupt

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def before():
    """Put recording handlers in place, as if a caller had them, and collect calls."""
    calls = []
    real = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, _: calls.append(number))
    yield calls
    for number, handler in real.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_only_sets_the_flag(number, before):
    interrupt = Interrupt()
    with interrupt.listening():
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
    assert before == []
    assert interrupt.requested


@pytest.mark.parametrize("second", SIGNALS)
def test_second_signal_acts_as_before(second, before):
    interrupt = Interrupt()
    with interrupt.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), second)
        assert before == [second]


def test_second_control_c_raises_keyboard_interrupt():
    def press_twice():
        with Interrupt().listening():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    real = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            press_twice()
    finally:
        signal.signal(signal.SIGINT, real)


@pytest.mark.parametrize("failing", [False, True])
def test_handlers_are_the_old_ones_afterwards(failing, before):
    handlers = [signal.getsignal(number) for number in SIGNALS]
    interrupt = Interrupt()
    try:
        with interrupt.listening():
            inside = [signal.getsignal(number) for number in SIGNALS]
            assert all(a is not b for a, b in zip(inside, handlers, strict=True))
            if failing:
                raise RuntimeError
    except RuntimeError:
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    os.kill(os.getpid(), signal.SIGTERM)
    assert before == [signal.SIGTERM]
    assert not interrupt.requested


def test_outside_the_main_thread_nothing_is_listened_to():
    handlers = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def work():
        with Interrupt().listening():
            seen.append([signal.getsignal(number) for number in SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handlers]


def test_exit_status_is_the_one_that_means_try_again():
    assert EXIT_RESUMABLE == os.EX_TEMPFAIL
