//! HTTP/1.1 as it is on the wire (RFC 9112): heads, where bodies end, and connections that carry them.
//!
//! What comes in is held against the RFC to the letter before anything is done with it, so that there is one reading of it:
//! ours. What goes out is written anew, byte for byte by us. Nothing is kept for a connection over which nothing moves.

mod body;
mod chunks;
mod client;
mod connection;
mod fields;
mod head;
mod out;
mod pipe;
mod request;
mod response;
mod syntax;
mod write;

pub use body::{Body, Cut};
pub use client::{After, Answers, Came, Client, Place};
pub use connection::{Connection, Timer};
pub use fields::Fields;
pub use head::Head;
pub use out::Out;
pub use request::Request;
pub use response::Response;
pub use syntax::Bounds;
pub use write::{date, write_connection, write_field, write_status};
