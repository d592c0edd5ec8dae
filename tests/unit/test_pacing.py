"""Which job may be called now: bounds that hold, turns that come round, and simulations of endpoints that hang."""

from collections import Counter
from heapq import heappop, heappush
from math import inf
from typing import Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from howk.domain.pacing import PaceLimits, Pacing

LIMITS = PaceLimits(slots=512, window=10_240, window_bytes=64 << 20, per_endpoint=50, per_domain=0)
CALL = 0.005


class Job:
    """A job as the room might have it; two of them are never the same."""

    def __init__(
        self,
        key: str,
        domain: str = "",
        size: int = 1,
        entered: float = 0.0,
        ready_at: float = 0.0,
        patient: bool = False,
    ) -> None:
        self.key = key
        self.domain = domain
        self.size = size
        self.entered = entered
        self.ready_at = ready_at
        self.patient = patient

    def __repr__(self) -> str:
        return f"Job({self.key!r})"


class Bench:
    """A queue with receivers behind it, in simulated time: a call to a key takes as long as `takes` says."""

    def __init__(self, limits: PaceLimits = LIMITS, takes: dict[str, float] | None = None, cap: int = 0) -> None:
        self.pacing = Pacing[Job](limits)
        self.takes = takes or {}
        self.cap = cap
        self.now = 1_000.0
        self.order = 0
        self.ends: list[tuple[float, int, Job]] = []
        self.flying: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.waits: dict[str, list[float]] = {}
        self.started: list[Job] = []
        self.overdue: list[Job] = []

    def enter(self, key: str, **how: float) -> Job:
        job = Job(key, entered=self.now)
        answer = self.pacing.enter(job, key, "", 1, self.now, cap=self.cap, **how)  # pyright: ignore[reportArgumentType]
        self.answers[answer] += 1
        if answer == "start":
            self.begin([job])
        return job

    def begin(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.started.append(job)
            self.flying[job.key] += 1
            self.waits.setdefault(job.key, []).append(self.now - job.entered)
            self.order += 1
            takes = self.takes.get(job.key, CALL)
            if takes < inf:
                heappush(self.ends, (self.now + takes, self.order, job))
        assert self.flying.total() <= 512

    def tick(self) -> None:
        started, overdue = self.pacing.tick(self.now)
        self.begin(started)
        self.overdue += overdue

    def end(self, job: Job, good: bool | None = True) -> list[Job]:
        self.flying[job.key] -= 1
        jobs = self.pacing.finished(job.key, "", job, good, self.now)
        self.begin(jobs)
        return jobs

    def run_until(self, time: float) -> None:
        """Let calls end and tick as `next_tick` asks for it, up to an instant."""
        while True:
            tick = self.now + self.pacing.next_tick(self.now)
            end = self.ends[0][0] if self.ends else inf
            if min(tick, end) > time:
                self.now = time
                return
            self.now = max(self.now, min(tick, end))
            if tick <= end:
                self.tick()
            else:
                self.end(heappop(self.ends)[2])


def test_a_burst_to_one_healthy_endpoint_finds_room_and_is_never_overdue() -> None:
    bench = Bench()
    jobs = [bench.enter("ep") for _ in range(500)]
    assert bench.answers == Counter(wait=496, start=4)
    bench.run_until(bench.now + 1)
    assert bench.started == jobs
    assert bench.overdue == []
    # Slow start doubles up to the cap of 50, which 500 calls of 5 ms pass in about twelve rounds.
    assert max(bench.waits["ep"]) < 0.1


def test_endpoints_that_never_answer_leave_the_others_unhindered() -> None:
    hanging = {f"hangs{number}" for number in range(20)}
    keys = [*sorted(hanging), *(f"ep{number}" for number in range(180))]
    bench = Bench(takes=dict.fromkeys(hanging, inf))
    start, rate = bench.now, 5_000
    entered: Counter[str] = Counter()
    for number in range(30 * rate):
        bench.run_until(start + number / rate)
        # Any order that is not the order of the keys.
        key = keys[number * 77 % len(keys)]
        entered[key] += 1
        bench.enter(key)
    bench.run_until(bench.now + 10)
    healthy = {key: waits for key, waits in bench.waits.items() if key not in hanging}
    assert sum(map(len, healthy.values())) == sum(entered[key] for key in entered if key not in hanging)
    assert max(map(max, healthy.values())) < CALL
    assert bench.answers["full"] == 0
    # Those that hang hold what they took at first, and what waited for them is given back.
    assert all(bench.flying[key] == 4 for key in hanging)
    assert Counter(job.key for job in bench.overdue) == {key: entered[key] - 4 for key in hanging}


def test_all_endpoints_may_hang_and_one_more_still_goes() -> None:
    bench = Bench(takes={f"hangs{number}": inf for number in range(120)})
    for number in range(120 * 8):
        bench.enter(f"hangs{number % 120}")
    bench.enter("ep")
    assert bench.flying["ep"] == 1


def test_the_limit_doubles_each_round_then_grows_by_one_and_is_halved_by_congestion() -> None:
    bench = Bench()
    for _ in range(600):
        bench.enter("ep")
    rounds: list[int] = []

    def round_trip(good: bool) -> None:
        calls, bench.ends = [job for _, _, job in sorted(bench.ends)], []
        rounds.append(len(calls))
        bench.now += CALL
        for job in calls:
            bench.end(job, good)

    for good in (True, True, False, True, True):
        round_trip(good)
    assert rounds == [4, 8, 16, 8, 9]


def test_congestion_halves_the_limit_at_most_once_a_second_and_never_below_one() -> None:
    bench = Bench()
    for _ in range(200):
        bench.enter("ep")
    for _ in range(20):
        bench.now += 0.4
        for _ in range(bench.flying["ep"]):
            bench.end(heappop(bench.ends)[2], good=False)
    assert bench.flying["ep"] == 1


def test_what_says_nothing_moves_no_limit() -> None:
    bench = Bench()
    for _ in range(100):
        bench.enter("ep")
    for _ in range(50):
        bench.end(heappop(bench.ends)[2], good=None)
    assert bench.flying["ep"] == 4


def test_calls_far_below_the_limit_do_not_raise_it() -> None:
    bench = Bench()
    for _ in range(100):
        bench.enter("ep")
        bench.run_until(bench.now + 2 * CALL)
    for _ in range(20):
        bench.enter("ep")
    assert bench.flying["ep"] == 4


def test_a_cap_of_the_endpoint_bounds_it_and_a_lowered_one_acts_from_then_on() -> None:
    bench = Bench(cap=2)
    for _ in range(50):
        bench.enter("ep")
    assert bench.flying["ep"] == 2
    bench.cap = 1
    bench.enter("ep")
    bench.end(heappop(bench.ends)[2])
    assert bench.flying["ep"] == 1
    bench.end(heappop(bench.ends)[2])
    assert bench.flying["ep"] == 1


def test_age_alone_is_congestion() -> None:
    bench = Bench(takes={"ep": 7.0})
    for _ in range(5):
        bench.enter("ep", patient=True)
    bench.run_until(bench.now + 6.9)
    assert bench.flying["ep"] == 4
    # 4 calls, and after 2, 4 and 6 s a limit of 2, 1 and 1: what ends makes room only at last.
    for _ in range(3):
        assert bench.end(heappop(bench.ends)[2], good=None) == []
    assert len(bench.end(heappop(bench.ends)[2], good=None)) == 1


@pytest.mark.parametrize(("slots", "flying"), [(32, 2), (31, 1)])
def test_an_endpoint_whose_old_calls_hold_a_sixteenth_starts_no_more(slots: int, flying: int) -> None:
    bench = Bench(LIMITS._replace(slots=slots), takes={"ep": 600.0})
    first = bench.enter("ep")
    bench.run_until(bench.now + 2.1)
    second = bench.enter("ep")
    # The one old call brought the limit to 2; it is a whole sixteenth of 31, and half of that of 32.
    assert bench.flying["ep"] == flying
    assert bench.end(first) == [second][flying - 1 :]


def test_an_endpoint_takes_its_share_of_what_is_free_and_leaves_the_rest() -> None:
    bench = Bench(LIMITS._replace(slots=8))
    greedy = [bench.enter("greedy") for _ in range(4)]
    assert bench.started == greedy[:3]
    others = [bench.enter(f"ep{number}") for number in range(5)]
    assert bench.started[3:] == others
    # Three calls are more than a quarter of what gets free, and one.
    assert [bench.end(job, good=None) for job in others] == [[], [], [], [], []]
    assert bench.end(greedy[0], good=None) == [greedy[3]]


def test_old_calls_that_hold_half_of_all_slots_stop_the_endpoints_they_belong_to_and_no_other() -> None:
    slots = 64
    bench = Bench(LIMITS._replace(slots=slots), takes={f"slow{number}": 600.0 for number in range(32)})
    jobs = [bench.enter(f"slow{number}") for number in range(32)]
    bench.run_until(bench.now + 2.1)
    # Their limit is 2, their own old calls are fewer than a sixteenth: only the half holds them.
    late = bench.enter("slow0", patient=True)
    bench.enter("ep")
    assert (bench.flying["slow0"], bench.flying["ep"]) == (1, 1)
    bench.run_until(bench.now + CALL)
    assert bench.end(jobs[7]) == [late]


def test_what_waits_only_for_a_slot_is_not_overdue_and_endpoints_take_turns() -> None:
    bench = Bench(LIMITS._replace(slots=4), takes=dict.fromkeys("abcdefgh", 1.0))
    for _ in range(3):
        for key in "abcdefgh":
            bench.enter(key)
    bench.run_until(bench.now + 6.5)
    assert bench.overdue == []
    assert len(bench.started) == 24
    turns = ["".join(job.key for job in bench.started[at : at + 8]) for at in range(0, 24, 8)]
    assert [sorted(turn) for turn in turns] == [list("abcdefgh")] * 3


def test_a_greedy_endpoint_does_not_starve_one_that_comes_later() -> None:
    bench = Bench(LIMITS._replace(slots=4))
    for _ in range(400):
        bench.enter("greedy")
    modest = bench.enter("modest")
    assert len(bench.started) < 5
    bench.run_until(bench.now + 2 * CALL)
    assert modest in bench.started


def test_a_job_is_not_started_before_it_is_ready_and_none_overtakes_it() -> None:
    bench = Bench()
    first = bench.enter("ep", ready_at=bench.now + 0.5)
    second = bench.enter("ep")
    assert bench.pacing.next_tick(bench.now) == pytest.approx(0.5)
    bench.run_until(bench.now + 0.499)
    assert bench.started == []
    bench.run_until(bench.now + 0.001)
    assert bench.started == [first, second]


def test_a_job_is_overdue_once_its_patience_is_over_and_what_is_behind_it_goes_on() -> None:
    bench = Bench()
    first = bench.enter("ep", ready_at=bench.now + 60)
    bench.run_until(bench.now + 1)
    second = bench.enter("ep")
    bench.run_until(bench.now + 1.1)
    assert (bench.overdue, bench.started) == ([first], [second])


def test_a_patient_job_has_its_place_while_the_window_has_room_and_stays() -> None:
    bench = Bench(LIMITS._replace(window=32), takes={"ep": inf})
    for _ in range(4):
        bench.enter("ep")
    for _ in range(2):
        bench.enter("ep")
    assert bench.answers == Counter(start=4, wait=1, full=1)
    for _ in range(32):
        bench.enter("ep", patient=True)
    assert bench.answers == Counter(start=4, wait=32, full=2)
    bench.run_until(bench.now + 60)
    assert len(bench.overdue) == 1


def test_an_endpoint_may_fill_a_sixteenth_of_the_free_bytes_and_always_wait_with_one_job_that_fits() -> None:
    pacing = Pacing[Job](LIMITS._replace(slots=1, window_bytes=1_600))
    assert pacing.enter(Job("other"), "other", "", 1, 0.0) == "start"
    answers = [pacing.enter(Job("ep"), "ep", "", size, 0.0) for size in (50, 50, 1)]
    assert answers == ["wait", "full", "wait"]
    assert pacing.enter(Job("b"), "b", "", 1_549, 0.0) == "wait"
    assert pacing.enter(Job("c"), "c", "", 1, 0.0) == "full"


def test_appetite_is_the_slots_that_nothing_waits_for() -> None:
    bench = Bench(LIMITS._replace(slots=6), takes={"b": inf})
    assert bench.pacing.appetite() == 6
    for _ in range(3):
        bench.enter("a")
    assert bench.pacing.appetite() == 3
    for _ in range(30):
        bench.enter("b")
    bench.enter("c")
    bench.enter("d")
    assert bench.pacing.appetite() == 0


def test_what_waits_for_an_endpoint_that_is_slow_leaves_the_appetite_as_it_is() -> None:
    bench = Bench(takes={"a": inf, "b": inf})
    for _ in range(300):
        bench.enter("a")
    bench.enter("b")
    # It is taken for fast until it has had the time to show it.
    assert bench.pacing.appetite() == 512 - 301
    bench.now += 0.2
    bench.tick()
    assert bench.pacing.appetite() == 507


@pytest.mark.parametrize(("takes", "others", "fits"), [(0.01, True, True), (0.5, True, False), (0.5, False, True)])
def test_a_backlog_of_one_endpoint_is_fetched_as_fast_as_it_goes_unless_the_others_would_wait_for_it(
    takes: float, others: bool, fits: bool
) -> None:
    bench = Bench(takes={"a": takes, "b": inf})
    if others:
        bench.enter("b")
    for _ in range(180):
        for _ in range(bench.pacing.appetite()):
            bench.enter("a")
        bench.run_until(bench.now + 0.01)
    assert (bench.answers["full"] == 0) is fits
    assert bench.answers["start"] > 0


def test_a_domain_has_a_bound_over_its_endpoints_which_take_turns() -> None:
    pacing = Pacing[Job](LIMITS._replace(per_domain=2))
    jobs = [Job(f"ep{number % 5}", "example.com") for number in range(20)]
    flying = [job for job in jobs if pacing.enter(job, job.key, job.domain, 1, 0.0) == "start"]
    assert len(flying) == 2
    assert pacing.enter(Job("x", "example.net"), "x", "example.net", 1, 0.0) == "start"
    done: list[Job] = []
    while flying:
        done.append(job := flying.pop(0))
        flying += pacing.finished(job.key, job.domain, job, True, 0.0)
        assert len(flying) <= 2
    assert len(done) == 20
    assert {job.key for job in done[:6]} == {f"ep{number}" for number in range(5)}


def test_endpoints_that_rest_are_forgotten_the_longest_unused_first_and_begin_anew() -> None:
    bench = Bench()

    def learned(key: str) -> int:
        for _ in range(40):
            bench.enter(key)
        most = bench.flying[key]
        bench.run_until(bench.now + 1)
        return most

    assert (learned("a"), learned("b")) == (4, 4)
    assert learned("a") > 4
    for number in range(16_383):
        bench.enter(f"other{number}")
        bench.run_until(bench.now + 2 * CALL)
    assert learned("a") > 4
    assert learned("b") == 4


def test_drain_gives_back_what_waits_and_leaves_what_flies() -> None:
    bench = Bench()
    jobs = [bench.enter("a") for _ in range(20)] + [bench.enter("b", ready_at=bench.now + 9) for _ in range(5)]
    assert Counter(bench.pacing.drain()) == Counter(jobs[4:])
    assert bench.pacing.drain() == []
    assert bench.pacing.appetite() == 508
    bench.run_until(bench.now + 100)
    assert bench.started == jobs[:4]
    assert bench.overdue == []
    assert bench.pacing.next_tick(bench.now) == inf


def test_a_call_can_be_finished_once_only() -> None:
    bench = Bench()
    job = bench.enter("a")
    bench.end(job)
    with pytest.raises(KeyError):
        bench.pacing.finished("a", "", job, True, bench.now)


KEYS = ["a", "b", "c", "d", "e"]
DOMAINS = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "y"}


