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
    TOKEN[byte as usize]
}

const TOKEN: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < 256 {
        let known = matches!(byte as u8, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        table[byte] = known || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    table
};

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
    fn the_characters_of_a_token_are_those_of_its_rfc() {
        let marks = b"!#$%&'*+-.^_`|~";
        for byte in 0..=255_u8 {
            assert_eq!(is_token(byte), byte.is_ascii_alphanumeric() || marks.contains(&byte), "{byte}");
        }
    }

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
