"""The suites notice: each engine here breaks one promise, and the test of that promise must fail on it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.contract import broken_engines as broken
from tests.contract import broken_holding as unruly
from tests.contract.embedded import keep_of
from tests.contract.test_embedded_holding_machine import HoldingMachine
from tests.contract.test_embedded_state_machine import HotStateMachine

from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.log import EmbeddedLog
from howk.adapters.embedded.state import EmbeddedState
from howk.ports.clock import Clock
from howk.ports.log import Log
from howk.ports.state import HotState
from howk.testing.clock import ManualClock
from howk.testing.log_suite import LogSuite
from howk.testing.state_suite import StateSuite


class SpoiledLogSuite(LogSuite):
    patience = 0.5

    def __init__(self, path: Path, spoil: Callable[[Log], Log]) -> None:
        self.path = path
        self.spoil = spoil
        self.clock = ManualClock()

    async def open_log(self) -> Log:
        self.directory = Directory.open(self.path)
        return self.spoil(EmbeddedLog.open(self.directory, self.clock))

    async def later(self) -> None:
        self.clock.advance(1)

    async def close_log(self, log: Log) -> None:
        await log.close()
        self.directory.close()


class SpoiledStateSuite(StateSuite):
    def __init__(self, path: Path, spoil: Callable[[HotState], HotState]) -> None:
        self.path = path
        self.spoil = spoil

    async def open_state(self, clock: Clock) -> HotState:
        self.directory = Directory.open(self.path)
        state = EmbeddedState.open(self.directory, keep_of(self), clock)
        self.directory.opened()
        return self.spoil(state)

    async def close_state(self, state: HotState) -> None:
        await state.close()
        self.directory.close()


@pytest.mark.parametrize(
    ("engine", "promise"),
    [
        (broken.AnswersBeforeItCommits, LogSuite.test_what_an_answered_append_wrote_is_there_for_every_reader),
        (
            broken.FinishesInAnActOfItsOwn,
            LogSuite.test_one_append_of_streams_table_and_progress_is_all_there_after_a_reopen,
        ),
        (
            broken.FinishesWithWhatItRefused,
            LogSuite.test_over_its_bound_a_log_says_full_and_takes_nothing_of_what_it_refused,
        ),
        (
            broken.KnowsOnlyTheNextOffset,
            LogSuite.test_records_finished_out_of_order_do_not_come_again_and_the_others_do,
        ),
        (
            broken.ForgetsWhatIsFinishedBeyond,
            LogSuite.test_records_finished_out_of_order_do_not_come_again_and_the_others_do,
        ),
        (broken.TrimsWhatIsUnfinished, LogSuite.test_trim_stops_at_what_the_slowest_group_has_not_finished),
        (
            broken.TrimsWhatIsUnfinished,
            LogSuite.test_trim_stops_at_what_a_group_has_taken_and_not_yet_finished_anything_of,
        ),
        (broken.TrimsWhatIsUnfinished, LogSuite.test_trim_with_a_time_spares_what_is_old_and_not_finished),
        (
            broken.TrimsWhateverItsAge,
            LogSuite.test_trim_with_a_time_drops_what_was_appended_before_it_and_nothing_younger,
        ),
        (
            broken.TrimsNothingByAge,
            LogSuite.test_trim_with_a_time_drops_what_was_appended_before_it_and_nothing_younger,
        ),
        (broken.CountsWhatItDropped, LogSuite.test_space_grows_with_what_is_kept_and_is_there_again_after_a_trim),
        (broken.KeepsWhatItDoesNotUse, LogSuite.test_what_is_held_without_use_is_given_back_by_trims),
        (
            broken.RepeatsAtAHandover,
            LogSuite.test_a_consumer_that_falls_behind_and_catches_up_skips_and_repeats_nothing,
        ),
        (broken.SkipsAtAHandover, LogSuite.test_a_consumer_that_falls_behind_and_catches_up_skips_and_repeats_nothing),
        (broken.MissesAWake, LogSuite.test_no_wake_is_missed_when_records_come_one_by_one),
        (broken.StartsNewGroupsAtTheEnd, LogSuite.test_a_new_group_starts_at_the_earliest_record),
        (broken.KeepsRemovedRows, LogSuite.test_a_table_replays_the_last_value_of_each_key_and_no_removed_one),
        (
            broken.FollowsOnlyWhatComesLater,
            LogSuite.test_a_follower_is_given_the_rows_that_are_there_and_then_every_change,
        ),
        (
            broken.FollowsWithoutRemovals,
            LogSuite.test_a_follower_is_given_the_rows_that_are_there_and_then_every_change,
        ),
        (
            broken.SaysTooSoonThatATableIsRead,
            LogSuite.test_a_write_that_was_answered_is_given_before_a_fetch_that_gives_nothing,
        ),
        (
            broken.FollowsBackwards,
            LogSuite.test_no_value_that_was_replaced_is_given_after_the_one_that_replaced_it,
        ),
        (broken.ForgetsToWakeFollowers, LogSuite.test_no_wake_of_a_follower_is_missed),
        (broken.LosesACancelledFetch, LogSuite.test_a_cancelled_fetch_of_a_follower_loses_nothing),
    ],
)
async def test_the_log_suite_notices_an_engine_that(
    tmp_path: Path, engine: Callable[[Log], Log], promise: Callable[..., object]
) -> None:
    suite = SpoiledLogSuite(tmp_path / "data", engine)
    with pytest.raises((AssertionError, TimeoutError)):
        await getattr(suite, promise.__name__)()


@pytest.mark.parametrize(
    ("engine", "promise"),
    [
        (broken.LetsEverythingPass, StateSuite.test_the_gate_stops_what_is_no_longer_current),
        (broken.LetsEverythingPass, StateSuite.test_the_gate_stops_an_unknown_later_attempt_and_learns_nothing_of_it),
        (broken.OverwritesWhatItKnows, StateSuite.test_accepting_a_known_delivery_changes_nothing),
        (
            broken.OverwritesWhatItKnows,
            StateSuite.test_an_accept_that_comes_after_the_gate_leaves_the_delivery_in_flight,
        ),
        (broken.IgnoresTheWatermark, StateSuite.test_an_apply_at_or_below_the_watermark_changes_nothing),
        (broken.ForgetsTheWatermark, StateSuite.test_effects_and_their_watermark_are_stored_together),
        (broken.IgnoresLeases, StateSuite.test_what_is_leased_is_not_claimed_again),
        (broken.IgnoresLeases, StateSuite.test_two_claims_at_once_share_nothing),
        (broken.ClaimsWhatIsNotDue, StateSuite.test_nothing_is_claimed_before_it_is_due),
        (broken.ReleasesWithoutAToken, StateSuite.test_a_lost_lease_releases_nothing_that_was_claimed_again),
        (broken.UnqueuesByIdAlone, StateSuite.test_what_is_queued_already_is_no_longer_due),
        (broken.RebuildsBackwards, StateSuite.test_a_restore_never_goes_back_in_series_and_gen),
        (broken.TrustsAnUnsealedRebuild, StateSuite.test_a_rebuild_is_not_valid_until_it_is_sealed),
        (broken.TrustsAnUnsealedRebuild, StateSuite.test_a_missing_hot_state_is_not_valid_and_says_why),
        (broken.LetsTwoHoldAKey, StateSuite.test_of_many_who_claim_a_key_at_once_one_holds_it),
        (broken.TrustsKeysBeforeTheyAreRead, StateSuite.test_no_key_is_claimed_before_the_log_was_read_to_its_end),
        (broken.ForgetsTheClaimedId, StateSuite.test_a_claim_of_unknown_end_is_taken_up_under_its_own_id),
        (broken.IgnoresTheWatermark, StateSuite.test_an_effect_below_the_watermark_counts_nothing_twice),
        (broken.ShowsADayAsAnHour, StateSuite.test_what_happened_counts_for_an_hour_and_a_day_from_its_own_time),
        (
            broken.CountsWhenItIsTold,
            StateSuite.test_what_happened_earlier_and_is_applied_later_counts_where_it_belongs,
        ),
        (broken.ReceivesAtEveryEffect, StateSuite.test_a_delivery_is_received_once_however_often_it_is_noted),
        (broken.LetsAnOldRebuildGoOn, StateSuite.test_a_later_rebuild_voids_the_one_before),
        (unruly.LetsASecondProbeGo, StateSuite.test_an_open_breaker_holds_back_until_one_probe_may_go_under_its_token),
        (unruly.LetsASecondProbeGo, StateSuite.test_while_an_endpoint_holds_any_the_gate_lends_no_probe),
        (
            unruly.LosesNoProbeEver,
            StateSuite.test_a_probe_that_was_let_go_and_does_not_come_back_is_followed_by_another,
        ),
        (
            unruly.CountsAProbeFromItsClaim,
            StateSuite.test_a_probe_that_came_late_into_the_log_has_all_of_its_time_from_then_on,
        ),
        (unruly.KnowsNoPause, StateSuite.test_nothing_is_let_go_while_an_endpoint_is_paused),
        (unruly.KnowsNoPause, StateSuite.test_the_gate_holds_everything_for_a_paused_endpoint_back),
        (unruly.LetsFreshOnesPassTheQueue, StateSuite.test_fresh_ones_stand_behind_what_is_held_and_admitted_ones_pass),
        (unruly.KnowsNoRates, StateSuite.test_a_rate_lets_its_burst_go_then_tells_to_wait_and_above_two_seconds_holds),
        (
            unruly.KnowsNoRates,
            StateSuite.test_holds_go_at_the_rate_of_their_endpoint_and_the_claim_says_when_the_next_does,
        ),
        (
            unruly.TakesAnOlderRow,
            StateSuite.test_rows_of_endpoints_are_given_back_as_they_stand_and_the_higher_gen_stands,
        ),
        (
            unruly.LetsTheYoungestHoldGo,
            StateSuite.test_holds_of_an_endpoint_that_is_well_are_admitted_oldest_first_four_at_once,
        ),
        (
            unruly.LosesAHoldWhenItsLeaseEnds,
            StateSuite.test_a_hold_whose_claim_was_not_released_is_given_again_after_its_lease,
        ),
        (
            unruly.GivesNoPlaceBack,
            StateSuite.test_a_place_is_given_back_by_every_end_also_by_one_that_names_no_endpoint,
        ),
        (unruly.GivesNoPlaceBack, StateSuite.test_good_outcomes_let_more_go_and_bad_ones_half_as_many),
        (
            unruly.TellsNobodyOfHolds,
            StateSuite.test_what_apply_answers_is_the_time_from_which_a_claim_may_give_something,
        ),
        (unruly.GivesTheTurnToTheHighestRank, StateSuite.test_of_a_turn_the_lowest_rank_goes_and_the_others_wait),
        (
            unruly.GivesTheTurnToTheHighestRank,
            StateSuite.test_an_end_gives_the_turn_to_the_next_rank_which_is_due_where_it_is_held,
        ),
        (unruly.EntersOnlyWhoGoes, StateSuite.test_who_was_refused_has_entered_and_holds_up_those_behind_it),
        (
            unruly.ForgetsTurnsAtReopen,
            StateSuite.test_holds_turns_and_marks_are_there_after_a_reopen_and_rows_when_they_are_given_again,
        ),
        (unruly.KeepsMarksInMemory, StateSuite.test_what_has_ended_is_not_marked_and_runs_free_in_its_next_series),
        (
            unruly.KeepsMarksInMemory,
            StateSuite.test_holds_turns_and_marks_are_there_after_a_reopen_and_rows_when_they_are_given_again,
        ),
        (unruly.LetsMarkedOnesWait, StateSuite.test_what_waits_under_a_mark_is_due_at_once_to_be_cancelled),
        (
            unruly.ForgetsTheStopsOfAnUnsealedRebuild,
            StateSuite.test_a_rebuild_that_follows_one_that_was_not_sealed_keeps_its_endpoints_and_marks_alone,
        ),
        (
            unruly.RebuildsDeliveriesAlone,
            StateSuite.test_a_rebuild_holds_the_endpoints_marks_turns_and_holds_that_were_restored,
        ),
        (
            broken.IgnoresTheWatermark,
            StateSuite.test_below_the_watermark_neither_rows_nor_marks_nor_holds_nor_turns_change,
        ),
    ],
)
async def test_the_state_suite_notices_an_engine_that(
    tmp_path: Path, engine: Callable[[HotState], HotState], promise: Callable[..., object]
) -> None:
    suite = SpoiledStateSuite(tmp_path / "data", engine)
    with pytest.raises(AssertionError):
        await getattr(suite, promise.__name__)()


@pytest.mark.parametrize(
    ("machine", "engine"),
    [
        (HotStateMachine, broken.LetsEverythingPass),
        (HotStateMachine, broken.IgnoresTheWatermark),
        (HotStateMachine, broken.RebuildsBackwards),
        (HoldingMachine, unruly.LetsASecondProbeGo),
        (HoldingMachine, unruly.KnowsNoPause),
        (HoldingMachine, unruly.LetsFreshOnesPassTheQueue),
        (HoldingMachine, unruly.LosesAHoldWhenItsLeaseEnds),
        (HoldingMachine, unruly.GivesNoPlaceBack),
        (HoldingMachine, unruly.GivesTheTurnToTheHighestRank),
        (HoldingMachine, unruly.KeepsMarksInMemory),
        (HoldingMachine, unruly.RebuildsDeliveriesAlone),
    ],
)
def test_the_state_machine_notices_an_engine_that(
    machine: type[HotStateMachine | HoldingMachine], engine: Callable[[HotState], HotState]
) -> None:
    spoiled = type("Spoiled", (machine,), {"spoil": staticmethod(engine)})
    bounds = settings(
        max_examples=300,
        stateful_step_count=50,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(spoiled, settings=bounds)
