//! A vendor, a clock or a neighbour that is not what one hopes for.

use tokenbroker::rotation::{Action, Asks, Begin, Entry, Event, Failure, Held, Record, State, Which};

use super::desk::{B, Desk, entry, expired, policy, secret, stamp, tagged, value};
use super::{A, START};

/// The new one serves, and the old one is to be deleted.
fn to_the_deletion(desk: &mut Desk) -> Entry {
    desk.lists(&[entry("a")]);
    let new = desk.creates("b");
    desk.works(4);
    new
}

#[test]
fn a_deletion_that_was_held_up_is_decided_anew() {
    for failure in [Failure::AdminExpired, Failure::NotSent, Failure::Lost, Failure::Busy(std::time::Duration::ZERO)] {
        let mut desk = Desk::begun(Some("a"));
        let new = to_the_deletion(&mut desk);
        desk.lists(&[entry("a"), new]);
        assert_eq!(desk.next(), Action::Delete { id: "a".into() });
        desk.fails(failure.clone());
        if failure == Failure::AdminExpired {
            desk.parks();
            desk.t += 86_400;
            desk.tell(Event::Resume);
        }
        // Does the new one still work, and is it still there? No.
        assert_eq!(desk.next(), Action::Verify(Which::New), "{failure:?}");
        desk.tell(Event::Accepted);
        desk.lists(&[entry("a")]);
        desk.lists(&[entry("a")]);
        assert!(desk.parks().why.contains("not in the vendor's list"), "{failure:?}");
    }
}

#[test]
fn one_that_was_refused_before_its_rival_is_deleted_has_to_work_three_times_again() {
    let mut desk = Desk::begun(Some("a"));
    let new = to_the_deletion(&mut desk);
    desk.lists(&[entry("a"), new]);
    assert_eq!(desk.next(), Action::Delete { id: "a".into() });
    desk.fails(Failure::NotSent);
    assert_eq!(desk.next(), Action::Verify(Which::New));
    desk.tell(Event::Refused);
    desk.works(3);
    assert_eq!(desk.next(), Action::List);

    // If it never works again, it is not given up: it may be the only one.
    desk.fails(Failure::NotSent);
    let problem = loop {
        match desk.next() {
            Action::Verify(Which::New) => desk.tell(Event::Refused),
            Action::Park(problem) => break problem,
            other => panic!("{other:?}"),
        }
    };
    assert!(problem.why.contains("refused"), "{problem:?}");
    assert_eq!((desk.state(), value(desk.saved.serving())), (&State::Deleting, B.to_owned()));
}

#[test]
fn after_a_crash_with_a_deletion_the_list_is_given_time_and_the_new_one_is_tried_three_times() {
    let mut desk = Desk::begun(Some("a"));
    let new = to_the_deletion(&mut desk);
    desk.lists(&[entry("a"), new.clone()]);
    assert_eq!(desk.next(), Action::Delete { id: "a".into() });
    desk.crash();
    let before = desk.t;
    desk.works(3);
    assert!(desk.t >= before + 120);
    // It was deleted, and its id given to another.
    let another = Entry { expires: Some(stamp(START + 12_345_678)), ..tagged("a", "by hand") };
    desk.lists(&[another, new]);
    assert_eq!(desk.next(), Action::Done);
}

#[test]
fn an_old_one_that_ends_otherwise_than_before_is_not_deleted() {
    let mut desk = Desk::begun(Some("a"));
    let new = to_the_deletion(&mut desk);
    let another = Entry { expires: Some(stamp(START + 12_345_678)), ..entry("a") };
    desk.lists(&[another, new]);
    let problem = desk.parks();
    assert!(problem.why.contains("the secret a ends at another time"), "{problem:?}");
    assert_eq!((desk.state(), value(desk.saved.serving())), (&State::Stable, B.to_owned()));
}

#[test]
fn an_id_that_is_given_to_the_new_one_again_is_never_deleted() {
    // The vendor put the new value into the place of the old one, with and without a name in its list.
    for named in [true, false] {
        let mut desk = Desk::begun(Some("a"));
        desk.lists(&[entry("a")]);
        let new = desk.creates("a");
        if desk.next() == Action::List {
            let shown = if named { new.clone() } else { entry("a") };
            desk.tell(Event::Listed(vec![shown.clone()]));
            if desk.next() == Action::List {
                desk.tell(Event::Listed(vec![shown]));
            }
        }
        desk.works(4);
        let shown = if named { new } else { entry("a") };
        let problem = loop {
            match desk.next() {
                Action::List => desk.tell(Event::Listed(vec![shown.clone()])),
                Action::Park(problem) => break problem,
                other => panic!("{other:?}"),
            }
        };
        assert!(problem.what_to_do.contains("vendor's list"), "{problem:?}");
        assert_eq!(value(desk.saved.serving()), B);
    }
}

