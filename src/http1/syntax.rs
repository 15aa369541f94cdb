//! What the characters of a message are, and how many there may be. Pure.

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub bytes: usize,
    pub fields: usize,
}

/// Digits alone (RFC 9110 §8.6), not more than can be counted.
pub fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0, |sum: u64, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

/// A character of a name or method (RFC 9110 §5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may stand nowhere in a head but where a line ends.
pub fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// Sixteen bytes at a time, which compilers make a few instructions of.
pub fn first_control(bytes: &[u8]) -> Option<usize> {
    let clean = |block: &&[u8]| !block.iter().fold(false, |any, byte| any | is_control(*byte));
    let skipped = bytes.chunks_exact(16).take_while(clean).count() * 16;
    bytes[skipped..].iter().position(|byte| is_control(*byte)).map(|at| skipped + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_character_is_found_wherever_it_stands() {
        for at in 0..70 {
            let mut bytes = vec![b'x'; 70];
            assert_eq!(first_control(&bytes), None);
            bytes[at] = 0x1f;
            assert_eq!(first_control(&bytes), Some(at));
        }
    }
}
