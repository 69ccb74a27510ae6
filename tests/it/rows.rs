//! The 48 rows of the conformance table of the refresh engine: which test shows which.
//!
//! Most rows are shown by the tests of a subject. What is below is the rest: [`crashes`] at every named
//! point of a refresh, [`replicas`] on one store, [`answers`] read, and [`requests`] of one proxy. The table here is
//! itself a test: a row without a test, or a test that is no longer there, fails.

mod answers;
mod crashes;
mod replicas;
mod requests;

use std::collections::BTreeSet;
use std::path::Path;

/// Rows 19 to 31 are shown under two replicas as well, by the tests of `replicas`, `rows::replicas` and
/// `rows::crashes`.
const ROWS: [(usize, &[&str]); 48] = [
    (
        1,
        &[
            "refresh::fifty_requests_without_a_token_cost_one_token_request",
            "refresh::fifty_requests_with_an_expired_token_wait_for_one_token_request",
            "replicas::replicas_without_a_token_make_one_token_request",
        ],
    ),
    (2, &["refresh::near_expiry_requests_keep_the_old_token_while_one_refresh_runs"]),
    (
        3,
        &[
            "refresh::near_expiry_an_endpoint_in_trouble_is_left_alone_and_nobody_notices",
            "replicas::near_expiry_an_endpoint_in_trouble_is_asked_once_by_all_replicas",
        ],
    ),
    (4, &["refresh::a_margin_longer_than_the_token_lives_is_no_storm_of_refreshes"]),
    (5, &["rows/requests::row_05_credentials_that_expire_together_refresh_one_by_one"]),
    (
        6,
        &[
            "upkeep::a_clock_that_jumps_an_hour_costs_at_most_one_token_request_for_each_jump",
            "upkeep::a_clock_that_is_set_back_does_not_lengthen_a_failure",
        ],
    ),
    (7, &["token_endpoint::a_lifetime_is_read_as_a_number_or_as_text"]),
    (8, &["token_endpoint::a_token_without_a_lifetime_is_used_until_the_api_rejects_it"]),
    (9, &["rows/requests::row_09_an_absurd_lifetime_is_no_loop_of_refreshes"]),
    (
        10,
        &["rows/answers::row_10_an_expiry_is_the_same_instant_in_seconds_milliseconds_and_as_text"],
    ),
    (11, &["token_endpoint::the_token_type_may_be_written_in_any_case_or_not_at_all"]),
    (
        12,
        &[
            "token_endpoint::a_token_of_another_type_is_never_sent_and_its_refresh_token_is_kept",
            "token_endpoint::after_an_unusable_answer_a_rejection_is_still_healed_with_the_salvaged_refresh_token",
        ],
    ),
    (13, &["rows/requests::row_13_an_answer_is_read_as_what_it_is_and_not_as_what_it_is_called"]),
    (
        14,
        &[
            "dead_grants::a_dead_grant_is_recognised_under_every_status",
            "rows/answers::row_14_a_dead_grant_under_status_200_and_ok_false_needs_a_login",
        ],
    ),
    (15, &["token_endpoint::a_maintenance_page_with_status_200_is_asked_again"]),
    (16, &["rows/answers::row_16_members_by_other_names_under_status_201_are_a_success"]),
    (17, &["token_endpoint::a_refresh_token_that_is_not_answered_stays_in_use"]),
    (18, &["rows/answers::row_18_an_answer_without_a_token_prolongs_the_one_that_is_there"]),
    (
        19,
        &[
            "replicas::a_hundred_rejections_over_two_replicas_cost_one_token_request",
            "durable::two_processes_on_one_store_make_one_token_request",
            "refresh::a_thousand_rejections_at_once_cost_one_refresh",
        ],
    ),
    (
        20,
        &[
            "rows/crashes::row_20_a_crash_before_the_answer_is_stored_is_made_good_within_the_grace",
            "rows/crashes::row_20_a_crash_during_the_first_refresh_leaves_the_seed_or_its_successor",
            "durable::an_answer_lost_by_a_kill_is_asked_for_again_within_the_grace",
            "durable::whenever_the_process_is_killed_the_record_holds_a_refresh_token_that_works",
            "replicas::a_killed_lock_holder_blocks_nobody_and_its_refresh_is_done_by_another",
        ],
    ),
    (
        21,
        &[
            "bootstrap::a_lost_rotation_is_counted_and_healed",
            "rows/crashes::row_21_a_crash_before_the_answer_is_stored_is_a_lost_rotation_to_a_strict_server",
            "durable::an_answer_lost_by_a_kill_ends_as_a_lost_rotation_where_the_server_is_strict",
        ],
    ),
    (
        22,
        &[
            "rows/crashes::row_22_a_crash_around_the_rename_leaves_the_old_record_or_the_new_one",
            "rows/crashes::row_22_a_crash_before_sending_or_after_storing_costs_no_token_request",
            "rows/replicas::row_22_a_torn_record_is_written_back_by_whichever_replica_refreshes",
            "durable::a_half_written_temporary_file_is_neither_read_nor_kept",
            "durable::a_torn_record_is_moved_aside_and_the_seed_tried",
            "durable::a_torn_record_whose_seed_is_used_up_costs_one_token_request_and_is_named_corrupt",
        ],
    ),
    (
        23,
        &[
            "token_endpoint::an_answer_that_was_reset_is_asked_for_again_within_the_shortest_grace",
            "rows/replicas::row_23_a_lost_answer_is_asked_for_again_by_one_replica_only",
        ],
    ),
    (
        24,
        &[
            "refresh::a_client_that_hangs_up_does_not_cancel_the_refresh_it_waits_for",
            "refresh::a_request_that_is_gone_from_the_proxy_leaves_its_refresh_behind",
            "rows/replicas::row_24_a_refresh_whose_client_is_gone_serves_the_other_replica",
        ],
    ),
    (25, &["replicas::a_refresh_token_that_was_rotated_by_another_process_is_no_dead_grant"]),
    (
        26,
        &[
            "durable::a_token_that_cannot_be_saved_is_served_and_saved_later",
            "rows/replicas::row_26_a_token_that_cannot_be_saved_is_not_asked_for_by_the_other_replica",
        ],
    ),
    (
        27,
        &[
            "durable::a_restart_with_the_original_seed_goes_on_with_the_stored_token",
            "durable::a_seed_that_was_used_before_never_wins_again",
            "rows/replicas::row_27_replicas_restarted_with_the_original_seed_go_on_with_the_stored_token",
        ],
    ),
    (
        28,
        &[
            "durable::a_new_seed_heals_a_dead_grant",
            "replicas::a_new_seed_given_to_one_replica_heals_both",
        ],
    ),
    (
        29,
        &[
            "rows/crashes::row_29_the_new_refresh_token_is_stored_before_the_new_access_token_is_used",
        ],
    ),
    (
        30,
        &[
            "token_endpoint::a_superseded_refresh_token_that_is_handed_back_does_not_replace_the_newest",
            "rows/replicas::row_30_a_superseded_refresh_token_replaces_the_newest_on_neither_replica",
        ],
    ),
    (
        31,
        &[
            "rejections::requests_in_flight_survive_a_refresh_that_kills_the_token_they_carry",
            "rows/replicas::row_31_requests_in_flight_over_both_replicas_survive_a_refresh_that_kills_their_token",
        ],
    ),
    (32, &["token_endpoint::a_provider_may_begin_to_rotate_one_day"]),
    (33, &["upkeep::forty_idle_days_cost_one_token_request_and_end_with_a_token"]),
    (
        34,
        &[
            "dead_grants::a_dead_grant_costs_one_token_request_and_then_none_in_an_hour",
            "durable::a_dead_grant_stays_dead_through_a_restart_without_a_token_request",
        ],
    ),
    (35, &["dead_grants::a_dead_grant_is_recognised_under_every_status"]),
    (
        36,
        &[
            "token_endpoint::a_throttling_server_is_left_alone_for_as_long_as_it_says",
            "rows/requests::row_36_a_throttling_server_is_left_alone_however_it_says_so",
        ],
    ),
    (37, &["rows/requests::row_37_a_throttle_in_disguise_is_left_alone_for_a_minute"]),
    (38, &["token_endpoint::a_server_that_is_down_for_a_moment_is_waited_for"]),
    (39, &["dead_grants::a_500_that_consumed_the_refresh_token_ends_as_a_lost_rotation"]),
    (40, &["rows/requests::row_40_a_server_that_only_knows_500_is_asked_about_once_a_minute"]),
    (41, &["rows/requests::row_41_a_wrong_client_secret_is_no_dead_grant_and_a_reload_mends_it"]),
    (42, &["token_endpoint::a_redirected_token_request_goes_nowhere_else"]),
    (43, &["rejections::a_revoked_token_is_replaced_and_the_request_sent_again"]),
    (
        44,
        &[
            "rejections::an_api_that_rejects_every_token_does_not_become_a_stream_of_token_requests",
            "rejections::an_api_that_rejects_every_upload_costs_one_token_request_in_thirty_seconds",
        ],
    ),
    (45, &["rejections::a_brand_new_token_is_given_three_seconds_to_become_known"]),
    (
        46,
        &[
            "rejections::a_refresh_that_brings_the_rejected_token_again_passes_the_rejection_on",
            "rejections::an_answer_that_asks_for_another_kind_of_token_is_no_rejection_of_this_one",
        ],
    ),
    (
        47,
        &[
            "rejections::a_short_body_is_sent_again_byte_for_byte",
            "rejections::a_body_over_the_limit_sees_its_401_and_the_token_is_replaced_in_the_background",
        ],
    ),
    (48, &["upkeep::a_logout_ends_a_credential_in_every_process_and_through_restarts"]),
];

#[test]
fn every_row_is_shown_by_a_test_that_is_there() {
    let mut wrong = Vec::new();
    for (row, tests) in ROWS {
        for test in tests {
            let (file, name) = test.split_once("::").unwrap();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/{file}.rs"));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if !text.contains(&format!("fn {name}()")) {
                wrong.push(format!("row {row}: there is no {test}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(BTreeSet::from_iter(ROWS.iter().map(|(row, _)| *row)), (1..=48).collect());
}
