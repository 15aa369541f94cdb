//! Where the body of a message ends, and how it is passed on: read as far as the other side takes it, never collected.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::chunks::Chunks;
use super::connection::Connection;
use super::out::Out;
use crate::connect::Stream;

/// What is read of a body at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// What is worth a pipe, in bytes.
const PIPED: u64 = 32 * 1024;

/// What is still to come of a body.
#[derive(Clone, Debug)]
pub enum Body {
    Done,
    Length(u64),
    Chunked(Chunks),
    /// To the end of the connection.
    UntilClose,
}

/// Why a body cannot be read on.
#[derive(Debug)]
pub enum Cut {
    Io(io::Error),
    /// The connection ended before the body did.
    Early,
    /// The chunks are not as they must be.
    Broken,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Early => f.write_str("the connection ended before it did"),
            Self::Broken => f.write_str("its chunks are broken"),
        }
    }
}

impl Body {
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How long it is, where that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Length(length) => Some(*length),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes what of these bytes belongs to the body: how many they are. `data` gets the body's own.
    pub fn take(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, Cut> {
        match self {
            Self::Done => Ok(0),
            Self::UntilClose => {
                data(bytes);
                Ok(bytes.len())
            }
            Self::Length(left) => {
                // No more than there is in `bytes`.
                let part = (*left).min(bytes.len() as u64) as usize;
                data(&bytes[..part]);
                self.shrink(part);
                Ok(part)
            }
            Self::Chunked(chunks) => {
                let passed = chunks.pass(bytes, data).map_err(|_| Cut::Broken)?;
                if chunks.ended() {
                    *self = Self::Done;
                }
                Ok(passed)
            }
        }
    }

    /// So many bytes of it came.
    fn shrink(&mut self, part: usize) {
        if let Self::Length(left) = self {
            *left -= part as u64;
            if *left == 0 {
                *self = Self::Done;
            }
        }
    }

    /// The connection that it comes over has ended: was that its end?
    fn ends_here(&mut self) -> bool {
        let ends = matches!(self, Self::Done | Self::UntilClose);
        if ends {
            *self = Self::Done;
        }
        ends
    }
}

impl Body {
    /// Reads its next piece into `out` once that is empty; as a chunk if it is passed on chunked. `tap` sees its data. What needs
    /// no change goes straight `to` where it is sent, behind what is in `out`, and only what is not taken there into `out`; what
    /// nobody has to see, within the kernel if it can.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Connection,
        to: Option<&mut Stream>,
        out: &mut Out,
        chunked: bool,
        mut tap: Option<impl FnMut(&[u8])>,
    ) -> Poll<Result<(), Cut>> {
        if out.is_closed() {
            return Poll::Ready(Ok(()));
        }
        if let (Self::Length(left), false, Some(to), []) = (&*self, chunked, to, from.received()) {
            let worth = *left >= PIPED && tap.is_none();
            let piped = if worth { ready!(out.poll_pipe(cx, &from.stream, to, *left)) } else { 0 };
            let read = match piped {
                0 => ready!(poll_pass(cx, &mut from.stream, *left, to, out, tap))?,
                piped => piped,
            };
            self.shrink(read);
            return Poll::Ready(Ok(()));
        }
        while out.is_empty() && !self.is_done() {
            if !from.received().is_empty() {
                let taken = self.take(from.received(), |data| {
                    if let Some(tap) = &mut tap {
                        tap(data);
                    }
                    out.push(data, chunked);
                });
                from.used(taken?);
            } else if ready!(from.poll_more(cx, PIECE)).map_err(Cut::Io)? == 0 && !self.ends_here() {
                return Poll::Ready(Err(Cut::Early));
            }
            if self.is_done() && chunked {
                out.end();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads up to `most` bytes and writes them; what is not taken goes into `out`. Not part of others: its frame is large.
#[inline(never)]
fn poll_pass(
    cx: &mut Context<'_>,
    from: &mut Stream,
    most: u64,
    to: &mut Stream,
    out: &mut Out,
    tap: Option<impl FnMut(&[u8])>,
) -> Poll<Result<usize, Cut>> {
    // Always the same memory, as long as this thread passes bodies on: it stays in the cache. No more than a piece.
    let mut scratch = [MaybeUninit::uninit(); PIECE];
    let mut buf = ReadBuf::uninit(&mut scratch[..most.min(PIECE as u64) as usize]);
    ready!(Pin::new(from).poll_read(cx, &mut buf)).map_err(Cut::Io)?;
    let data = buf.filled();
    if data.is_empty() {
        return Poll::Ready(Err(Cut::Early));
    }
    if let Some(mut tap) = tap {
        tap(data);
    }
    out.pass(cx, to, data);
    Poll::Ready(Ok(data.len()))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::connect::Socket;
    use crate::http1::out::hexadecimal;

    /// What a body takes of these bytes, its data, and whether it is done.
    fn taken(mut body: Body, bytes: &[u8]) -> (Option<usize>, Vec<u8>, bool) {
        let mut data = Vec::new();
        let taken = body.take(bytes, |part| data.extend_from_slice(part)).ok();
        (taken, data, body.is_done())
    }

    #[test]
    fn a_body_takes_what_is_its_own_and_leaves_the_rest() {
        assert_eq!(taken(Body::Done, b"GET"), (Some(0), vec![], true));
        assert_eq!(taken(Body::Length(5), b"helloGET"), (Some(5), b"hello".to_vec(), true));
        assert_eq!(taken(Body::Length(u64::MAX), b"hello"), (Some(5), b"hello".to_vec(), false));
        let chunked = || Body::Chunked(Chunks::new());
        assert_eq!(taken(chunked(), b"1;a\r\nx\r\n2\r\nyz\r\n0\r\n\r\nGET"), (Some(20), b"xyz".to_vec(), true));
        assert_eq!(taken(chunked(), b"5\r\nhel"), (Some(6), b"hel".to_vec(), false));
        assert_eq!(taken(chunked(), b"1\r\nxGET").0, None);
    }

    #[test]
    fn what_is_written_in_chunks_is_read_as_the_same() {
        let (mut out, mut all) = (Out::default(), Vec::new());
        for size in [1, 9, 0, 10, 15, 16, 17, 255, 256, 4096, 65_535, 65_536, 1_000_000] {
            let data = vec![size as u8; size];
            out.push(&data, true);
            all.extend_from_slice(&data);
        }
        out.end();
        assert!(taken(Body::Chunked(Chunks::new()), &out.bytes) == (Some(out.bytes.len()), all, true));
        assert_eq!(hexadecimal(usize::MAX, &mut [0; 16]), b"ffffffffffffffff");
    }

    /// What a body of these bytes, which come in pieces of that size before the connection ends, is passed on as.
    async fn passed(mut body: Body, bytes: &[u8], piece: usize, chunked: bool) -> Result<Vec<u8>, String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut from = Connection::new(Stream::Plain(Socket::Unix(ours)));
        let sending = async move {
            for part in bytes.chunks(piece) {
                theirs.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (mut passed, mut tapped) = (Vec::new(), 0);
        let reading = async {
            while !body.is_done() {
                let mut out = Out::default();
                let mut tap = |data: &[u8]| tapped += data.len();
                let read = poll_fn(|cx| body.poll_next(cx, &mut from, None, &mut out, chunked, Some(&mut tap)));
                read.await.map_err(|cut| cut.to_string())?;
                passed.append(&mut out.bytes);
            }
            Ok(())
        };
        let read: Result<(), String> = tokio::join!(sending, reading).1;
        read.map(|()| passed).inspect(|passed| assert!(chunked || tapped == passed.len()))
    }

    #[tokio::test]
    async fn a_body_is_passed_on_with_a_new_framing_and_nothing_of_what_follows() {
        let chunks = b"5;a\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n";
        for piece in [1, 3, 1000] {
            let plain = passed(Body::Chunked(Chunks::new()), chunks, piece, false).await;
            assert_eq!(plain, Ok(b"hello world".to_vec()), "{piece}");
            let again = passed(Body::Chunked(Chunks::new()), chunks, piece, true).await.unwrap();
            let expected = (Some(again.len()), b"hello world".to_vec(), true);
            assert_eq!(taken(Body::Chunked(Chunks::new()), &again), expected, "{piece}");
            let plain = passed(Body::Length(5), b"helloGET", piece, false).await;
            assert_eq!(plain, Ok(b"hello".to_vec()), "{piece}");
            assert_eq!(passed(Body::UntilClose, b"hello", piece, false).await, Ok(b"hello".to_vec()), "{piece}");
            let again = passed(Body::UntilClose, b"hello", piece, true).await.unwrap();
            assert_eq!(taken(Body::Chunked(Chunks::new()), &again).1, b"hello", "{piece}");
        }
        assert_eq!(passed(Body::UntilClose, b"", 1, true).await, Ok(b"0\r\n\r\n".to_vec()));
    }

    #[tokio::test]
    async fn a_body_whose_connection_ends_before_it_is_cut() {
        let chunks = b"5\r\nhello\r\n0\r\n\r\n";
        for chunked in [false, true] {
            for cut in 0..chunks.len() {
                let cut = passed(Body::Chunked(Chunks::new()), &chunks[..cut], 4, chunked).await;
                assert_eq!(cut, Err(Cut::Early.to_string()));
            }
            assert_eq!(passed(Body::Length(6), b"hello", 2, chunked).await, Err(Cut::Early.to_string()));
            let broken = passed(Body::Chunked(Chunks::new()), b"5\r\nhelloworld", 100, chunked).await;
            assert_eq!(broken, Err(Cut::Broken.to_string()));
        }
    }
}
