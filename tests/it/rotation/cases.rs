//! What a rotation does, step by step.

use std::time::Duration;

use tokenbroker::rotation::{Action, Asks, Begin, Event, Failure, Held, Record, State, Which};

use super::desk::{B, Desk, entry, expired, hinted, policy, secret, stamp, tagged, value};
use super::{A, START};

/// From an empty place to the end.
fn rotates(desk: &mut Desk, others: &[tokenbroker::rotation::Entry]) {
    let old = entry("a");
    desk.lists(&[std::slice::from_ref(&old), others].concat());
    let new = desk.creates("b");
    desk.works(3);
    desk.works(1);
    desk.lists(&[&[old, new], others].concat());
    desk.deletes("a");
    assert_eq!(desk.next(), Action::Done);
    assert_eq!(value(desk.machine.record().serving()), B);
}

#[test]
fn f02_of_two_taken_slots_an_expired_one_or_an_orphan_of_ours_makes_room() {
    for other in [expired("x"), tagged("x", "tb/here/0001")] {
        let mut desk = Desk::begun(Some("a"));
        desk.lists(&[entry("a"), other]);
        desk.deletes("x");
        // The old one serves until the new one has worked, and after that as a fallback until it is deleted.
        desk.lists(&[entry("a")]);
        assert_eq!(value(desk.machine.record().serving()), A);
        let new = desk.creates("b");
        desk.works(2);
        assert_eq!(value(desk.machine.record().serving()), A);
        desk.works(1);
        while !matches!(desk.state(), State::Swapped { .. }) || desk.saved.state != *desk.state() {
            assert_eq!(desk.step(), None);
        }
        assert_eq!(value(desk.saved.serving()), B);
        assert_eq!(desk.saved.fallback(desk.now()).map(value), Some(A.into()));
        let swapped = desk.t;
        desk.works(1);
        assert!(desk.t >= swapped + 3600, "the grace is over");
        desk.lists(&[entry("a"), new]);
        desk.deletes("a");
        assert_eq!(desk.next(), Action::Done);
        assert_eq!(value(desk.saved.serving()), B);
    }
}

#[test]
fn f02_two_taken_slots_are_refused_by_both_their_names_until_a_person_gives_one_up() {
    let mut desk = Desk::begun(Some("a"));
    let both = [entry("a"), tagged("f", "made by hand")];
    desk.lists(&both);
    let problem = desk.parks();
    assert_eq!(problem.asks, Some(Asks::Room));
    assert!(problem.why.contains("in use is a") && problem.why.ends_with("others made f"), "{}", problem.why);
    assert!(problem.what_to_do.contains("--remove ID"), "{}", problem.what_to_do);
    // The secret in use cannot be given up.
    desk.tell(Event::Chosen("a".into()));
    desk.lists(&both);
    assert_eq!(desk.parks().asks, Some(Asks::Room));
    desk.tell(Event::Chosen("f".into()));
    desk.lists(&both);
    desk.deletes("f");
    rotates(&mut desk, &[]);
}

#[test]
fn f04_a_new_secret_that_is_refused_for_two_minutes_is_tried_again_and_the_old_one_stays_until_it_worked_three_times() {
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    let new = desk.creates("b");
    let (made, mut refused, mut worked) = (desk.t, 0, 0);
    let deleted = loop {
        match desk.next() {
            Action::Verify(Which::New) if desk.t < made + 120 => {
                refused += 1;
                desk.tell(Event::Refused);
            }
            Action::Verify(Which::New) => {
                worked += 1;
                desk.tell(Event::Accepted);
            }
            Action::List => desk.tell(Event::Listed(vec![entry("a"), new.clone()])),
            Action::Delete { id } => break id,
            other => panic!("{other:?}"),
        }
        if worked < 3 {
            assert_eq!(value(desk.machine.record().serving()), A);
        }
    };
    assert_eq!((deleted.as_str(), refused, worked), ("a", 3, 4));
    assert!(desk.t >= made + 120 + 2 * 60 + 3600);
}

#[test]
fn a_vendor_that_does_nothing_leaves_all_as_it_was() {
    for failure in [Failure::AdminExpired, Failure::Refused("not allowed".into())] {
        // At the first list, at the deletion that makes room, at the creation.
        for at in 0..3 {
            let mut desk = Desk::begun(Some("a"));
            if at > 0 {
                assert_eq!(desk.next(), Action::List);
                let others = if at == 1 { vec![entry("a"), expired("x")] } else { vec![entry("a")] };
                desk.tell(Event::Listed(others));
            }
            if at == 1 && failure != Failure::AdminExpired {
                continue;
            }
            assert!(!matches!(desk.next(), Action::Park(_)));
            desk.fails(failure.clone());
            let problem = desk.parks();
            assert!(problem.what_to_do.starts_with("nothing was changed"), "{at} {problem:?}");
            assert_eq!(*desk.state(), State::Stable);
            assert!(desk.saved.new.is_none() && desk.saved.problem.as_ref() == Some(&problem));
            assert_eq!(problem.what_to_do.contains("--admin-token-stdin"), failure == Failure::AdminExpired);
            // The next rotation knows nothing of it.
            assert!(desk.machine.begin(Begin::Create, false));
            assert_eq!(desk.machine.record().problem, None);
            rotates(&mut desk, &[]);
        }
    }
}

