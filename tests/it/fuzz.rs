#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

use fastrand::Rng;
use targets::TARGETS;

use crate::support::size;

/// The committed corpus of a target, by file name.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let files = std::fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
    let files = files.map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect();
    files.sort();
    assert!(files.len() >= 20, "{name}: {}", files.len());
    files
}

#[track_caller]
fn keeps_its_promises(target: fn(&[u8]), data: &[u8], what: &str) {
    let kept = std::panic::catch_unwind(|| target(data));
    assert!(kept.is_ok(), "{what}: {}", data.escape_ascii());
}

/// What the fuzzers began with, and what they found.
#[test]
fn the_corpus_of_the_fuzzers_keeps_every_promise() {
    for (name, target) in TARGETS {
        for (file, data) in corpus(name) {
            keeps_its_promises(target, &data, &file);
        }
    }
}

/// Changes a few bytes, and takes over a piece of another input.
fn mutate(rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=data.len());
        let end = (at + rng.usize(..9)).min(data.len());
        match rng.u8(..6) {
            0 => data.insert(at, rng.u8(..)),
            1 => drop(data.drain(at..end)),
            2 => data[at..end].fill(rng.u8(..)),
            3 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece.repeat(rng.usize(1..20)));
            }
            4 => {
                let words: [&[u8]; 12] = [
                    b"\r",
                    b"\n",
                    b"%2e",
                    b"%2f",
                    b"\\",
                    b"/../",
                    b"..;",
                    b"null",
                    b"9223372036854775807",
                    b"-1",
                    b"_",
                    b"\"",
                ];
                let word = words[rng.usize(..words.len())];
                data.splice(at..end, word.iter().copied());
            }
            _ if other.is_empty() => {}
            _ => {
                let from = rng.usize(..other.len());
                let to = (from + rng.usize(..40)).min(other.len());
                data.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
}

#[test]
fn what_is_near_the_corpus_keeps_every_promise_too() {
    let mut rng = Rng::with_seed(size("SEED", 1) as u64);
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        for _ in 0..size("NEAR", 100) {
            let [one, other] = [rng.usize(..corpus.len()), rng.usize(..corpus.len())];
            let mut data = corpus[one].1.clone();
            mutate(&mut rng, &mut data, &corpus[other].1);
            keeps_its_promises(target, &data, name);
        }
    }
}