#[test]
fn an_id_that_somebody_else_has_is_not_that_of_the_new_one() {
    let mut desk =
        Desk::with(Record::new(Held::new(&secret(A), Some("a".into()))), super::Policy { slots: None, ..policy() });
    desk.machine.begin(Begin::Create, false);
    desk.lists(&[entry("a"), entry("f")]);
    let new = Entry { id: "b".into(), ..desk.creates("f") };
    let listed = [entry("a"), entry("f"), new];
    desk.lists(&listed);
    desk.works(4);
    desk.lists(&listed);
    desk.deletes("a");
    assert_eq!(desk.next(), Action::Done);
    assert_eq!(desk.saved.old.id.as_deref(), Some("b"));
}

#[test]
fn the_one_in_use_is_deleted_to_make_room_only_if_the_vendor_refuses_it() {
    let full = [expired("a"), entry("f")];
    // By our clock it has expired, and nobody said that it does not work.
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&full);
    assert_eq!(desk.parks().asks, Some(Asks::Room));

    // It is said, and not true.
    let mut desk = Desk::new(Some("a"));
    desk.machine.begin(Begin::Create, true);
    desk.lists(&full);
    assert_eq!(desk.next(), Action::Verify(Which::Old));
    desk.tell(Event::Accepted);
    desk.lists(&full);
    assert_eq!(desk.parks().asks, Some(Asks::Room));

    // It is true; and tried again where it was found out another day.
    let mut desk = Desk::new(Some("a"));
    desk.machine.begin(Begin::Create, true);
    for _ in 0..2 {
        desk.lists(&full);
        assert_eq!(desk.next(), Action::Verify(Which::Old));
        desk.tell(Event::Refused);
        desk.tell(Event::Daily);
    }
    desk.lists(&full);
    assert_eq!(desk.next(), Action::Verify(Which::Old));
    desk.tell(Event::Refused);
    desk.lists(&full);
    desk.deletes("a");
}

#[test]
fn what_cannot_be_stored_is_deleted_at_once() {
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    let new = desk.creates("b");
    assert_eq!(desk.machine.next(desk.now()), Action::Save);
    desk.tell(Event::SaveFailed);
    desk.lists(&[entry("a"), new]);
    // The store still does not work: that is no reason to leave it there.
    desk.deletes("b");
    assert_eq!(desk.saved.state, State::Creating);
    desk.lists(&[entry("a")]);
    assert!(desk.parks().why.contains("could not be saved"));
    assert_eq!(*desk.state(), State::Stable);
}

#[test]
fn a_list_that_shows_one_secret_only_is_not_believed() {
    // Whichever it shows: without an id and a name, the old one may be anybody's.
    let unlimited = super::Policy { slots: None, ..policy() };
    let mut desk = Desk::with(Record::new(Held::new(&secret(A), None)), unlimited);
    desk.machine.begin(Begin::Create, false);
    desk.lists(&[entry("f")]);
    desk.asks_for_another();
    desk.tell(Event::Created { id: None, secret: secret(B) });
    desk.lists(&[entry("f")]);
    desk.lists(&[entry("f")]);
    desk.works(4);
    desk.lists(&[entry("f")]);
    desk.lists(&[entry("f")]);
    assert!(desk.parks().why.contains("not in the vendor's list"));
}

#[test]
fn an_empty_or_a_short_list_does_not_make_the_old_one_gone_at_once() {
    let mut desk = Desk::begun(Some("a"));
    let new = to_the_deletion(&mut desk);
    desk.lists(std::slice::from_ref(&new));
    desk.lists(&[new, entry("a")]);
    desk.deletes("a");
}

#[test]
fn deleted_ones_that_are_listed_take_no_place_and_leave_their_id_to_another() {
    let gone = Entry { deleted: true, ..tagged("b", "tb/here/0002") };
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[gone.clone(), Entry { deleted: true, ..entry("x") }, entry("a")]);
    let new = desk.creates("b");
    // Its id is believed: nothing is looked up.
    desk.works(4);
    desk.lists(&[entry("a"), new]);
    desk.deletes("a");
    assert_eq!(desk.next(), Action::Done);
    assert_eq!(desk.saved.old.id.as_deref(), Some("b"));
}

