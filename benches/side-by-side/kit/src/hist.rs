//! A histogram of nanoseconds: 64 steps an octave, so within 1.6 %.

pub struct Hist {
    slots: Vec<u64>,
    count: u64,
    max: u64,
}

impl Hist {
    pub fn new() -> Hist {
        Hist { slots: vec![0; 64 * 64], count: 0, max: 0 }
    }

    pub fn add(&mut self, ns: u64) {
        self.slots[Self::slot(ns)] += 1;
        self.count += 1;
        self.max = self.max.max(ns);
    }

    fn slot(ns: u64) -> usize {
        if ns < 64 {
            return ns as usize;
        }
        let octave = 63 - ns.leading_zeros() as usize;
        (octave - 5) * 64 + ((ns >> (octave - 6)) & 63) as usize
    }

    fn value(slot: usize) -> u64 {
        if slot < 64 {
            return slot as u64;
        }
        let octave = slot / 64 + 5;
        (1u64 << octave) + (((slot % 64) as u64) << (octave - 6)) + (1u64 << (octave - 6)) / 2
    }

    /// A quantile, in microseconds.
    pub fn us(&self, quantile: f64) -> f64 {
        let want = ((self.count as f64) * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (slot, n) in self.slots.iter().enumerate() {
            seen += n;
            if seen >= want {
                return Self::value(slot).min(self.max) as f64 / 1000.0;
            }
        }
        self.max as f64 / 1000.0
    }
}
