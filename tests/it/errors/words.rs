//! Nobody adds a message that nobody has read.
