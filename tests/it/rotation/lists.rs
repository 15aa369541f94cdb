//! What the commands of a person are told; a value that was changed by hand; and when it is time.

use std::time::Duration;

use jiff::Timestamp;
use tokenbroker::rotation::{
    Action, Asks, Begin, Entry, Event, Failure, Held, InUse, Record, in_use, may_delete, plan,
};

use super::desk::{B, Desk, entry, expired, hinted, policy, secret, stamp, tagged, value};
use super::{A, START};

fn configured() -> Record {
    Record::new(Held::new(&secret(A), None))
}

fn said(record: &Record, entries: &[Entry]) -> Vec<InUse> {
    in_use(record, &policy(), entries, stamp(START))
}

/// Those that a person may delete.
fn free(record: &Record, entries: &[Entry]) -> Vec<String> {
    let may = |entry: &&Entry| may_delete(record, &policy(), entries, &entry.id, stamp(START)).is_ok();
    entries.iter().filter(may).map(|entry| entry.id.clone()).collect()
}

fn why(record: &Record, entries: &[Entry], id: &str) -> String {
    may_delete(record, &policy(), entries, id, stamp(START)).unwrap_err().why
}

#[test]
fn the_list_says_which_one_is_in_use_or_that_it_cannot_be_told() {
    use InUse::{No, Unknown, Yes};
    let gone = Entry { deleted: true, ..entry("d") };
    let record = configured();
    for (entries, expected, may) in [
        (vec![entry("a")], vec![Yes], vec![]),
        (vec![hinted("a", "aaa"), hinted("f", "fff")], vec![Yes, No], vec!["f"]),
        (vec![entry("a"), entry("f")], vec![Unknown, Unknown], vec![]),
        // What is surely not it may go.
        (vec![entry("a"), entry("f"), hinted("g", "ggg")], vec![Unknown, Unknown, No], vec!["g"]),
        (vec![entry("a"), entry("f"), expired("x"), gone], vec![Unknown, Unknown, No, No], vec!["x", "d"]),
        (vec![hinted("a", "aaa"), hinted("f", "aaa"), expired("x")], vec![Unknown, Unknown, No], vec!["x"]),
        // Hints that are something else there, or a clock that is years ahead: nothing is believed.
        (vec![hinted("a", "***"), hinted("f", "***")], vec![Unknown, Unknown], vec![]),
        (vec![expired("a"), expired("f")], vec![Unknown, Unknown], vec![]),
    ] {
        assert_eq!(said(&record, &entries), expected, "{entries:?}");
        assert_eq!(free(&record, &entries), may, "{entries:?}");
    }
    assert!(why(&record, &[entry("a"), entry("f")], "f").contains("cannot be told"));
    assert!(why(&record, &[entry("a")], "a").contains("in use"));
    assert!(why(&record, &[entry("a")], "zz").contains("no secret zz"));
    let current = super::Policy { current: Some("f".into()), ..policy() };
    assert_eq!(in_use(&record, &current, &[entry("a"), entry("f")], stamp(START)), [No, Yes]);
}

#[test]
fn what_a_rotation_holds_or_may_have_made_is_not_deleted_by_hand() {
    let mut desk = Desk::begun(Some("a"));
    let stranger = tagged("f", "by hand");
    desk.lists(&[entry("a")]);
    let new = desk.creates("b");
    desk.works(1);
    let listed = [entry("a"), new, stranger.clone()];
    desk.next();
    assert_eq!(said(&desk.saved, &listed), [InUse::Yes, InUse::No, InUse::No]);
    assert_eq!(free(&desk.saved, &listed), ["f"]);
    assert!(why(&desk.saved, &listed, "b").contains("the rotation that is under way needs it"));
    desk.works(2);
    while value(desk.saved.serving()) != B {
        desk.step();
    }
    assert_eq!(said(&desk.saved, &listed), [InUse::No, InUse::Yes, InUse::No]);
    assert_eq!(free(&desk.saved, &listed), ["f"]);
    assert!(why(&desk.saved, &listed, "a").contains("where the new one is refused"));
    desk.works(1);
    assert_eq!(desk.next(), Action::List);
    assert_eq!(free(&desk.saved, &listed), ["f"], "the old one is deleted by the rotation alone");

    // A creation whose answer was lost.
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    let (tag, _) = desk.asks_for_another();
    desk.fails(Failure::Lost);
    assert_eq!(desk.next(), Action::List);
    let listed = [entry("a"), tagged("b", &tag), entry("x"), stranger];
    assert_eq!(free(&desk.saved, &listed), ["f"]);
    assert!(why(&desk.saved, &listed, "x").contains("may be one that the rotation"));
}