#[test]
fn an_orphan_that_was_deleted_is_forgotten_before_its_id_is_given_to_another() {
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    desk.asks_for_another();
    desk.fails(Failure::Lost);
    desk.lists(&[entry("a"), entry("x")]);
    desk.parks();
    desk.tell(Event::Chosen("x".into()));
    desk.lists(&[entry("a"), entry("x")]);
    desk.deletes("x");
    desk.lists(&[entry("a")]);
    // A stranger of that id, which has a free place.
    desk.lists(&[entry("a")]);
    let new = desk.creates("b");
    desk.works(4);
    desk.lists(&[entry("a"), new.clone(), tagged("x", "by hand")]);
    desk.deletes("a");
    desk.machine.begin(Begin::Create, false);
    desk.lists(&[new, entry("x")]);
    assert_eq!(desk.parks().asks, Some(Asks::Room));
}

#[test]
fn a_creation_that_the_vendor_did_twice_leaves_the_one_that_is_held() {
    // The answer names one of them, or none.
    for told in [Some("b"), None] {
        let mut desk =
            Desk::with(Record::new(Held::new(&secret(A), Some("a".into()))), super::Policy { slots: None, ..policy() });
        desk.machine.begin(Begin::Create, false);
        desk.lists(&[entry("a")]);
        let (tag, _) = desk.asks_for_another();
        desk.tell(Event::Created { id: told.map(str::to_owned), secret: secret(B) });
        let listed = [entry("a"), tagged("b", &tag), tagged("b2", &tag)];
        if told.is_none() {
            desk.lists(&listed);
            desk.lists(&listed);
        }
        desk.works(4);
        desk.lists(&listed);
        desk.deletes("a");
        assert_eq!(desk.next(), Action::Done);
    }
}

#[test]
fn a_neighbour_that_has_just_made_one_is_left_to_finish() {
    let started = |seconds| Entry { started: Some(stamp(START - seconds)), ..tagged("n", "tb/there/0001") };
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a"), started(60)]);
    let problem = desk.parks();
    assert!(problem.why.contains("another broker"), "{problem:?}");
    // Its name is not ours, even if it begins alike; and a day later it is somebody's, not an orphan.
    desk.t += 86_400;
    desk.tell(Event::Daily);
    desk.lists(&[entry("a"), Entry { tag: Some("tb/here2/0001".into()), ..started(60) }]);
    assert_eq!(desk.parks().asks, Some(Asks::Room));
}

#[test]
fn what_changes_while_the_record_is_being_saved_is_saved_as_well() {
    let mut desk = Desk::begun(Some("a"));
    assert_eq!(desk.machine.next(desk.now()), Action::Save);
    assert!(!desk.machine.begin(Begin::Create, true));
    desk.tell(Event::Saved);
    assert_eq!(desk.machine.next(desk.now()), Action::Save);

    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    desk.creates("b");
    desk.works(3);
    while !matches!(desk.saved.state, State::Swapped { .. }) {
        desk.step();
    }
    desk.step();
    desk.t += 3600;
    assert_eq!((desk.machine.next(desk.now()), desk.state()), (Action::Save, &State::Deleting));
    for _ in 0..3 {
        desk.tell(Event::ServingRefused);
    }
    desk.tell(Event::Saved);
    assert_eq!(desk.machine.next(desk.now()), Action::Save);
    assert!(matches!(desk.state(), State::Verifying { .. }));
}

#[test]
fn a_clock_that_was_set_back_makes_no_pause_longer_than_an_hour() {
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a")]);
    desk.creates("b");
    desk.works(3);
    while !matches!(desk.saved.state, State::Swapped { .. }) {
        desk.step();
    }
    desk.tell(Event::Swapped);
    desk.t -= 10 * 86_400;
    let Action::Wait(until) = desk.machine.next(desk.now()) else { panic!() };
    assert!(until.as_second() <= desk.t + 3600);
    // The grace begins again, and ends.
    let t = desk.t;
    assert_eq!(desk.next(), Action::Verify(Which::New));
    assert!(desk.t >= t + 3600 && desk.t <= t + 2 * 3600);
}

#[test]
fn ids_and_names_of_the_vendor_are_shown_without_what_a_terminal_obeys() {
    let mut desk = Desk::begun(Some("a"));
    desk.lists(&[entry("a"), entry("f\u{1b}[2J\n")]);
    let problem = desk.parks();
    assert!(problem.why.ends_with("others made f[2J"), "{:?}", problem.why);
}
