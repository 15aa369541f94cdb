//! The fields of a message, where they lie in its bytes.

use std::ops::Range;

/// A part of the bytes of a head. A head is much shorter than 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The fields of a head, in the order in which they came, names in lower case, values without blanks around them.
#[derive(Debug, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    lines: Vec<(Span, Span)>,
    /// The [`mark`]s of all names: most names that are asked for are not there.
    marks: u64,
}

/// One bit of a name.
const fn mark(name: &[u8]) -> u64 {
    match name {
        [] => 0,
        [first, ..] => 1 << ((name.len() + 7 * *first as usize) % 64),
    }
}

impl Fields {
    pub(super) fn new(mut bytes: Vec<u8>, lines: Vec<(Span, Span)>) -> Self {
        let mut marks = 0;
        for (name, _) in &lines {
            let name = &mut bytes[name.range()];
            name.make_ascii_lowercase();
            marks |= mark(name);
        }
        Self { bytes, lines, marks }
    }

    /// The part of the head that is there, and what came behind it.
    pub(super) fn slice(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// What came behind the first so many bytes.
    pub(super) fn behind(&self, head: usize) -> &[u8] {
        self.bytes.get(head..).unwrap_or_default()
    }

    /// Bytes of the head that they are of.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|(name, value)| (&self.bytes[name.range()], &self.bytes[value.range()]))
    }

    /// The values of a field, whose name is given in lower case.
    #[inline]
    pub fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f [u8]> + Clone {
        let absent = self.marks & mark(name.as_bytes()) == 0;
        let lines = if absent { &[] } else { &self.lines[..] };
        let named = lines.iter().filter(move |line| self.bytes[line.0.range()] == *name.as_bytes());
        named.map(|line| &self.bytes[line.1.range()])
    }

    /// The first value of a field.
    pub fn get<'f>(&'f self, name: &'f str) -> Option<&'f [u8]> {
        self.all(name).next()
    }

    /// The same where it is text of visible ASCII characters and blanks.
    pub fn text<'f>(&'f self, name: &'f str) -> Option<&'f str> {
        text(self.get(name)?)
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The members of a list, such as `Connection`, whichever lines they stand in.
    pub fn members<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f [u8]> + Clone {
        self.all(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    /// Does a list have that member, whatever its case?
    pub fn lists(&self, name: &str, member: &str) -> bool {
        self.members(name).any(|one| one.eq_ignore_ascii_case(member.as_bytes()))
    }

    /// Adds one, whose name is in lower case. Of a request: behind an answer's head is its body.
    pub(super) fn push(&mut self, name: &str, value: &str) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name.as_bytes());
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value.as_bytes());
        self.lines.push((Span::new(start, middle), Span::new(middle, self.bytes.len())));
        self.marks |= mark(name.as_bytes());
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let bytes = &self.bytes;
        self.lines.retain(|(name, value)| keep(&bytes[name.range()], &bytes[value.range()]));
    }
}

/// Visible ASCII characters and blanks.
pub(super) fn text(value: &[u8]) -> Option<&str> {
    let visible = value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    std::str::from_utf8(value).ok().filter(|_| visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let (mut bytes, mut spans) = (b"first line".to_vec(), Vec::new());
        for (name, value) in lines {
            let at = bytes.len();
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(value.as_bytes());
            let middle = at + name.len();
            spans.push((Span::new(at, middle), Span::new(middle, bytes.len())));
        }
        Fields::new(bytes, spans)
    }

    #[test]
    fn names_are_found_whatever_their_case_and_lists_wherever_they_stand() {
        let mut fields =
            fields(&[("Connection", "a, ,Close\t,"), ("X-A", "One"), ("CONNECTION", "b"), ("x-a", "\u{e4}")]);
        assert_eq!(fields.all("x-a").collect::<Vec<_>>(), [&b"One"[..], "\u{e4}".as_bytes()]);
        assert_eq!((fields.get("x-a"), fields.get("x"), fields.has("connection")), (Some(&b"One"[..]), None, true));
        assert_eq!(fields.members("connection").collect::<Vec<_>>(), [&b"a"[..], b"", b"Close", b"", b"b"]);
        assert!(fields.lists("connection", "close") && fields.lists("connection", "B"));
        assert!(!fields.lists("connection", "clos") && !fields.lists("x-b", ""));
        assert_eq!(fields.text("x-a"), Some("One"));
        fields.retain(|name, value| name != b"connection" && value != b"One");
        assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"x-a"[..], "\u{e4}".as_bytes())]);
        assert_eq!(fields.text("x-a"), None, "it is no text");
        fields.push("x-new", "value");
        assert_eq!(fields.text("x-new"), Some("value"));
        assert_eq!((text(b" ~\t"), text(b"\x7f"), text(b"")), (Some(" ~\t"), None, Some("")));
    }
}
