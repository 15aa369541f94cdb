//! A chunked body (RFC 9112 §7.1), taken apart without keeping any of it. Extensions and trailers are read over. Pure.

use super::syntax::{is_control, is_token};

/// Extensions and trailers of one body, in bytes; nothing is done with them.
const EXTRA_MAX: usize = 16 * 1024;
/// Hexadecimal digits of a size; more could only be zeros.
const DIGITS_MAX: u8 = 16;

/// A chunked body as far as it has passed.
#[derive(Debug, Clone)]
pub struct Chunks {
    at: At,
    /// Digits of the size and blanks behind it so far.
    digits: u8,
    /// The size, then what is left of the chunk.
    left: u64,
    extra: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size,
    /// Blanks behind the size: some clients fill up its place.
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A trailer field or the empty line at the end.
    Trailer,
    Name,
    Value,
    ValueLf,
    EndLf,
    End,
    /// Nothing that can follow is right.
    Broken,
}

impl Chunks {
    pub fn new() -> Self {
        Self { at: At::Size, digits: 0, left: 0, extra: 0 }
    }

    pub fn ended(&self) -> bool {
        self.at == At::End
    }

    /// How many of these bytes belong to the body; `data` gets those that are its data. `Err`: so many are fine, and what
    /// follows them is not.
    pub fn pass(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, usize> {
        let mut passed = 0;
        while passed < bytes.len() && self.at != At::End {
            if self.at == At::Data {
                let part = self.left.min((bytes.len() - passed) as u64);
                self.left -= part;
                // No more than there is in `bytes`.
                let end = passed + part as usize;
                data(&bytes[passed..end]);
                passed = end;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            let Some(next) = self.step(bytes[passed]) else {
                // Security: whoever looks again finds the same.
                self.at = At::Broken;
                return Err(passed);
            };
            self.at = next;
            passed += 1;
        }
        Ok(passed)
    }

    fn step(&mut self, byte: u8) -> Option<At> {
        let next = match (self.at, byte) {
            (At::Size, byte) if byte.is_ascii_hexdigit() && self.digits < DIGITS_MAX => {
                self.digits += 1;
                self.left = self.left << 4 | u64::from(char::from(byte).to_digit(16)?);
                return Some(At::Size);
            }
            (At::Size, _) if self.digits == 0 => return None,
            (At::Size | At::Blank, b' ' | b'\t') => {
                self.digits = self.digits.checked_add(1)?;
                return Some(At::Blank);
            }
            (At::Size | At::Blank, b';') => At::Extension,
            (At::Size | At::Blank | At::Extension, b'\r') => return Some(At::SizeLf),
            (At::Extension, byte) if !is_control(byte) => At::Extension,
            (At::SizeLf, b'\n') => {
                self.digits = 0;
                return Some(if self.left == 0 { At::Trailer } else { At::Data });
            }
            (At::DataCr, b'\r') => return Some(At::DataLf),
            (At::DataLf, b'\n') => return Some(At::Size),
            (At::Trailer, b'\r') => return Some(At::EndLf),
            (At::Trailer | At::Name, byte) if is_token(byte) => At::Name,
            (At::Name, b':') => At::Value,
            (At::Value, b'\r') => At::ValueLf,
            (At::Value, byte) if !is_control(byte) => At::Value,
            (At::ValueLf, b'\n') => At::Trailer,
            (At::EndLf, b'\n') => return Some(At::End),
            _ => return None,
        };
        self.extra += 1;
        (self.extra <= EXTRA_MAX).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a body, `None` if it is refused; given in pieces of that size.
    fn length(bytes: &[u8], piece: usize) -> Option<usize> {
        let mut chunks = Chunks::new();
        let mut total = 0;
        for part in bytes.chunks(piece) {
            total += chunks.pass(part, |_| {}).ok()?;
            if chunks.ended() {
                break;
            }
        }
        chunks.ended().then_some(total)
    }

    #[test]
    fn a_body_ends_where_its_last_chunk_or_trailer_does() {
        let next = b"GET / HTTP/1.1\r\n";
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "00000005\r\nhello\r\n000\r\n\r\n",
            "a;x=1;y=\"2\"\r\n0123456789\r\n0;z\r\n\r\n",
            "5  \r\nhello\r\n0 ;a\r\nX-Sum: 1\r\nY:\r\n\r\n",
            "2\r\n\r\n\r\n0\r\n\r\n",
        ] {
            let bytes = [body.as_bytes(), next].concat();
            for piece in [1, 2, 3, 1000] {
                assert_eq!(length(&bytes, piece), Some(body.len()), "{body:?}");
            }
        }
    }

    #[test]
    fn what_another_server_might_read_in_another_way_is_refused() {
        let zeros = format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(16));
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(EXTRA_MAX));
        let often = format!("{}0\r\n\r\n", "1;x\r\na\r\n".repeat(EXTRA_MAX / 2 + 1));
        for body in [
            "\r\n",
            " 5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "-1\r\n",
            "5_\r\n",
            "5h\r\n",
            ";a\r\n",
            "5 5\r\nhello\r\n",
            "5\nhello\r\n",
            "5;a\nhello\r\n",
            "5;\r5\r\n",
            "5\r\nhelloXX",
            "5\r\nhello\n",
            "5\r\nhello0\r\n",
            "0\n\r\n",
            "0\r\n\n",
            "0\r\nX\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "0\r\nX: a\nY: b\r\n\r\n",
            "0\r\n X: a\r\n\r\n",
            "0\r\nX : a\r\n\r\n",
            "0\r\n\rX",
            &zeros,
            &long,
            &often,
        ] {
            for piece in [1, 3, 100_000] {
                assert_eq!(length(body.as_bytes(), piece), None, "{body:.40?}");
            }
        }
    }

    #[test]
    fn what_is_broken_stays_broken_even_if_it_is_read_once_more() {
        for broken in ["5\r\nhello\r\n5g", "1\r\nx\r\n1;\n", "0\r\nA: b\r\nA \r\n", "1\r\nx\r\n0\n"] {
            let mut chunks = Chunks::new();
            let fine = chunks.pass(broken.as_bytes(), |_| {}).unwrap_err();
            assert_eq!(chunks.pass(broken.as_bytes(), |_| {}), Err(0), "{broken:?}");
            assert_eq!(chunks.pass(&broken.as_bytes()[fine + 1..], |_| {}).unwrap_or(0), 0, "{broken:?}");
            assert_eq!(chunks.pass(b"\r\n0\r\n\r\n", |_| {}), Err(0), "{broken:?}");
            assert!(!chunks.ended());
        }
    }
}