#[test]
fn a_management_token_that_ends_in_the_middle_stops_the_rotation_where_it_is() {
    // After a creation whose answer was lost, and before the old one is deleted.
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    desk.asks_for_another();
    desk.fails(Failure::Lost);
    assert_eq!(desk.next(), Action::List);
    desk.fails(Failure::AdminExpired);
    assert!(desk.parks().what_to_do.contains("--admin-token-stdin"));
    assert_eq!(*desk.state(), State::Creating);

    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    desk.creates("b");
    desk.works(4);
    assert_eq!(desk.next(), Action::List);
    desk.fails(Failure::AdminExpired);
    desk.parks();
    assert_eq!(*desk.state(), State::Deleting);
    // That may last for days: the old one is still there for those who refuse the new one.
    assert_eq!(value(desk.saved.serving()), B);
    assert_eq!(desk.saved.fallback(desk.now()).map(value), Some(A.into()));
    for _ in 0..3 {
        desk.tell(Event::ServingRefused);
    }
    while value(desk.saved.serving()) != A {
        assert!(desk.step().is_none_or(|action| matches!(action, Action::Park(_))));
        desk.tell(Event::Daily);
    }
    assert_eq!(desk.next(), Action::Verify(Which::New));
}

#[test]
fn a_creation_that_is_refused_after_one_that_was_lost_does_not_forget_that_one() {
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    let (tag, expires) = desk.asks_for_another();
    desk.fails(Failure::Lost);
    desk.lists(&[entry("a")]);
    desk.lists(&[entry("a")]);
    desk.lists(&[entry("a")]);
    let (second, _) = desk.asks_for_another();
    assert_ne!(tag, second);
    desk.fails(Failure::AdminExpired);
    desk.parks();
    assert_eq!(*desk.state(), State::Planned);
    desk.tell(Event::Resume);
    // It appears late.
    let late = tokenbroker::rotation::Entry { expires: Some(expires), ..tagged("late", &tag) };
    desk.lists(&[entry("a"), late]);
    desk.deletes("late");
    rotates(&mut desk, &[]);
}

#[test]
fn what_a_rotation_brings_has_an_age_and_what_is_configured_has_none() {
    let mut desk = Desk::begun(Some("a"));
    assert_eq!(desk.machine.record().old.age(desk.now()), None);
    rotates(&mut desk, &[]);
    let age = desk.machine.record().old.age(stamp(desk.t + 100)).unwrap();
    assert!(age > Duration::from_secs(3600 + 100) && age < Duration::from_secs(2 * 3600), "{age:?}");
    assert_eq!(desk.saved.old.age(stamp(START - 100)), Some(Duration::ZERO));

    for begin in [Begin::Replace(secret(B)), Begin::Import(Held::new(&secret(B), None))] {
        let mut desk = Desk::new(None);
        desk.machine.begin(begin, false);
        assert!(matches!(desk.next(), Action::Replace | Action::Verify(_)));
        assert_eq!(desk.saved.new.as_ref().unwrap().age(stamp(START + 5)), Some(Duration::from_secs(5)));
    }
}

#[test]
fn the_configured_id_is_that_of_the_configured_secret_and_of_no_other() {
    let two = [entry("a"), tagged("f", "by hand")];
    let configured = super::Policy { current: Some("a".into()), slots: None, ..policy() };
    let mut desk = Desk::with(Record::new(Held::new(&secret(A), None)), configured.clone());
    desk.machine.begin(Begin::Create, false);
    desk.lists(&two);
    desk.asks_for_another();
    assert_eq!(desk.saved.old.id.as_deref(), Some("a"));

    // One that was imported is not that one.
    let mut desk = Desk::with(Record::new(Held::new(&secret(A), None)), configured);
    desk.machine.begin(Begin::Import(Held::new(&secret(B), None)), false);
    desk.works(3);
    assert_eq!(desk.next(), Action::Done);
    desk.machine.begin(Begin::Create, false);
    desk.lists(&two);
    let problem = desk.parks();
    assert_eq!(problem.asks, Some(Asks::Current));
    assert!(problem.why.ends_with("it has: a, f") && problem.what_to_do.contains("--current ID"), "{problem:?}");
}