#[test]
fn a_value_that_is_changed_by_hand_serves_and_what_was_made_here_before_is_deleted_next_time() {
    // Before, in the middle, and after a rotation.
    for until in 0..3 {
        let mut desk = Desk::begun(Some("a"));
        desk.lists(&[entry("a")]);
        let new = desk.creates("b");
        desk.works(1);
        if until > 0 {
            desk.works(2);
            while value(desk.saved.serving()) != B {
                desk.step();
            }
        }
        if until > 1 {
            desk.works(1);
            desk.lists(&[entry("a"), new.clone()]);
            desk.deletes("a");
            assert_eq!(desk.next(), Action::Done);
        }
        let record = desk.saved.replaced_by(&secret("ccc-by-hand"), Some("c".into()));
        assert_eq!((value(record.serving()), record.fallback(desk.now()).map(value)), ("ccc-by-hand".into(), None));
        let unlimited = super::Policy { slots: None, ..policy() };
        let mut desk = Desk { t: desk.t, ..Desk::with(record, unlimited) };
        assert_eq!(desk.next(), Action::Done);
        desk.machine.begin(Begin::Create, false);
        desk.lists(&[new, entry("c"), tagged("f", "by hand")]);
        desk.deletes("b");
        desk.lists(&[entry("c")]);
        desk.asks_for_another();
    }
}

#[test]
fn a_lost_creation_is_remembered_when_the_value_is_changed_by_hand() {
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    let (tag, _) = desk.asks_for_another();
    desk.fails(Failure::Lost);
    let record = desk.saved.replaced_by(&secret("ccc-by-hand"), None);
    let mut desk = Desk::with(record, super::Policy { slots: None, ..policy() });
    desk.machine.begin(Begin::Create, false);
    // First it is known which one is in use: an orphan might have been given another value by hand.
    desk.lists(&[entry("c"), tagged("lost", &tag)]);
    assert_eq!(desk.parks().asks, Some(Asks::Current));
    desk.tell(Event::Chosen("c".into()));
    desk.lists(&[entry("c"), tagged("lost", &tag)]);
    desk.deletes("lost");
}

#[test]
fn a_secret_that_was_made_here_and_is_configured_now_is_the_same_one() {
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    let new = desk.creates("b");
    desk.works(4);
    desk.lists(&[entry("a"), new.clone()]);
    desk.deletes("a");
    assert_eq!(desk.next(), Action::Done);
    let record = desk.saved.replaced_by(&secret(B), None);
    assert_eq!((record.old.id.as_deref(), record.old.since), (Some("b"), desk.saved.old.since));
    let mut desk = Desk::with(record, policy());
    desk.machine.begin(Begin::Create, false);
    desk.lists(&[new]);
    desk.asks_for_another();
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_rotation_that_nobody_asks_for_begins_so_long_before_the_end_that_it_can_fail_for_days() {
    let end = stamp(START);
    let left = |due: Timestamp| Duration::try_from(end.duration_since(due)).unwrap();
    // (before, life) in days → at most so many days are left.
    for (before, life, most) in [
        (30.0, None, 30.0),
        (30.0, Some(730.0), 30.0),
        (30.0, Some(90.0), 18.0),
        (30.0, Some(20.0), 4.0),
        (30.0, Some(7.0), 3.0),
        (30.0, Some(4.0), 2.0),
        (30.0, Some(0.5), 0.25),
        (1.0, Some(730.0), 1.0),
        (0.0, Some(730.0), 0.0),
    ] {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let due = plan::due(end, DAY.mul_f64(before), life.map(|life| DAY.mul_f64(life)), seed);
            assert_eq!(due, plan::due(end, DAY.mul_f64(before), life.map(|life| DAY.mul_f64(life)), seed));
            let left = left(due);
            assert!(left <= DAY.mul_f64(most), "{before} {life:?}: {left:?}");
            assert!(left >= DAY.mul_f64(most * 0.9), "{before} {life:?}: {left:?}");
            seen.insert(due);
        }
        assert!(seen.len() > 40 || before == 0.0, "{before} {life:?}: {}", seen.len());
    }
    let _ = plan::due(Timestamp::MIN, Duration::MAX, Some(Duration::MAX), 1);
}

#[test]
fn a_rotation_that_failed_is_tried_the_next_day_and_earlier_where_the_end_is_near() {
    let (now, in_hours) = (stamp(START), |hours: i64| stamp(START + hours * 3600));
    for (end, next) in [(24 * 30, 24), (24 * 4, 24), (40, 10), (3, 1), (-5, 1)] {
        assert_eq!(plan::again(now, in_hours(end)), in_hours(next), "{end}");
    }
    let days = |days: i64| plan::urgency(in_hours(24 * days), now);
    assert_eq!(
        [30, 15, 14, 8, 7, 2, 1, 0, -3].map(days),
        [None, None, Some(14), Some(14), Some(7), Some(7), Some(1), Some(0), Some(0)]
    );
}