class PacingMachine(RuleBasedStateMachine):
    """Every job is in one place, bounds hold, and nothing that could go waits for nothing."""

    limits = PaceLimits(slots=6, window=40, window_bytes=1_000, per_endpoint=5, per_domain=0)

    def __init__(self) -> None:
        super().__init__()
        self.pacing = Pacing[Job](self.limits)
        self.now = 10.0
        self.flying: list[Job] = []
        self.waiting: dict[str, list[Job]] = {key: [] for key in KEYS}
        self.cap = dict.fromkeys(KEYS, self.limits.per_endpoint)

    def all_waiting(self) -> list[Job]:
        return [job for jobs in self.waiting.values() for job in jobs]

    def begin(self, jobs: list[Job]) -> None:
        for job in jobs:
            assert self.waiting[job.key].pop(0) is job
            self.fly(job)

    def fly(self, job: Job) -> None:
        assert job.ready_at <= self.now
        mine = sum(other.key == job.key for other in self.flying)
        assert mine < self.cap[job.key]
        assert 4 * (mine - 1) < self.limits.slots - len(self.flying)
        self.flying.append(job)
        near = sum(other.domain == job.domain for other in self.flying)
        assert near <= (self.limits.per_domain or inf)

    @rule(
        key=st.sampled_from(KEYS),
        size=st.integers(0, 60),
        cap=st.sampled_from([0, 0, 0, 1, 2]),
        later=st.sampled_from([0.0, 0.0, 0.0, 0.3, 5.0]),
        patient=st.booleans(),
    )
    def enter(self, key: str, size: int, cap: int, later: float, patient: bool) -> None:
        job = Job(key, DOMAINS[key], size, self.now, self.now + later, patient)
        self.cap[key] = cap or self.limits.per_endpoint
        before = self.all_waiting()
        answer: Literal["start", "wait", "full"] = self.pacing.enter(
            job, key, job.domain, size, self.now, cap=cap, ready_at=job.ready_at, patient=patient
        )
        free = self.limits.window - len(before)
        free_bytes = self.limits.window_bytes - sum(other.size for other in before)
        if answer == "start":
            assert self.waiting[key] == []
            self.fly(job)
        elif answer == "wait":
            self.waiting[key].append(job)
            mine = self.waiting[key]
            if not patient and len(mine) > 1:
                assert len(mine) <= free / 16
                assert sum(other.size for other in mine) <= free_bytes / 16
        else:
            fits = free > 0 and size <= free_bytes
            assert not fits or (self.waiting[key] and not patient)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), good=st.sampled_from([True, True, False, None]))
    def finish(self, data: st.DataObject, good: bool | None) -> None:
        job = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.begin(self.pacing.finished(job.key, job.domain, job, good, self.now))

    @rule(step=st.sampled_from([0.001, 0.1, 0.7, 2.5]))
    def pass_time(self, step: float) -> None:
        self.now += step

    @rule()
    def tick(self) -> None:
        started, overdue = self.pacing.tick(self.now)
        heads = {id(job) for job in overdue}
        for job in overdue:
            assert not job.patient
            assert self.now - job.entered >= self.limits.patience - 1e-9
        self.waiting = {key: [job for job in jobs if id(job) not in heads] for key, jobs in self.waiting.items()}
        self.begin(started)
        if not self.flying:
            assert all(jobs[0].ready_at > self.now for jobs in self.waiting.values() if jobs)
        pause = self.pacing.next_tick(self.now)
        assert pause > 0
        if not self.flying and not self.all_waiting():
            assert pause == inf
        elif 1e-6 < pause < inf:
            assert self.pacing.tick(self.now + pause / 2) == ([], [])

    @rule()
    def sleep_as_told(self) -> None:
        pause = self.pacing.next_tick(self.now)
        if pause < inf:
            self.now += pause
            self.tick()

    @rule()
    def drain(self) -> None:
        drained = self.pacing.drain()
        for key, jobs in self.waiting.items():
            assert [job for job in drained if job.key == key] == jobs
        assert len(drained) == len(self.all_waiting())
        self.waiting = {key: [] for key in KEYS}

    @invariant()
    def the_bounds_hold(self) -> None:
        waiting = self.all_waiting()
        assert len(self.flying) <= self.limits.slots
        assert len(waiting) <= self.limits.window
        assert sum(job.size for job in waiting) <= self.limits.window_bytes
        assert 0 <= self.pacing.appetite() <= self.limits.slots - len(self.flying)

    def teardown(self) -> None:
        """Without news everything ends: what may go goes, the rest is given back."""
        for _ in range(400):
            if self.flying:
                job = self.flying.pop()
                self.begin(self.pacing.finished(job.key, job.domain, job, True, self.now))
            else:
                self.sleep_as_told()
        assert self.all_waiting() == []
        assert self.flying == []


class PacingOfDomainsMachine(PacingMachine):
    limits = PacingMachine.limits._replace(slots=9, per_domain=2)


class PacingOfOneSlotMachine(PacingMachine):
    limits = PacingMachine.limits._replace(slots=1, patience=0.05)


SETTINGS = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
TestPacing = PacingMachine.TestCase
TestPacing.settings = SETTINGS
TestPacingOfDomains = PacingOfDomainsMachine.TestCase
TestPacingOfDomains.settings = SETTINGS
TestPacingOfOneSlot = PacingOfOneSlotMachine.TestCase
TestPacingOfOneSlot.settings = SETTINGS