#[test]
fn what_a_person_chooses_before_they_are_asked_is_not_lost() {
    let mut desk = Desk::new(None);
    assert!(!desk.machine.choose(Asks::Current, "a".into()), "there is no rotation yet");
    desk.machine.begin(Begin::Create, false);
    assert!(desk.machine.choose(Asks::Current, "a".into()));
    assert!(desk.machine.choose(Asks::Room, "f".into()));
    assert!(!desk.machine.choose(Asks::Ours, "f".into()), "nobody was told of it");
    desk.lists(&[entry("a"), tagged("f", "by hand")]);
    desk.deletes("f");
    desk.lists(&[entry("a")]);
    let new = desk.creates("b");
    // Once the other one is made, the old one stays the old one.
    assert!(!desk.machine.choose(Asks::Current, "z".into()) && !desk.machine.choose(Asks::Room, "z".into()));
    desk.works(4);
    desk.lists(&[entry("a"), new, entry("z")]);
    desk.deletes("a");
}

#[test]
fn who_names_the_wrong_secret_is_told_by_its_first_characters() {
    let mut desk = Desk::begun(Some("f"));
    desk.lists(&[hinted("f", "fff"), hinted("a", "aaa")]);
    assert_eq!(desk.parks().asks, Some(Asks::Current));
    desk.tell(Event::Chosen("a".into()));
    desk.lists(&[expired("f"), hinted("a", "aaa")]);
    desk.deletes("f");

    // Where no hint fits at all, hints are something else there.
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[hinted("a", "***")]);
    desk.asks_for_another();
}

/// A creation was lost, and two entries may be it.
fn lost(desk: &mut Desk) -> [tokenbroker::rotation::Entry; 3] {
    desk.lists(&[entry("a")]);
    desk.asks_for_another();
    desk.fails(Failure::Lost);
    let listed = [entry("a"), entry("x"), entry("y")];
    desk.lists(&listed);
    let problem = desk.parks();
    assert_eq!(problem.asks, Some(Asks::Ours));
    assert!(problem.why.ends_with("x, y") && problem.what_to_do.contains("--ours ID"), "{problem:?}");
    listed
}

#[test]
fn the_one_that_is_ours_can_be_named_after_a_restart_and_nothing_else_can() {
    let mut desk = Desk::begun(Some("a"));
    let listed = lost(&mut desk);
    desk.crash();
    assert_eq!(desk.parks().asks, Some(Asks::Ours));
    desk.tell(Event::Chosen("a".into()));
    assert_eq!(desk.parks().asks, Some(Asks::Ours), "it is not among those that were shown");
    desk.tell(Event::Chosen("y".into()));
    desk.lists(&listed);
    desk.deletes("y");
}

#[test]
fn that_none_is_ours_is_said_by_a_person_and_not_by_the_next_day() {
    let mut desk = Desk::begun(Some("a"));
    let listed = lost(&mut desk);
    desk.crash();
    desk.t += 86_400;
    desk.tell(Event::Daily);
    desk.lists(&listed);
    assert_eq!(desk.parks().asks, Some(Asks::Ours), "still");
    desk.tell(Event::Resume);
    desk.lists(&listed);
    desk.lists(&listed);
    assert_eq!(*desk.state(), State::Planned);
}

#[test]
fn an_old_one_that_ends_while_a_person_is_asked_makes_room_itself() {
    let old = expired("a");
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a"), entry("f")]);
    assert_eq!(desk.parks().asks, Some(Asks::Room));
    assert!(!desk.machine.begin(Begin::Create, true), "one is under way; and the old one does not work any more");
    desk.tell(Event::Daily);
    desk.lists(&[old.clone(), entry("f")]);
    assert_eq!(desk.next(), Action::Verify(Which::Old));
    desk.tell(Event::Refused);
    desk.lists(&[old, entry("f")]);
    desk.deletes("a");
    desk.lists(&[entry("f")]);
    desk.creates("b");
    desk.works(1);
    assert_eq!(desk.next(), Action::Done, "nothing is left to be deleted");
    assert_eq!(value(desk.machine.record().serving()), B);
}

#[test]
fn a_list_read_for_another_purpose_tells_when_the_secret_in_use_ends() {
    let mut desk = Desk::new(Some("a"));
    let end = entry("a").expires.map(jiff::Timestamp::as_second);
    desk.machine.seen(&[entry("f"), entry("a")]);
    assert_eq!((desk.next(), desk.saved.old.expires), (Action::Done, end));
    // A list without ends says nothing of it.
    desk.machine.seen(&[tokenbroker::rotation::Entry { expires: None, ..entry("a") }]);
    assert_eq!((desk.next(), desk.machine.record().old.expires), (Action::Done, end));
}
