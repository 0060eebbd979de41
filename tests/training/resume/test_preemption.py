"""Signals end a run after its step, at once in what is made up later, and never twice in vain."""

from __future__ import annotations

import signal
import threading

import pytest

from gplan_jax.training.resume.preemption import RunStopped, StopSignals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_told(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with StopSignals() as signals:
        assert not signals.reached(1)
        signal.raise_signal(number)
        assert signals.reached(2) and signals.reached(3)
        stopped = signals.stopped(3, 10)
    assert stopped.exit_code == code
    assert "after step 3 of 10" in str(stopped) and "--resume" in str(stopped)
    assert f"{number.name}: finishing the step" in capsys.readouterr().err


def test_a_second_interrupt_aborts() -> None:
    with StopSignals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_what_is_made_up_later_ends_at_once() -> None:
    with StopSignals() as signals:
        with pytest.raises(RunStopped, match="after step 5 of 9"), signals.interruptible(5, 9):
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("not reached")
        # It had come before: nothing long is begun any more.
        with pytest.raises(RunStopped), signals.interruptible(5, 9):
            raise AssertionError("not reached")


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_other_threads_do_not_listen() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter() -> None:
        with StopSignals() as signals:
            seen.append((signal.getsignal(signal.SIGTERM), signals.reached(1)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
