"""Interleaved rounds, on a clock that the test turns itself."""

import gc
from collections import Counter
from itertools import pairwise, permutations

import pytest
import torch

from perakit.bench import timing
from perakit.bench.timing import TURN, WARM_UP, Step, interleave, order


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for `clock.advance(seconds)`."""

    class Clock:
        now = 0.0

        def advance(self, seconds):
            self.now += seconds

    hand = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: hand.now)
    return hand


def test_an_entry_is_what_the_step_took_in_that_round(clock):
    rounds = {"a": 0, "b": 0}

    def take(name, seconds):
        rounds[name] += 1
        clock.advance(seconds * rounds[name])

    found = interleave(
        {"a": Step(lambda: take("a", 1.0)), "b": Step(lambda: take("b", 10.0))}, repeats=3
    )
    first = WARM_UP + 1
    assert found == {
        "a": [pytest.approx(first + k) for k in range(3)],
        "b": [pytest.approx(10 * (first + k)) for k in range(3)],
    }


def test_a_reset_comes_before_every_step_and_costs_nothing(clock):
    events = []

    def reset():
        events.append("reset")
        clock.advance(100.0)

    def run():
        events.append("run")
        clock.advance(1.0)

    assert interleave({"one": Step(run, reset)}, repeats=2) == {"one": [pytest.approx(1.0)] * 2}
    assert events == ["reset", "run"] * (WARM_UP + 2)


def test_a_short_step_fills_its_turn_and_its_mean_is_kept(clock):
    counts = {"short": 0, "long": 0}

    def take(name, seconds):
        counts[name] += 1
        clock.advance(seconds)

    steps = {
        "short": Step(lambda: take("short", TURN / 5)),
        "long": Step(lambda: take("long", 3 * TURN)),
    }
    found = interleave(steps, repeats=4)
    assert counts == {"short": WARM_UP + 5 * 4, "long": WARM_UP + 4}
    assert found["short"] == [pytest.approx(TURN / 5)] * 4


def test_a_turn_may_be_one_step_however_short(clock):
    count = []
    found = interleave({"one": Step(lambda: (count.append(1), clock.advance(1e-6)))}, 4, fill=0.0)
    assert (len(count), found) == (WARM_UP + 4, {"one": [pytest.approx(1e-6)] * 4})


def test_rounds_are_reported_and_rounds_hold_everybody_once(clock):
    seen, rounds = [], []

    def step(name):
        return Step(lambda: (seen.append(name), clock.advance(1.0)))

    interleave({name: step(name) for name in "abcd"}, 5, progress=lambda: rounds.append(len(seen)))
    assert rounds == [4 * (k + 1) for k in range(WARM_UP + 5)]
    for k in range(WARM_UP + 5):
        assert sorted(seen[4 * k : 4 * k + 4]) == list("abcd")


@pytest.mark.parametrize("count", range(1, 10))
def test_everybody_stands_everywhere_and_follows_everybody_equally_often(count):
    times = 1 if count % 2 == 0 else 2
    rounds = [order(range(count), turn) for turn in range(times * count)]
    assert all(sorted(one) == list(range(count)) for one in rounds)
    assert all(
        Counter(place) == dict.fromkeys(range(count), times) for place in zip(*rounds, strict=True)
    )
    assert Counter(pair for one in rounds for pair in pairwise(one)) == dict.fromkeys(
        permutations(range(count), 2), times
    )


def test_the_garbage_collector_rests_meanwhile_and_is_put_back(clock):
    def look():
        clock.advance(1.0)
        assert not gc.isenabled()

    def fail():
        raise RuntimeError("broken step")

    assert gc.isenabled()
    interleave({"look": Step(look)}, 2)
    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="broken step"):
        interleave({"fail": Step(fail)}, 2)
    assert gc.isenabled()
    gc.disable()
    try:
        interleave({"look": Step(look)}, 1)
        assert not gc.isenabled(), "who had it off keeps it off"
    finally:
        gc.enable()


def test_on_a_gpu_a_turn_is_a_burst_between_two_events(monkeypatch):
    """The queue is empty when it starts, and nobody waits before it ends."""
    seen = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.place = len(seen)
            seen.append("event")

        def synchronize(self):
            seen.append("wait for it")

        def elapsed_time(self, end):
            return 4.0 * seen[self.place : end.place].count("run")  # milliseconds

    monkeypatch.setattr(timing.torch.cuda, "Event", Event)
    monkeypatch.setattr(timing.torch.cuda, "synchronize", lambda: seen.append("wait"))
    step = Step(lambda: seen.append("run"), lambda: seen.append("reset"))
    found = interleave({"one": step}, 2, "cuda")
    assert found == {"one": [pytest.approx(0.004)] * 2}
    one = ["reset", "wait", "event", "run", "reset", "event", "wait for it"]
    burst = ["reset", "wait", "event", *5 * ["run", "reset"], "event", "wait for it"]
    assert seen == 2 * one + 2 * burst


def test_speed_is_operations_over_the_quickest_round(clock, monkeypatch):
    monkeypatch.setattr(
        timing, "interleave", lambda steps, repeats, device: {"product": [0.5, 0.25, 1.0]}
    )
    assert timing.speed("cpu", torch.float32) == 2 * 1024**3 / 0.25
