//! The last of many things, numbered, for whoever looks at them now and then.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps the last `most`; each that comes has a number of its own, from 1.
#[derive(Debug)]
pub struct Ring<T> {
    most: usize,
    kept: Mutex<Kept<T>>,
}

#[derive(Debug)]
struct Kept<T> {
    number: u64,
    /// The oldest first.
    last: VecDeque<(u64, Arc<T>)>,
}

impl<T> Ring<T> {
    pub const fn new(most: usize) -> Self {
        Self { most, kept: Mutex::new(Kept { number: 0, last: VecDeque::new() }) }
    }

    /// Adds one; the oldest goes where there are too many.
    pub fn push(&self, one: T) {
        self.push_for(|_| false, |_| one);
    }

    /// Adds what `make` makes of the one that it takes the place of, if there is such a one.
    pub fn push_for(&self, same: impl Fn(&T) -> bool, make: impl FnOnce(Option<&T>) -> T) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.last.iter().rposition(|(_, one)| same(one)).and_then(|at| kept.last.remove(at));
        let one = Arc::new(make(before.as_ref().map(|(_, one)| &**one)));
        if kept.last.len() >= self.most {
            kept.last.pop_front();
        }
        kept.number += 1;
        let number = kept.number;
        kept.last.push_back((number, one));
    }

    /// Those that came after that number, the oldest first, each with its own.
    pub fn since(&self, number: u64) -> Vec<(u64, Arc<T>)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let from = kept.last.partition_point(|(of, _)| *of <= number);
        kept.last.range(from..).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_stay_and_one_that_comes_again_takes_its_own_place() {
        let ring = Ring::new(3);
        let kept = |number| ring.since(number).iter().map(|(number, one)| (*number, **one)).collect::<Vec<_>>();
        (10..15).for_each(|one| ring.push(one));
        assert_eq!(kept(0), [(3, 12), (4, 13), (5, 14)]);
        ring.push_for(|one| *one == 13, |one| one.unwrap() + 100);
        assert_eq!(kept(0), [(3, 12), (5, 14), (6, 113)]);
        ring.push_for(|one| *one == 7, |one| if one.is_none() { 7 } else { 8 });
        assert_eq!((kept(5), kept(7)), (vec![(6, 113), (7, 7)], vec![]));
    }
}
